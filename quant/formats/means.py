"""Mean magnitudes, the scales of binary and ternary formats, and the same in ONNX's text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quant.formats import functions
from quant.formats.contract import F32, Emulation, KnownShape, as_float32

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


_COMPUTED_AXES = """
    per_row = Constant <value_int: int = @per_row> ()
    none = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    shape = Shape (x)
    rank = Size (shape)
    last = Sub (rank, one)
    last_or_first = Max (last, none)
    first = Min (per_row, last_or_first)
    axes = Range (first, rank, one)
"""

_MEAN = """
    float_max = Constant <value_float = 3.4028234663852886e38> ()
    float_min = Constant <value_float = -3.4028234663852886e38> ()
    rows = Clip (x, float_min, float_max)
    magnitudes = Abs (rows)
    magnitudes_64 = Cast <to = 11> (magnitudes)
    mean_64 = ReduceMean <keepdims = 1> (magnitudes_64, axes)
    mean = Cast <to = 1> (mean_64)
"""


def with_means(op_type: str, result: str, per_row: bool, shape: KnownShape | None) -> Emulation:
    """A format whose scales are means of rows.

    Args:
        op_type: Of the function for a tensor whose rank is known.
        result: rows (x with the greatest numbers for infinities), magnitudes, axes (all but that of the rows)
            and mean -> y; in ONNX's text.
        per_row: As in `by_rows`.
        shape: Of the input, as far as it is known.
    """
    if not shape:
        body = f"<per_row: int> (x) => (y)\n{{\n{_COMPUTED_AXES}{_MEAN}{result}}}"
        return Emulation(f"{op_type}OfAnyRank", body, (("per_row", int(per_row)),))
    axes = tuple(range(int(per_row and len(shape) > 1), len(shape)))
    body = f"<axes: ints> (x) => (y)\n{{\n{functions.constants(axes='ints')}{_MEAN}{result}}}"
    return Emulation(op_type, body, (("axes", axes),))
