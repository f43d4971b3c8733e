"""Fixed-point numbers: integers of any width times a power of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid, UniformGrid
from quant.formats.contract import F32, Emulation, Format, KnownShape, Native
from quant.formats.parameters import Derived, Family, Parameter
from quant.qparams import QuantParams
from quant.types import INTEGER_TYPES, ElementType

_BODY = """<scale: float, low: float, high: float> (x) => (y)
{
    scale = Constant <value_float: float = @scale> ()
    low = Constant <value_float: float = @low> ()
    high = Constant <value_float: float = @high> ()
    steps = Div (x, scale)
    whole = Round (steps)
    code = Clip (whole, low, high)
    y = Mul (code, scale)
}"""


@dataclass(frozen=True)
class Integer(Format):
    """q = clip(round(x 2^f), low, high) 2^-f with low, high = −2^(w−1), 2^(w−1) − 1, unsigned 0, 2^w − 1.

    In float32: from 25 bits on, `high` is the greatest float32 that is not above.

    Attributes:
        width: w, 1 to 32 bits.
        frac_width: f, binary digits behind the point; may be negative and may exceed the width.
        is_signed: Two's complement.
    """

    width: int
    frac_width: int
    is_signed: bool = True

    @property
    def name(self) -> str:
        return "integer"

    @property
    def scale(self) -> np.float32:
        """2^-f."""
        return np.float32(2.0**-self.frac_width)

    @property
    def codes(self) -> tuple[int, int]:
        """Least and greatest integer, exact in float32."""
        magnitude_bits = self.width - 1 if self.is_signed else self.width
        high = (1 << magnitude_bits) - 1
        high -= high % (1 << max(0, magnitude_bits - 24))
        return (-(1 << magnitude_bits) if self.is_signed else 0), high

    def _round_array(self, x: F32) -> F32:
        low, high = self.codes
        codes: F32 = np.rint(x / self.scale)
        np.clip(codes, np.float32(low), np.float32(high), out=codes)
        codes *= self.scale
        return codes

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.width

    def native(self, *, packed: bool = True) -> Native | None:
        element = self._element(2 if packed else 8)
        if element is None:
            return None
        low, high = (float(code * self.scale) for code in self.codes)
        params = QuantParams(np.asarray(self.scale), np.zeros((), element.numpy))
        return Native(element, params, None if element.bits == self.width else (low, high))

    def _element(self, least_bits: int) -> ElementType | None:
        """The narrowest type that has all codes."""
        fitting = [
            element
            for element in INTEGER_TYPES.values()
            if element.signed == self.is_signed and element.bits >= max(self.width, least_bits)
        ]
        return min(fitting, key=lambda element: element.bits, default=None)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        low, high = self.codes
        attributes = (("scale", float(self.scale)), ("low", float(low)), ("high", float(high)))
        return Emulation("Integer", _BODY, attributes)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = np.full((1, 1, 1), self.scale, np.float32)
        return UniformGrid(scale, np.zeros((1, 1, 1), np.float32), *self.codes)


def _make(role: str, *, width: int, frac_width: int, is_signed: bool) -> Format:
    return Integer(width, frac_width, is_signed)


INTEGER = Family(
    "integer",
    "fixed-point numbers",
    (
        Parameter("width", int, "bits of a value", low=1, high=32),
        Parameter(
            "frac_width",
            int,
            "binary digits behind the point",
            Derived("width // 2", lambda given: given["width"] // 2),
            low=-64,
            high=64,
        ),
        Parameter("is_signed", bool, "two's complement; else from 0", True),
    ),
    _make,
)
