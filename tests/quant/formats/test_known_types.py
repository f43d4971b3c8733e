"""Formats against the types of `ml_dtypes` and NumPy that they equal."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quant.formats.mxfp import ELEMENTS
from tests.quant.formats.cases import Case, case, values

RANGE = np.float32(-448), np.float32(448)


def every_number(dtype: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """All finite values of a type, the middles between neighbours, and what is next to those."""
    dtype = np.dtype(dtype)
    codes = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
    numbers = codes.view(dtype).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    middles = ((numbers[1:].astype(np.float64) + numbers[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([numbers, middles, *beside])


@pytest.mark.parametrize(
    ("own", "dtype"),
    [
        (case("bfloat16"), ml_dtypes.bfloat16),
        (case("float16"), np.float16),
        (case("minifloat_ieee", width=16, exponent_width=5), np.float16),
        (case("minifloat_ieee", width=16, exponent_width=8), ml_dtypes.bfloat16),
        (case("minifloat_ieee", width=8, exponent_width=5), ml_dtypes.float8_e5m2),
        (case("minifloat_ieee", width=8, exponent_width=4), ml_dtypes.float8_e4m3),
        (case("minifloat_ieee", width=8, exponent_width=3), ml_dtypes.float8_e3m4),
        (case("minifloat_ieee", width=6, exponent_width=3), ml_dtypes.float6_e3m2fn),
        (case("minifloat_ieee", width=6, exponent_width=2), ml_dtypes.float6_e2m3fn),
        (case("minifloat_ieee", width=4, exponent_width=2), ml_dtypes.float4_e2m1fn),
    ],
    ids=str,
)
def test_floats(own: Case, dtype: Any) -> None:
    x = np.concatenate([every_number(dtype), values(2000, exponents=(-140, 120))])
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    x = x[np.abs(x) <= largest]  # beyond, there is a code for infinity or one more binade
    expected = x.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(own.of("weight").round(x), expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float8e4m3fn", ml_dtypes.float8_e4m3fn), ("float8e5m2", ml_dtypes.float8_e5m2)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_float8(name: str, dtype: Any) -> None:
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    own = case(name).of("weight").bound(-largest, largest)  # a scale of 1
    x = np.concatenate([every_number(dtype), values(2000), np.float32([1e9, -1e9])])
    expected = np.clip(x, -largest, largest).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(own.round(x), expected)


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [
        ((4, 3), ml_dtypes.float8_e4m3fn),
        ((5, 2), ml_dtypes.float8_e5m2),
        ((2, 3), ml_dtypes.float6_e2m3fn),
        ((3, 2), ml_dtypes.float6_e3m2fn),
        ((2, 1), ml_dtypes.float4_e2m1fn),
    ],
    ids=str,
)
def test_microscaling_elements(bits: tuple[int, int], dtype: Any) -> None:
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    x = np.concatenate([every_number(dtype), values(2000), [1e9, -1e9]]).astype(np.float32)
    expected = np.clip(x, -largest, largest).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(ELEMENTS[bits].round(x), expected)
    exponent_width, frac_width = bits
    block = np.append(x[np.abs(x) <= largest][:31], largest)  # a scale of 1
    own = case("mxfp", exponent_width=exponent_width, frac_width=frac_width).format
    np.testing.assert_array_equal(own.round(block), block.astype(dtype).astype(np.float32))


def test_microscaling_scales_are_e8m0() -> None:
    x = values(40, 32, exponents=(-100, 100))
    x[np.abs(x) > 1e36] = 0
    x[~x.any(axis=1), 0] = 1
    floor = np.abs(x).max(axis=1, keepdims=True)
    mantissa, exponent = np.frexp(floor)
    scale = np.ldexp(mantissa * 0 + 1, exponent - 1 - 8).astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    with np.errstate(over="ignore"):
        elements = np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    got = case("mxfp", exponent_width=4, frac_width=3).format.round(x)
    np.testing.assert_array_equal(got, elements * scale)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", [2, 4])
def test_small_integers(bits: int, signed: bool) -> None:
    dtype = getattr(ml_dtypes, f"{'' if signed else 'u'}int{bits}")
    info = ml_dtypes.iinfo(dtype)
    x = values(1000, exponents=(-4, 6))
    x = x[np.abs(x) < 1e4]
    expected = np.clip(np.rint(x), info.min, info.max).astype(dtype).astype(np.float32)
    own = case("integer", width=bits, frac_width=0, is_signed=signed).format
    np.testing.assert_array_equal(own.round(x), expected)
