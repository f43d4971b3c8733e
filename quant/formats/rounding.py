"""Rounding float32 numbers to fewer mantissa bits, by exponents read from their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.errors import ConfigError
from quant.formats.contract import F32

Floats = NDArray[Any]
"""float32 or float64."""

FLOAT32_MANTISSA = 23
LEAST_EXPONENT, GREATEST_EXPONENT = -126, 127
"""Of float32's normal numbers."""

LEAST_SUBNORMAL = -149
"""Exponent of float32's spacing at zero."""

_MASKS: dict[Any, tuple[Any, Any]] = {
    np.dtype(np.float32): (np.int32, np.int32(0x7F800000)),
    np.dtype(np.float64): (np.int64, np.int64(0x7FF0000000000000)),
}


def leading_power(x: Floats) -> Floats:
    """2^floor(log2 abs x), exact, of the type of `x`; 0 for zero and subnormals, infinity for NaN."""
    integer, mask = _MASKS[x.dtype]
    power: Floats = (x.view(integer) & mask).view(x.dtype)
    return power


def ceiling_power(x: Floats) -> Floats:
    """2^ceil(log2 abs x), exact, of the type of `x`; 0 for zero, the least normal for subnormals."""
    integer, mask = _MASKS[x.dtype]
    mantissa = (mask & -mask) - 1
    power: Floats = ((np.abs(x).view(integer) + mantissa) & mask).view(x.dtype)
    return power


def power_of_two(exponent: int) -> np.float32:
    """2^exponent; 0 below float32's subnormals."""
    return np.float32(2.0**exponent)


def greatest_code(bits: int) -> int:
    """2^bits − 1, or from 25 bits on the greatest float32 that is not above."""
    return (1 << bits) - (1 << max(0, bits - FLOAT32_MANTISSA - 1))


@dataclass(frozen=True)
class FloatShape:
    """Floating-point numbers with subnormal ones and without codes for infinity and NaN.

    The numbers of float32 are few enough that more than its 23 mantissa bits, and spacings below its
    own, make no difference; they are left out here.

    Attributes:
        mantissa_bits: Behind the leading one, which subnormal numbers lack.
        least_exponent: Of normal numbers.
        largest: The greatest number.
    """

    mantissa_bits: int
    least_exponent: int
    largest: float

    @property
    def least_spacing(self) -> float:
        """Distance of the numbers around zero."""
        return 2.0 ** max(self.least_exponent - self.mantissa_bits, LEAST_SUBNORMAL)

    @property
    def is_wide(self) -> bool:
        """Whether exponents need float64 where they come from sums and products (`leading_power_of`)."""
        return self.largest >= 2.0**100

    def round(self, x: F32) -> F32:
        """Nearest, ties to even (with no mantissa bits: to the greater magnitude), saturated.

        NaN stays NaN.
        """
        limit = np.float32(self.largest)
        rounded = np.clip(x, -limit, limit)
        ulp = np.maximum(leading_power(rounded), power_of_two(self.least_exponent))
        ulp *= power_of_two(-self.mantissa_bits)
        rounded /= ulp
        np.rint(rounded, out=rounded)
        rounded *= ulp
        return rounded


def float_shape(mantissa_bits: int, least_exponent: int, greatest_exponent: int) -> FloatShape:
    """Numbers up to (2 − 2^-mantissa_bits) 2^greatest_exponent, as far as float32 has them."""
    surplus = max(0, mantissa_bits - FLOAT32_MANTISSA)
    mantissa_bits -= surplus
    least_exponent = max(least_exponent - surplus, LEAST_EXPONENT)
    largest = (2 - 2.0**-mantissa_bits) * 2.0 ** min(greatest_exponent, GREATEST_EXPONENT)
    return FloatShape(mantissa_bits, least_exponent, largest)


def check_range(least_exponent: int, greatest_exponent: int) -> None:
    """Refuses a format whose numbers lie outside float32's.

    Raises:
        ConfigError: With the remedy.
    """
    if greatest_exponent < -62 or least_exponent > GREATEST_EXPONENT:
        raise ConfigError(
            f"exponent_bias puts the numbers between 2^{least_exponent} and 2^{greatest_exponent};"
            " choose one that gives exponents around 0 (the default does)"
        )


def check_widths(width: int, exponent_width: int, mantissa_bits: int) -> None:
    """Refuses widths that leave fewer than so many mantissa bits beside the sign.

    Raises:
        ConfigError: With the least width.
    """
    least = exponent_width + 1 + mantissa_bits
    if width < least:
        raise ConfigError(
            f"width {width} is too little for exponent_width {exponent_width}; take {least} or more"
        )
