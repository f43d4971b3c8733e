"""The range whose quantized distribution is nearest to the original one, by relative entropy.

The algorithm is that of TensorRT's calibrator (Migacz, 2017, "8-bit inference with TensorRT") in
onnxruntime's form, on the bins that onnxruntime would have: 128 over plus and minus the first batch's
largest magnitude, continued outwards by bins of the same width while later batches need them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.calibration.histogram import Histogram
from quant.calibration.statistics import TensorStatistics

QUANTIZED_BINS = 128
_MOST_HALF_BINS = 4096
"""Bins on either side at most; a first batch much smaller than the others gets wider bins instead."""

Range = tuple[np.float32, np.float32]


def entropy_range(statistics: TensorStatistics) -> Range:
    """The range of least Kullback-Leibler divergence, never beyond the extremes.

    For every i from 64 bins on either side of zero to all of them: p is the histogram cut to the
    2 i + 1 innermost bins with the outliers added to its ends, q the same (without them) averaged
    over 128 groups of bins; the i with the least KL(p || q) wins, the smallest of equals.
    """
    assert statistics.histogram is not None
    largest = max(abs(float(statistics.low)), abs(float(statistics.high)))
    if not statistics.histogram.total or largest == 0:
        return statistics.low, statistics.high
    width, half = _layout(statistics, largest)
    counts = rebin(statistics.histogram, width, half)
    divergences = [_divergence(counts, half, i) for i in range(QUANTIZED_BINS // 2, half + 1)]
    best = int(np.argmin(divergences)) + QUANTIZED_BINS // 2
    low = np.float32(-best * width)
    high = np.float32(min(best + 1, half) * width)
    return max(low, statistics.low), min(high, statistics.high)


def _layout(statistics: TensorStatistics, largest: float) -> tuple[float, int]:
    """Bin width and number of bins on either side of zero."""
    half = QUANTIZED_BINS // 2
    magnitudes = np.maximum(np.abs(statistics.batch_min), np.abs(statistics.batch_max)).astype(np.float64)
    first = magnitudes[np.flatnonzero(magnitudes)[0]]
    width = max(first / half, largest / _MOST_HALF_BINS)
    grown = max(0, int(np.floor((largest - width * half) / width)) + 1) if largest > width * half else 0
    return float(width), half + grown


def rebin(histogram: Histogram, width: float, half: int) -> NDArray[np.int64]:
    """Counts in 2 `half` bins of the given width about zero.

    Bins of the histogram that straddle an edge are split in proportion; totals are kept.
    """
    cumulative = np.concatenate([[0], np.cumsum(histogram.counts)])
    edges = np.arange(-half, half + 1) * width
    at_edges = np.rint(np.interp(edges, histogram.edges, cumulative)).astype(np.int64)
    at_edges[0], at_edges[-1] = 0, histogram.total
    counts: NDArray[np.int64] = np.diff(at_edges)
    return counts


def _divergence(counts: NDArray[np.int64], half: int, i: int) -> float:
    """KL(p || q) for the cut to i bins on the left of zero and i + 1 on the right.

    As in onnxruntime, counts of q are integers, q is spread over all bins of a group that has any
    value, and bins beyond the last whole group are counted to it but left empty in q.
    """
    start, end = half - i, min(half + i + 1, counts.size)
    inside = counts[start:end]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    merged = inside.size // QUANTIZED_BINS
    whole = merged * QUANTIZED_BINS
    sums = inside[:whole].reshape(QUANTIZED_BINS, merged).sum(axis=1)
    sums[-1] += inside[whole:].sum()
    occupied = np.count_nonzero(p[:whole].reshape(QUANTIZED_BINS, merged), axis=1)
    share = sums // np.maximum(occupied, 1) * (occupied > 0)
    q = np.concatenate([np.repeat(share, merged), np.zeros(inside.size - whole, dtype=np.int64)])
    p_smooth, q_smooth = _smooth(p), _smooth(q)
    if p_smooth is None or q_smooth is None:
        return float("inf")
    p_smooth, q_smooth = p_smooth / p_smooth.sum(), q_smooth / q_smooth.sum()
    return float((p_smooth * np.log(p_smooth / q_smooth)).sum())


def _smooth(distribution: NDArray[np.int64], epsilon: float = 1e-4) -> NDArray[np.float64] | None:
    """Moves a little mass to empty bins, so that the divergence is finite; None where it cannot."""
    empty = distribution == 0
    filled = int((~empty).sum())
    if not filled:
        return None
    taken = epsilon * float(empty.sum()) / filled
    if taken >= 1.0:
        return None
    return np.where(empty, epsilon, distribution - taken)
