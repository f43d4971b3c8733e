"""Coarse-to-fine search for the range of real numbers that has the least error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Errors = Callable[[Floats, Floats], Floats]
"""Errors of candidates: (low, high) -> error, each of shape (channels, candidates)."""

_SHRINK = 0.75
_COARSE = np.arange(25.0)
"""First exponents: 0.75^24 is a thousandth of the extremes."""

_TOGETHER = np.array([(1.0, 1.0), (-1.0, -1.0)])
_ALONE = np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
_APART = np.concatenate([_ALONE, _TOGETHER, _TOGETHER * (1.0, -1.0)])
_FINE = (0.5, 0.25, 0.125, 0.0625)
_TOGETHER_STEPS = [(step, _TOGETHER) for step in _FINE]
_APART_STEPS = [(step, _ALONE) for step in (8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0)]
_APART_STEPS += [(step, _APART) for step in _FINE]


def search_range(low: Floats, high: Floats, symmetric: bool, errors: Errors) -> tuple[Floats, Floats]:
    """Of the ranges within the extremes, the best one found for each channel.

    The ends of a range are low 0.75^a and high 0.75^b. First a = b = 0, 1 ... 24 are tried, which takes
    in the extremes themselves: the result is never worse than they are. Then a and b move by ever
    smaller steps, the last of them 2 % of the range. Where the range is symmetric or has one side only
    they move together, by less than 1; otherwise also alone, from 8 on, because one end may have
    outliers that the other has not. Ties go to the wider range.

    Args:
        low, high: Extremes, shape (channels,); extended to contain zero, and symmetric to be so.
        symmetric: Whether ranges are [-t, t].
        errors: What is minimised.

    Returns:
        low, high: Shape (channels,).
    """
    ends = np.stack([np.minimum(low, 0.0), np.maximum(high, 0.0)], axis=-1)
    if symmetric:
        ends = np.abs(ends).max(axis=-1, keepdims=True) * (-1.0, 1.0)
    one_sided = bool((ends == 0).any(axis=-1).all())
    together = symmetric or one_sided

    def measured(exponents: Floats) -> Floats:
        bounds = ends[:, None] * _SHRINK**exponents
        return errors(bounds[..., 0], bounds[..., 1])

    channels = np.arange(len(ends))
    candidates = np.broadcast_to(_COARSE[:, None], (len(ends), _COARSE.size, 2))
    found = measured(candidates)
    choice = found.argmin(axis=1)
    best, least = candidates[channels, choice], found[channels, choice]
    for step, moves in _TOGETHER_STEPS if together else _APART_STEPS:
        candidates = np.maximum(best[:, None] + step * moves, 0.0)
        found = measured(candidates)
        choice = found.argmin(axis=1)
        better = found[channels, choice] < least
        best = np.where(better[:, None], candidates[channels, choice], best)
        least = np.where(better, found[channels, choice], least)
    bounds = ends * _SHRINK**best
    return bounds[:, 0], bounds[:, 1]
