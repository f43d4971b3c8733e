"""Mean magnitudes, the scales of binary and ternary formats, and the same in ONNX's text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quant.formats.contract import F32, as_float32

_LARGEST = np.finfo(np.float32).max


def by_rows(x: F32, per_row: bool, function: Callable[[F32], F32]) -> F32:
    """Applies a function of matrices whose rows have a scale each.

    Args:
        x: float32 of any shape; the first axis becomes the rows, the others the columns.
        per_row: Else, and with fewer than two axes, everything is a single row.
        function: Of finite numbers and NaN; keeps the shape.
    """
    if x.size == 0:
        return x.copy()
    rows = x.reshape(row_count(x, per_row), -1)
    return function(np.clip(rows, -_LARGEST, _LARGEST)).reshape(x.shape)


def row_count(x: F32, per_row: bool) -> int:
    """How many scales there are."""
    return x.shape[0] if per_row and x.ndim > 1 else 1


def mean_magnitudes(rows: F32, among: NDArray[np.bool_] | None = None) -> F32:
    """Mean of the magnitudes in each row, (rows, 1), float32 from sums in float64.

    Args:
        rows: (rows, columns).
        among: The elements that count; None = all. Rows without any have a mean of 0.
    """
    magnitudes = np.abs(rows)
    if among is None:
        return as_float32(magnitudes.mean(axis=1, keepdims=True, dtype=np.float64))
    total = magnitudes.sum(axis=1, keepdims=True, dtype=np.float64, where=among)
    count = among.sum(axis=1, keepdims=True)
    return as_float32(total / np.maximum(count, 1))


def per_output(scale: F32, groups: int) -> F32:
    """A scale for each row, or one for all -> broadcastable to (groups, rows / groups, columns)."""
    return scale.reshape(groups if scale.size > 1 else 1, -1, 1)


ROWS = """
    per_row = Constant <value_int: int = @per_row> ()
    one = Constant <value_ints = [1]> ()
    minus_one = Constant <value_ints = [-1]> ()
    zero_index = Constant <value_ints = [0]> ()
    zero = Constant <value_float = 0.0> ()
    axis = Constant <value_ints = [1]> ()
    shape = Shape (x)
    rank = Shape (shape)
    is_matrix = Greater (rank, one)
    wants_rows = Equal (per_row, one)
    has_rows = And (is_matrix, wants_rows)
    padded_shape = Concat <axis = 0> (shape, one)
    first = Gather (padded_shape, zero_index)
    row_count = Where (has_rows, first, one)
    row_shape = Concat <axis = 0> (row_count, minus_one)
    any_rows = Reshape (x, row_shape)
    float_max = Constant <value_float = 3.4028234663852886e38> ()
    float_min = Neg (float_max)
    rows = Clip (any_rows, float_min, float_max)
    magnitudes = Abs (rows)
    magnitudes_64 = Cast <to = 11> (magnitudes)
    mean_64 = ReduceMean <keepdims = 1> (magnitudes_64, axis)
    mean = Cast <to = 1> (mean_64)
"""
"""x -> rows, magnitudes and mean, with the attribute per_row."""
