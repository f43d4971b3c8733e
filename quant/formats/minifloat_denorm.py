"""Small floating-point numbers without a hidden bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import DenormGrid
from quant.formats.minifloat_ieee import EXPONENT_BIAS, EXPONENT_WIDTH, WIDTH
from quant.formats.parameters import Family
from quant.formats.rounding import (
    LEAST_EXPONENT,
    LEAST_SUBNORMAL,
    FloatShape,
    ceiling_power,
    check_range,
    check_widths,
)

_CONSTANTS = "lowest", "limit", "unit", "least", "greatest", "least_code", "code"

_POWER = f"""
    minus_near_one = Constant <value_float = -0.99999994> ()
    phi = Constant <value_float = {functions.PHI}> ()
    minus_below = Mul (finite, minus_near_one)
    large = Mul (minus_below, phi)
    less = Mul (large, minus_near_one)
    minus_power = Add (large, less)
    power = Neg (minus_power)
"""
"""`functions.HALF_CEILING_POWER` by the number below, of normal numbers below 2^104."""


def _body(half_ceiling_power: str) -> str:
    return f"""<{", ".join(f"{name}: float" for name in _CONSTANTS)}> (x) => (y)
{{
{functions.constants(**dict.fromkeys(_CONSTANTS, "float"))}
    inside = Clip (x, lowest, limit)
    finite = Abs (inside)
{half_ceiling_power}
{functions.SHARED_SPACING}
    steps = Div (inside, scale)
    whole = Round (steps)
    bounded = Clip (whole, least_code, code)
    y = Mul (bounded, scale)
}}"""


@dataclass(frozen=True)
class MinifloatDenorm(Format):
    """q = sign(x) 2^e k / 2^M with e = clip(ceil(log2 abs x), −b, 2^E − 1 − b) and 0 <= k < 2^M.

    k = round(abs x / 2^e 2^M), at most 2^M − 1: 2^e itself, and what is nearest to it, becomes the
    number below, so that a few numbers round to their neighbours.

    Attributes:
        width: w bits: sign, exponent and M = w − E − 1 >= 1 mantissa bits.
        exponent_width: E.
        exponent_bias: b.
    """

    width: int
    exponent_width: int
    exponent_bias: int

    def __post_init__(self) -> None:
        check_widths(self.width, self.exponent_width, mantissa_bits=1)
        check_range(*self._exponents)

    @property
    def name(self) -> str:
        return "minifloat_denorm"

    @property
    def _exponents(self) -> tuple[int, int]:
        return -self.exponent_bias, (1 << self.exponent_width) - 1 - self.exponent_bias

    @property
    def _mantissa_bits(self) -> int:
        return self.width - self.exponent_width - 1

    @property
    def _greatest(self) -> float:
        """2^(2^E − 1 − b), or float32's greatest."""
        return min(2.0 ** self._exponents[1], float(np.finfo(np.float32).max))

    @property
    def _code(self) -> np.float32:
        """2^M − 1 in float32, which from 25 bits on is 2^M: float32 has no number between."""
        return np.float32(2.0**self._mantissa_bits - 1)

    def _round_array(self, x: F32) -> F32:
        rounded: F32 = np.minimum(np.abs(x), np.float32(self._greatest))
        ulp = self._spacing(rounded)
        rounded /= ulp
        np.rint(rounded, out=rounded)
        np.minimum(rounded, self._code, out=rounded)
        rounded *= ulp
        return as_float32(np.copysign(rounded, x))

    def _spacing(self, magnitudes: F32) -> F32:
        least, greatest = (2.0 ** min(exponent, 128) for exponent in self._exponents)
        unit = 2.0**-self._mantissa_bits
        real = np.float64 if self.exponent_bias > 125 or greatest > 2.0**127 else np.float32
        shared = np.clip(ceiling_power(magnitudes.astype(real, copy=False)), real(least), real(greatest))
        shared *= real(unit)
        return as_float32(np.maximum(shared, real(2.0**LEAST_SUBNORMAL)))

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.width

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        least, greatest = (2.0 ** (min(exponent, 128) - 1) for exponent in self._exponents)
        unit, code = 2.0 ** (1 - self._mantissa_bits), float(self._code)
        bounds = max(least * unit, 2.0**LEAST_SUBNORMAL), greatest * unit
        values = (-self._greatest, self._greatest, unit, *bounds, -code, code)
        attributes = tuple(zip(_CONSTANTS, values, strict=True))
        if self._exponents[0] > LEAST_EXPONENT and self._exponents[1] < 100:
            return Emulation("MinifloatDenorm", _body(_POWER), attributes)
        return Emulation("WideMinifloatDenorm", _body(functions.HALF_CEILING_POWER), attributes)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        least, greatest = self._exponents
        largest = min(float(self._code) * 2.0 ** (greatest - self._mantissa_bits), self._greatest)
        shape = FloatShape(self._mantissa_bits - 1, least - 1, largest)
        return DenormGrid(np.ones((1, 1, 1), np.float32), shape, self._greatest, float(self._code))


MINIFLOAT_DENORM = Family(
    "minifloat_denorm",
    "floating-point numbers without a hidden bit",
    (WIDTH, EXPONENT_WIDTH, EXPONENT_BIAS),
    lambda role, **parameters: MinifloatDenorm(**parameters),
)
