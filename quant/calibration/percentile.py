"""Ranges that keep a percentage of the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from quant.calibration.statistics import TensorStatistics

Range = tuple[np.float32, np.float32]


def percentile_range(statistics: TensorStatistics, percentile: float, symmetric: bool) -> Range:
    """The range that keeps `percentile` per cent of the values, never beyond the extremes.

    Symmetric: [-t, t] with t the percentile of |x|. Otherwise (100 - percentile) / 2 per cent are
    cut at either end. Thresholds are lower edges of histogram bins, as in onnxruntime.

    Args:
        statistics: With a histogram.
        percentile: In (50, 100].
        symmetric: Which of the two.
    """
    histogram = statistics.histogram
    assert histogram is not None
    if not histogram.total or percentile == 100:
        return statistics.low, statistics.high
    if symmetric:
        counts = histogram.absolute()
        reached = np.searchsorted(np.cumsum(counts), percentile / 100 * histogram.total)
        threshold = float(np.ldexp(float(reached), histogram.exponent))
        low, high = -threshold, threshold
    else:
        cumulative = np.cumsum(histogram.counts)
        cut = (100 - percentile) / 200 * histogram.total
        edges = histogram.edges
        low = edges[np.searchsorted(cumulative, cut)]
        high = edges[np.searchsorted(cumulative, histogram.total - cut)]
    return max(np.float32(low), statistics.low), min(np.float32(high), statistics.high)


def layer_wise_percentile(
    statistics: TensorStatistics,
    candidates: Sequence[float],
    metric: Literal["mae", "mse"],
    symmetric: bool,
    levels: int,
    *,
    symmetric_grid: bool = False,
) -> Range:
    """Of the candidate percentiles' ranges, the one with the least quantization error.

    The error is that of rounding the histogram's bin centres to a grid of `levels` steps over the
    range, with an integer zero point: mean |x - x_q| (mae) or mean (x - x_q)^2 (mse). Ties go to the
    wider range.

    Args:
        statistics: With a histogram.
        candidates: Percentiles.
        metric: The error.
        symmetric: Percentiles are of |x|.
        levels: Steps of the grid.
        symmetric_grid: The grid's zero point is in its middle, and its range widened to that.
    """
    histogram = statistics.histogram
    assert histogram is not None
    power = 1 if metric == "mae" else 2
    used = np.flatnonzero(histogram.counts)
    values, counts = histogram.centers[used], histogram.counts[used]

    def error(bounds: Range) -> float:
        low, high = min(float(bounds[0]), 0.0), max(float(bounds[1]), 0.0)
        if symmetric_grid:
            high = max(-low, high)
            low = -high
        step = (high - low) / levels or 1.0
        zero = round(levels / 2) if symmetric_grid else round(-low / step)
        rounded = np.clip(np.rint(values / step), -zero, levels - zero) * step
        return float((counts * np.abs(values - rounded) ** power).sum())

    ranges = [percentile_range(statistics, p, symmetric) for p in sorted(candidates, reverse=True)]
    return min(ranges, key=error)
