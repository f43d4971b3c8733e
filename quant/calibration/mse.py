"""The range with the least mean squared error, for scales that need not be powers of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quant.calibration.histogram import HALF_BINS, Histogram
from quant.calibration.range_search import Errors, Floats, search_range
from quant.calibration.statistics import TensorStatistics
from quant.qparams import Grid, QuantParams, quant_params, weight_params

Range = tuple[np.float32, np.float32]

_INNER_BINS = 128
"""Bins on either side of zero that are used as they are; beyond, 64 to each doubling of the magnitude."""

_BLOCK = 1 << 15
"""Elements that are rounded at a time, so that the temporaries stay in the processor's cache."""

_CHANNEL_BLOCK = 1 << 21
"""Elements of the channels that are copied, where need be, and searched at a time."""

_SHORT_ROW = 64
"""Channels of fewer elements are laid side by side, to be rounded together."""

_CONTIGUOUS_ROWS = 2048
"""Channels side by side in one block."""


def mse_range(statistics: TensorStatistics, symmetric: bool, levels: int) -> Range:
    """The range whose grid rounds and clips the histogram's values with the least squared error.

    A grid has `levels` steps of width s over the range (extended to contain zero) and an integer zero
    point. Values are taken as spread evenly over their bin, so that grids finer than the bins
    are judged as well. With u = x / s, n = clip(round(u)) and densities d_i between the edges x_i:

        error = sum d_i int (x - s n)^2 dx = s^3 sum d_i (G(u_(i+1)) - G(u_i)),
        G(u) = n / 12 + (u - n)^3 / 3

    Args:
        statistics: With a histogram.
        symmetric: The range is [-t, t] and the zero point in its middle.
        levels: Steps of the grid.

    Returns:
        [-t, t], or a range within the extremes.
    """
    histogram, low, high = statistics.histogram, statistics.low, statistics.high
    assert histogram is not None
    if not histogram.total or not max(abs(low), abs(high)):
        return low, high
    edges, counts = _merged_bins(histogram, float(low), float(high))
    errors = _histogram_errors(edges, counts, symmetric, levels)
    extremes = np.array([[low], [high]], dtype=np.float64)
    (best_low,), (best_high,) = search_range(extremes[0], extremes[1], symmetric, errors)
    if symmetric:
        return np.float32(best_low), np.float32(best_high)
    return max(np.float32(best_low), low), min(np.float32(best_high), high)


def _merged_bins(histogram: Histogram, low: float, high: float) -> tuple[Floats, NDArray[np.int64]]:
    """Edges, shape (n + 1,), and counts, shape (n,): bins are wider further out, and end with the values."""
    steps = [np.arange(_INNER_BINS)]
    while (start := _INNER_BINS << (len(steps) - 1)) < HALF_BINS:
        steps.append(np.arange(start, 2 * start, 2 * start // _INNER_BINS))
    half = np.concatenate(steps)
    starts = HALF_BINS + np.concatenate([[-HALF_BINS], -half[:0:-1], half])
    counts = np.add.reduceat(histogram.counts, starts)
    used = np.flatnonzero(counts)
    first, last = used[0], used[-1] + 1
    edges = np.ldexp(np.append(starts, 2 * HALF_BINS) - float(HALF_BINS), histogram.exponent)[
        first : last + 1
    ]
    thin = histogram.width / 16  # a bin of no width would have no density
    edges[0] = min(max(edges[0], low), edges[1] - thin)
    edges[-1] = max(min(edges[-1], high), edges[-2] + thin)
    return edges, counts[first:last]


def _histogram_errors(edges: Floats, counts: NDArray[np.int64], symmetric: bool, levels: int) -> Errors:
    """Sums of squared errors by `mse_range`'s formula, for one channel."""
    density = counts / np.diff(edges)
    weights = -np.diff(density, prepend=0.0, append=0.0)  # of G at each edge, by parts

    def errors(low: Floats, high: Floats) -> Floats:
        scale = np.maximum((high - low)[0] / levels, np.finfo(np.float64).tiny)
        zero = np.full_like(scale, round(levels / 2)) if symmetric else np.rint(-low[0] / scale)
        u = edges / scale[:, None]
        n = np.clip(np.rint(u), -zero[:, None], levels - zero[:, None])
        u -= n
        integral = n / 12 + u * u * u / 3
        result: Floats = (scale**3 * (integral @ weights))[None]
        return result

    return errors


def mse_weight_params(weight: NDArray[np.floating], grid: Grid, axis: int | None) -> QuantParams:
    """Parameters of a constant, for each channel along `axis`, with the least squared error found.

    Never worse than those of the extremes (`weight_params`). Rounding is that of `quantize`, in
    float32; integers saturate as in `weight_bounds`.

    Args:
        weight: float32 or float16.
        grid: What to quantize to; for powers of two use `min_mse_weight_params`.
        axis: Channel axis, or None for one scale.
    """
    if weight.size == 0:
        return weight_params(weight, grid, axis)
    ranges = [_rows_range(rows, grid) for rows in _channel_blocks(weight, axis)]
    low, high = (np.concatenate(bounds).astype(np.float32) for bounds in zip(*ranges, strict=True))
    if axis is None:
        low, high = low.reshape(()), high.reshape(())
    return quant_params(low, high, grid, axis)


def weight_bounds(grid: Grid) -> tuple[int, int]:
    """Where integers of a constant saturate: the type's ends, or the reduced range's."""
    return grid.bounds if grid.reduce_range else (grid.type.qmin, grid.type.qmax)


def _channel_blocks(weight: NDArray[np.floating], axis: int | None) -> Iterator[NDArray[np.float32]]:
    """Rows of a few channels at a time, shape (channels, n), in the order of memory that is fast to scan."""
    if axis is None:
        yield weight.reshape(1, -1).astype(np.float32, copy=False)
        return
    channels = np.moveaxis(weight, axis, 0)
    step = max(1, _CHANNEL_BLOCK * len(channels) // weight.size)
    for start in range(0, len(channels), step):
        block = channels[start : start + step]
        rows = block.reshape(len(block), -1)
        if rows.shape[1] < _SHORT_ROW:
            rows = np.asfortranarray(rows)
        yield rows.astype(np.float32, copy=False)


def _rows_range(rows: NDArray[np.float32], grid: Grid) -> tuple[Floats, Floats]:
    """The best range of every row, shape (channels,)."""
    qmin, qmax = weight_bounds(grid)

    def errors(low: Floats, high: Floats) -> Floats:
        params = quant_params(
            low.astype(np.float32).reshape(-1), high.astype(np.float32).reshape(-1), grid, axis=0
        )
        scale = params.scale.reshape(low.shape)
        zero = params.zero_point.astype(np.float32).reshape(low.shape)
        return _squared_errors(rows, scale, qmin - zero, qmax - zero)

    low, high = (bound.astype(np.float64) for bound in (rows.min(axis=1), rows.max(axis=1)))
    return search_range(low, high, grid.symmetric, errors)


def _squared_errors(
    rows: NDArray[np.float32],
    scale: NDArray[np.float32],
    least: NDArray[np.float32],
    greatest: NDArray[np.float32],
) -> Floats:
    """Sums over each row of (x - s clip(round(x / s), least, greatest))^2, for several candidates.

    Args:
        rows: Shape (channels, n).
        scale, least, greatest: Shape (channels, candidates).

    Returns:
        Shape (channels, candidates), float64; sums of a block are float32.
    """
    errors = np.zeros(scale.shape)
    down, across = _block_shape(rows)
    for top in range(0, len(rows), down):
        own = slice(top, top + down)
        for left in range(0, rows.shape[1], across):
            block = rows[own, left : left + across]
            scaled, rounded = np.empty_like(block), np.empty_like(block)
            for index in range(scale.shape[1]):
                column = np.s_[own, index : index + 1]
                np.divide(block, scale[column], out=scaled)
                np.rint(scaled, out=rounded)
                np.maximum(rounded, least[column], out=rounded)
                np.minimum(rounded, greatest[column], out=rounded)
                rounded -= scaled
                rounded *= rounded
                errors[own, index] += rounded.sum(axis=1)
    return errors * scale.astype(np.float64) ** 2


def _block_shape(rows: NDArray[np.float32]) -> tuple[int, int]:
    """Rows and columns of a block, long in the direction in which memory runs."""
    if rows.flags.c_contiguous:
        across = min(rows.shape[1], _BLOCK)
        return _BLOCK // across, across
    down = min(rows.shape[0], _CONTIGUOUS_ROWS)
    return down, max(1, _BLOCK // down)
