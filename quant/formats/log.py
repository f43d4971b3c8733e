"""Powers of two with a sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, as_float32
from quant.formats.grids import ROOT_TWO, PowerGrid
from quant.formats.parameters import Derived, Family, Parameter
from quant.formats.rounding import (
    GREATEST_EXPONENT,
    LEAST_EXPONENT,
    LEAST_SUBNORMAL,
    Floats,
    check_range,
    leading_power,
    power_of_two,
)

BODY = f"""<least: float, greatest: float> (x) => (y)
{{
{functions.constants(least="float", greatest="float")}
    absolute = Abs (x)
    inside = Clip (absolute, least, greatest)
    inside_64 = Cast <to = 11> (inside)
    root_two_32 = Constant <value_float = {ROOT_TWO!r}> ()
    root_two = Cast <to = 11> (root_two_32)
    magnitude = Mul (inside_64, root_two)
{functions.FLOOR_POWER}
    nearest = Cast <to = 1> (power)
    bounded = Clip (nearest, least, greatest)
    zero = Constant <value_float = 0.0> ()
    negative = Less (x, zero)
    minus = Neg (bounded)
    y = Where (negative, minus, bounded)
}}"""


@dataclass(frozen=True)
class Log(Format):
    """q = sign(x) 2^e, e = clip(round(log2 abs x), −b, 2^(w−1) − 1 − b). No zero: 0 becomes +2^-b.

    There are no ties: log2 abs x is never halfway between integers.

    Attributes:
        width: w bits: sign and exponent.
        exponent_bias: b.
    """

    width: int
    exponent_bias: int

    def __post_init__(self) -> None:
        check_range(-self.exponent_bias, self._greatest_exponent)

    @property
    def name(self) -> str:
        return "log"

    @property
    def _greatest_exponent(self) -> int:
        return (1 << (self.width - 1)) - 1 - self.exponent_bias

    @property
    def _bounds(self) -> tuple[float, float]:
        """Least and greatest magnitude; the least is 0 where it is too small for float32."""
        return float(power_of_two(-self.exponent_bias)), 2.0 ** min(
            self._greatest_exponent, GREATEST_EXPONENT
        )

    def _round_array(self, x: F32) -> F32:
        least, greatest = self._bounds
        return nearest_powers(x, np.float32(least), np.float32(greatest))

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.width

    def emulation(self) -> Emulation:
        least, greatest = self._bounds
        return Emulation("Log", BODY, (("least", least), ("greatest", greatest)))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        least, greatest = (np.full((1, 1, 1), bound, np.float32) for bound in self._bounds)
        return PowerGrid(least, greatest)


def nearest_powers(x: F32, least: F32 | np.float32, greatest: F32 | np.float32) -> F32:
    """sign(x) times the power of two of the nearest exponent, between two powers; zero is positive.

    Args:
        x: float32.
        least: Powers of two, or 0; broadcastable.
        greatest: Powers of two, at most 2^127.
    """
    has_subnormals = bool(np.min(least) < 2.0**LEAST_EXPONENT)
    real = np.float64 if has_subnormals else np.float32  # the exponents of all its numbers are in the bits
    inside: Floats = np.clip(np.abs(x), least, greatest).astype(real, copy=False)
    np.multiply(inside, real(ROOT_TWO), out=inside)
    nearest = as_float32(np.clip(leading_power(inside), least, greatest, dtype=real))
    nearest[np.isnan(inside)] = np.nan
    return as_float32(np.copysign(nearest, x + np.float32(0)))  # −0 + 0 = 0


WIDTH = Parameter("width", int, "bits of a value: sign and exponent", low=2, high=32)

LOG = Family(
    "log",
    "powers of two with a sign; no zero",
    (
        WIDTH,
        Parameter(
            "exponent_bias",
            int,
            "what is subtracted from the exponent's code",
            Derived("2^(width - 2) - 1", lambda given: (1 << (given["width"] - 2)) - 1),
            low=LEAST_SUBNORMAL,
            high=(1 << 30) - 1,
        ),
    ),
    lambda role, **parameters: Log(**parameters),
)
