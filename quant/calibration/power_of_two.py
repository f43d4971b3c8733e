"""The power-of-two scale with the least mean squared error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.calibration.statistics import TensorStatistics
from quant.qparams import Grid, QuantParams, quant_params

_FINER = 6
"""Scales tried below the one that does not overflow: 2^-6 of the range is clipping enough."""

Candidate = tuple[NDArray[np.float64], NDArray[np.float64]]


def min_mse_params(statistics: TensorStatistics, grid: Grid) -> QuantParams:
    """Parameters for an activation, by the error on its histogram's bin centres.

    Args:
        statistics: With a histogram.
        grid: With `power_of_two`.
    """
    histogram = statistics.histogram
    assert histogram is not None
    used = np.flatnonzero(histogram.counts)
    centers = np.clip(histogram.centers[used], statistics.low, statistics.high)
    low, high = np.asarray(statistics.low), np.asarray(statistics.high)
    return _least_error(centers[None], histogram.counts[used], low, high, grid, None)


def min_mse_weight_params(weight: NDArray[np.float32], grid: Grid, axis: int | None) -> QuantParams:
    """Parameters for a constant, for each channel along `axis`, by the error on its values."""
    channels = 1 if axis is None else weight.shape[axis]
    rows = (weight if axis is None else np.moveaxis(weight, axis, 0)).reshape(channels, -1)
    if rows.size == 0:
        zeros = np.zeros(() if axis is None else (channels,), dtype=np.float32)
        return quant_params(zeros, zeros, grid, axis)
    low, high = rows.min(axis=1), rows.max(axis=1)
    if axis is None:
        low, high = low[0], high[0]
    return _least_error(rows, np.ones(1), np.asarray(low), np.asarray(high), grid, axis)


def _least_error(
    values: NDArray[np.floating],
    counts: NDArray[np.number],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    grid: Grid,
    axis: int | None,
) -> QuantParams:
    """Tries 2^k, 2^(k-1) ... from the scale that does not overflow; ties go to the coarser one.

    Args:
        values: Shape (channels, n), or (1, n) where one scale serves all.
        counts: Shape (n,) or (1,): weights of the values.
        low, high: Extremes, shape () or (channels,).
    """
    coarsest = quant_params(low, high, grid, axis)
    best_error = np.full(values.shape[0], np.inf)
    best_scale, best_zero = np.zeros(values.shape[0]), np.zeros(values.shape[0])
    for finer in range(_FINER + 1):
        scale = np.atleast_1d(coarsest.scale.astype(np.float64)) * 2.0**-finer
        for zero in _zero_points(scale, np.atleast_1d(low), np.atleast_1d(high), coarsest, grid):
            error = _squared_error(values, counts, scale, zero, grid)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, scale, best_scale)
            best_zero = np.where(better, zero, best_zero)
    shape = coarsest.scale.shape
    return QuantParams(
        best_scale.astype(np.float32).reshape(shape), best_zero.astype(grid.type.numpy).reshape(shape), axis
    )


def _zero_points(
    scale: NDArray[np.float64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    coarsest: QuantParams,
    grid: Grid,
) -> list[NDArray[np.float64]]:
    """Where a free zero point may lie: the grid covers the low end, the high end, or the middle."""
    if grid.symmetric:
        return [np.atleast_1d(coarsest.zero_point.astype(np.float64))]
    qmin, qmax = grid.bounds
    low, high = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
    at_low, at_high = qmin - low / scale, qmax - high / scale
    candidates = (at_low, at_high, (at_low + at_high) / 2)
    return [np.clip(np.rint(zero), qmin, qmax) for zero in candidates]


def _squared_error(
    values: NDArray[np.floating],
    counts: NDArray[np.number],
    scale: NDArray[np.float64],
    zero: NDArray[np.float64],
    grid: Grid,
) -> NDArray[np.float64]:
    """Sum of counts (x - x_q)^2 for each channel, shape (channels,)."""
    scale, zero = scale[:, None], zero[:, None]
    qmin, qmax = grid.type.qmin, grid.type.qmax
    rounded = (np.clip(np.rint(values / scale) + zero, qmin, qmax) - zero) * scale
    error: NDArray[np.float64] = (counts * (values - rounded) ** 2).sum(axis=1)
    return error
