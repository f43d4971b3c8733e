"""Powers of two with a sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
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

NEAREST_POWER = f"""
    root_two = Constant <value_float = {ROOT_TWO!r}> ()
    phi = Constant <value_float = {functions.PHI}> ()
    minus_near_one = Constant <value_float = -0.99999994> ()
    raised = Mul (inside, root_two)
    large = Mul (raised, phi)
    less = Mul (large, minus_near_one)
    nearest = Add (large, less)
"""
"""inside -> nearest: the power of two of the nearest exponent; of normal numbers below 2^104."""

WIDE_NEAREST_POWER = f"""
    root_two = Constant <value = double {{{ROOT_TWO!r}}}> ()
    phi = Constant <value = double {{4503599627370497.0}}> ()
    minus_near_one = Constant <value = double {{-0.9999999999999999}}> ()
    inside_64 = Cast <to = 11> (inside)
    raised = Mul (inside_64, root_two)
    large = Mul (raised, phi)
    less = Mul (large, minus_near_one)
    nearest_64 = Add (large, less)
    nearest = Cast <to = 1> (nearest_64)
"""
"""The same of all of float32's numbers."""


def _body(nearest_power: str) -> str:
    return f"""<least: float, greatest: float> (x) => (y)
{{
{functions.constants(least="float", greatest="float")}
    absolute = Abs (x)
    inside = Clip (absolute, least, greatest)
{nearest_power}
    bounded = Clip (nearest, least, greatest)
{functions.SIGN.format(source="x")}
    y = Mul (bounded, sign)
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

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        least, greatest = self._bounds
        attributes = (("least", least), ("greatest", greatest))
        if least >= 2.0**LEAST_EXPONENT and greatest < 2.0**100:
            return Emulation("Log", _body(NEAREST_POWER), attributes)
        return Emulation("WideLog", _body(WIDE_NEAREST_POWER), attributes)

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
