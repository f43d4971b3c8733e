"""Rounding float32 numbers to fewer mantissa bits, by exponents read from their bits."""

from __future__ import annotations

import numpy as np

from quant.formats.contract import F32

_EXPONENT = np.int32(0x7F800000)


def leading_power(x: F32) -> F32:
    """2^floor(log2 abs x), exact; 0 for zero and float32's subnormals, infinity for NaN."""
    return (x.view(np.int32) & _EXPONENT).view(np.float32)


def round_to_float(x: F32, mantissa_bits: int, least_exponent: int, largest: float) -> F32:
    """The nearest floating-point number with so few bits, ties to even; saturates, NaN stays NaN.

    Args:
        x: float32.
        mantissa_bits: Behind the leading one, which subnormal numbers lack.
        least_exponent: Of normal numbers, −126 or more.
        largest: The greatest number.
    """
    limit = np.float32(largest)
    rounded = np.clip(x, -limit, limit)
    ulp = np.maximum(leading_power(rounded), np.ldexp(np.float32(1), least_exponent))
    ulp *= np.ldexp(np.float32(1), -mantissa_bits)
    rounded /= ulp
    np.rint(rounded, out=rounded)
    rounded *= ulp
    return rounded
