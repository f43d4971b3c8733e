"""A histogram that streams: fixed memory, exact merging, no range needed beforehand.

The bins have width 2^k and meet at zero. When a value does not fit, k grows by one and neighbouring
bins are added, which is exact: the counts are always those that one pass with the final k would have
given. So the result depends neither on the order of the batches nor on how they were split, and
`merge` is associative and commutative. (Negative values that vanish beside a bin, below 2^-149 of its
width, count as zero.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HALF_BINS = 2048
"""Bins on either side of zero; the greatest magnitude lies in the outer half of them."""

_BLOCK = 1 << 15
"""Elements that are binned at a time, so that the temporaries stay in the processor's cache."""

_SMALLEST_EXPONENT = -120
"""No bin is narrower: the inverse of its width is a float32 number."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values in [i 2^k, (i + 1) 2^k) for i = -HALF_BINS ... HALF_BINS - 1.

    Attributes:
        exponent: k.
        counts: int64, shape (2 HALF_BINS,).
    """

    exponent: int
    counts: NDArray[np.int64]

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(np.ldexp(1.0, self.exponent))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges, shape (2 HALF_BINS + 1,)."""
        return np.ldexp(np.arange(-HALF_BINS, HALF_BINS + 1, dtype=np.float64), self.exponent)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Bin centres, shape (2 HALF_BINS,)."""
        return np.ldexp(np.arange(-HALF_BINS, HALF_BINS, dtype=np.float64) + 0.5, self.exponent)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def widen(self, exponent: int) -> Histogram:
        """The same values in bins of width 2^exponent, which must not be narrower."""
        counts = self.counts
        for _ in range(min(exponent - self.exponent, HALF_BINS.bit_length() + 1)):
            halved = counts.reshape(-1, 2).sum(axis=1)
            counts = np.zeros_like(counts)
            counts[HALF_BINS // 2 : HALF_BINS // 2 + HALF_BINS] = halved
        return Histogram(exponent, counts)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(exponent, self.widen(exponent).counts + other.widen(exponent).counts)

    def absolute(self) -> NDArray[np.int64]:
        """Counts of |x| in [i 2^k, (i + 1) 2^k), shape (HALF_BINS,).

        Negative bins are mirrored; values on an edge, measure zero but for zero itself, may fall
        one bin short.
        """
        return self.counts[HALF_BINS:] + self.counts[HALF_BINS - 1 :: -1]


def histogram(values: NDArray[np.float32], largest: float) -> Histogram:
    """Counts finite values.

    Args:
        values: Any shape, float32.
        largest: max |values|, which the caller has at hand.
    """
    _, bits = np.frexp(largest)  # largest < 2^bits = HALF_BINS * width
    exponent = (
        max(int(bits) - (HALF_BINS.bit_length() - 1), _SMALLEST_EXPONENT) if largest else _SMALLEST_EXPONENT
    )
    flat = np.ascontiguousarray(values).reshape(-1)
    inverse_width, offset = np.float32(np.ldexp(1.0, -exponent)), np.float32(HALF_BINS)
    counts = np.zeros(2 * HALF_BINS, dtype=np.int64)
    scaled = np.empty(min(_BLOCK, flat.size), dtype=np.float32)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        index = np.multiply(block, inverse_width, out=scaled[: block.size])  # exact: a power of two
        np.floor(index, out=index)
        index += offset
        counts += np.bincount(index.astype(np.intp), minlength=2 * HALF_BINS)
    return Histogram(exponent, counts)


EMPTY = histogram(np.empty(0, dtype=np.float32), 0.0)
"""No values: merging it changes nothing."""
