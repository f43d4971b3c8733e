"""The formats' rules written out for lists of Python numbers: fractions and searches, no NumPy.

A tensor is a list of rows; what a row or a tile shares is computed from its numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

Row = list[float]
Rows = list[Row]

FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127


def floor_log2(x: float) -> int:
    return math.frexp(x)[1] - 1


def ceil_log2(x: float) -> int:
    mantissa, exponent = math.frexp(x)
    return exponent - 1 if mantissa == 0.5 else exponent


def round_log2(x: float) -> int:
    """No ties: the square root of 2 is irrational."""
    floor = floor_log2(x)
    return floor + 1 if Fraction(x) ** 2 > Fraction(2) ** (2 * floor + 1) else floor


def clip(x: Any, low: Any, high: Any) -> Any:
    return min(max(x, low), high)


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def sign(x: float) -> int:
    return -1 if x < 0 else 1


def scaled_code(x: float, unit: Fraction, low: int, high: int) -> float:
    """unit · clip(round(x / unit), low, high); Python rounds fractions half to even."""
    return float(clip(round(Fraction(x) / unit), low, high) * unit)


def nearest(x: float, table: Sequence[Fraction]) -> float:
    """Of magnitudes in the order of their codes: the nearest, ties to the even code, saturated."""
    exact = abs(Fraction(x))
    above = min(bisect_left(table, exact), len(table) - 1)
    below = max(above - 1, 0)
    down, up = exact - table[below], table[above] - exact
    code = above if up < down or (up == down and above % 2 == 0) else below
    return sign(x) * float(table[code])


@lru_cache(maxsize=64)
def minifloat_table(exponent_bits: int, mantissa_bits: int, bias: int) -> tuple[Fraction, ...]:
    """(max(e, 1) exponent, hidden bit where e > 0) for all codes."""
    return tuple(
        power(max(e, 1) - bias) * ((e > 0) + Fraction(m, 1 << mantissa_bits))
        for e in range(1 << exponent_bits)
        for m in range(1 << mantissa_bits)
    )


def integer(x: float, width: int, frac_width: int, is_signed: bool = True) -> float:
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if is_signed else (0, (1 << width) - 1)
    return scaled_code(x, power(-frac_width), low, high)


def minifloat_ieee(x: float, width: int, exponent_width: int, exponent_bias: int) -> float:
    return nearest(x, minifloat_table(exponent_width, width - exponent_width - 1, exponent_bias))


def minifloat_denorm(x: float, width: int, exponent_width: int, exponent_bias: int) -> float:
    if x == 0:
        return 0.0
    mantissa_bits = width - exponent_width - 1
    e = clip(ceil_log2(abs(x)), -exponent_bias, (1 << exponent_width) - 1 - exponent_bias)
    unit = power(e - mantissa_bits)
    return sign(x) * scaled_code(abs(x), unit, 0, (1 << mantissa_bits) - 1)


def log(x: float, width: int, exponent_bias: int) -> float:
    low, high = -exponent_bias, (1 << (width - 1)) - 1 - exponent_bias
    e = low if x == 0 else clip(round_log2(abs(x)), low, high)
    return sign(x) * 2.0**e


def block_fp(tile: Row, width: int, exponent_width: int, exponent_bias: int) -> Row:
    largest = max(map(abs, tile))
    low, high = -exponent_bias, (1 << exponent_width) - 1 - exponent_bias
    e = clip(ceil_log2(largest), low, high) if largest else low
    m = width - 1
    return [sign(x) * scaled_code(abs(x), power(e - m), 0, (1 << m) - 1) for x in tile]


def block_minifloat(tile: Row, width: int, exponent_width: int, exponent_bias_width: int) -> Row:
    largest = Fraction(max(map(abs, tile)))
    mantissa_bits = width - exponent_width - 1
    covering = [
        bias
        for bias in range(1 << exponent_bias_width)
        if largest <= power((1 << exponent_width) - 1 - bias) * (2 - power(-mantissa_bits))
    ]
    bias = max(covering, default=0)
    return [nearest(x, minifloat_table(exponent_width, mantissa_bits, bias)) for x in tile]


def block_log(tile: Row, width: int, exponent_bias_width: int) -> Row:
    largest = max(map(abs, tile))
    most = (1 << exponent_bias_width) - 1
    bias = clip((1 << (width - 1)) - 1 - ceil_log2(largest), 0, most) if largest else most
    return [log(x, width, bias) for x in tile]


def mxint(tile: Row, width: int, scale_bits: int = 8) -> Row:
    largest, limit = max(map(abs, tile)), (1 << (scale_bits - 1)) - 1
    e = clip(floor_log2(largest), -limit, limit) if largest else -limit
    most = (1 << (width - 1)) - 1
    return [scaled_code(x, power(e - width + 2), -most, most) for x in tile]


MX_ELEMENTS = {(4, 3): (7, 448), (5, 2): (15, 57344), (2, 3): (1, 7.5), (3, 2): (3, 28), (2, 1): (1, 6)}
"""Bias and greatest number of the OCP Microscaling elements (v1.0, tables 1 to 5)."""


def mxfp(tile: Row, exponent_width: int, frac_width: int) -> Row:
    bias, greatest = MX_ELEMENTS[exponent_width, frac_width]
    table = [v for v in minifloat_table(exponent_width, frac_width, bias) if v <= Fraction(greatest)]
    largest = max(map(abs, tile))
    e = clip(floor_log2(largest) - floor_log2(greatest), -127, 127) if largest else -127
    scale = power(e)
    return [float(Fraction(nearest(float(Fraction(x) / scale), table)) * scale) for x in tile]


def mean(numbers: Iterable[float]) -> float:
    listed = list(numbers)
    return math.fsum(listed) / len(listed) if listed else 0.0


def scaled_binary(row: Row) -> Row:
    scale = mean(map(abs, row))
    return [scale if x >= 0 else -scale for x in row]


def binary_residual(row: Row, levels: int) -> Row:
    total, rest = [0.0] * len(row), list(row)
    for _ in range(levels):
        scale = mean(map(abs, rest))
        steps = [scale if r >= 0 else -scale for r in rest]
        total = [t + s for t, s in zip(total, steps, strict=True)]
        rest = [r - s for r, s in zip(rest, steps, strict=True)]
    return total


def ternary(row: Row, scaling_factor: bool = True) -> Row:
    threshold = 0.75 * mean(map(abs, row))
    scale = mean(abs(x) for x in row if abs(x) > threshold) if scaling_factor else 1.0
    return [sign(x) * scale if abs(x) > threshold else 0.0 for x in row]


def in_tiles(rows: Rows, height: int, width: int, function: Callable[[Row], Row]) -> Rows:
    """Applies a function of one tile's numbers to all tiles of a matrix."""
    result = [list(row) for row in rows]
    for top in range(0, len(rows), height):
        for left in range(0, len(rows[0]), width):
            places = [
                (i, j)
                for i in range(top, min(top + height, len(rows)))
                for j in range(left, min(left + width, len(rows[0])))
            ]
            rounded = function([rows[i][j] for i, j in places])
            for (i, j), value in zip(places, rounded, strict=True):
                result[i][j] = value
    return result


def tile_shape(parameters: Mapping[str, Any], default: int) -> tuple[int, int]:
    """Height and width of a block_size."""
    block = [1, *parameters.get("block_size", [default])]
    return block[-2], block[-1]
