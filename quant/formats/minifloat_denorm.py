"""Small floating-point numbers without a hidden bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, as_float32
from quant.formats.grids import DenormGrid
from quant.formats.minifloat_ieee import EXPONENT_BIAS, EXPONENT_WIDTH, WIDTH
from quant.formats.parameters import Family
from quant.formats.rounding import (
    LEAST_SUBNORMAL,
    FloatShape,
    ceiling_power,
    check_range,
    check_widths,
)

_BODY = f"""<least: float, greatest: float, unit: float, limit: float, code: float> (x) => (y)
{{
{functions.constants(least="float", greatest="float", unit="float", limit="float", code="float")}
    absolute = Abs (x)
    limited = Min (absolute, limit)
    magnitude = Cast <to = 11> (limited)
{functions.HALF_CEILING_POWER}
{functions.BOUND_POWER}
{functions.SPACING}
    steps = Div (limited, ulp)
    whole = Round (steps)
    bounded = Min (whole, code)
    rounded = Mul (bounded, ulp)
    sign = Sign (x)
    y = Mul (rounded, sign)
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
        ulp = self._spacing(x)
        rounded: F32 = np.minimum(np.abs(x), np.float32(self._greatest))
        rounded /= ulp
        np.rint(rounded, out=rounded)
        np.minimum(rounded, self._code, out=rounded)
        rounded *= ulp
        return as_float32(np.copysign(rounded, x))

    def _spacing(self, x: F32) -> F32:
        least, greatest = (2.0**exponent for exponent in self._exponents)
        unit = 2.0**-self._mantissa_bits
        real = np.float64 if self.exponent_bias > 125 or greatest > 2.0**127 else np.float32
        shared = np.clip(ceiling_power(x.astype(real, copy=False)), real(least), real(greatest))
        shared *= real(unit)
        return as_float32(np.maximum(shared, real(2.0**LEAST_SUBNORMAL)))

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.width

    def emulation(self) -> Emulation:
        least, greatest = self._exponents
        attributes = (
            ("least", 2.0 ** (least - 1)),
            ("greatest", 2.0 ** (min(greatest, 128) - 1)),
            ("unit", 2.0 ** (1 - self._mantissa_bits)),
            ("limit", self._greatest),
            ("code", float(self._code)),
        )
        return Emulation("MinifloatDenorm", _BODY, attributes)

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
