"""16-bit floating-point types: Cast there and back, without parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats.contract import F32, Emulation, Format, KnownShape, Native
from quant.formats.grids import FloatGrid
from quant.formats.parameters import Family
from quant.formats.rounding import FloatShape
from quant.types import ELEMENT_TYPES, ElementType, Encoding

_BODY = """<limit: float, to: int> (x) => (y)
{
    high = Constant <value_float: float = @limit> ()
    low = Neg (high)
    inside = Clip (x, low, high)
    narrow = Cast <to: int = @to> (inside)
    y = Cast <to = 1> (narrow)
}"""

_SHAPES = {Encoding.FLOAT16: (10, -14), Encoding.BFLOAT16: (7, -126)}
"""Mantissa bits and exponent of the least normal number."""


@dataclass(frozen=True)
class HalfFloat(Format):
    """float16 or bfloat16: nearest, ties to even, saturated at the greatest finite number.

    Attributes:
        element: The type.
    """

    element: ElementType

    @property
    def name(self) -> str:
        return self.element.ir.name.lower()

    @property
    def _shape(self) -> FloatShape:
        return FloatShape(*_SHAPES[self.element.encoding], float(self.element.qmax))

    def _round_array(self, x: F32) -> F32:
        return self._shape.round(x)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.element.bits

    def native(self, *, packed: bool = True) -> Native | None:
        """Cast; for activations `emulation` saturates where a bare Cast gives infinity."""
        return Native(self.element, None)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        attributes = (("limit", self._shape.largest), ("to", int(self.element.ir)))
        return Emulation("HalfFloat", _BODY, attributes)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        return FloatGrid(np.ones((1, 1, 1), np.float32), self._shape)


def _family(element: ElementType) -> Family:
    name = element.ir.name.lower()
    return Family(name, f"ONNX's {element.ir.name} by Cast", (), lambda role: HalfFloat(element))


HALF_FLOATS = tuple(_family(element) for element in ELEMENT_TYPES.values() if element.encoding.is_cast)
