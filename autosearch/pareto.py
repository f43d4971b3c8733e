"""Which trials no other trial betters in every objective, by how many layers, and how much they cover.

Throughout, a loss is an objective with the sign that makes lower better. One point dominates another if
it is at most as high in every loss and lower in one; equal points do not dominate each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume

Losses = NDArray[np.float64]


class Front:
    """The points that no other one dominates, as points come one by one.

    Adding one takes time in proportion to the size of the front.
    """

    def __init__(self, objectives: int) -> None:
        """Begins empty.

        Args:
            objectives: How many losses a point has.
        """
        self._losses: Losses = np.empty((0, objectives))
        self._members: list[int] = []

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: int) -> bool:
        return member in self._members

    @property
    def members(self) -> tuple[int, ...]:
        """In the order of their coming."""
        return tuple(self._members)

    def has_equal(self, losses: Sequence[float]) -> bool:
        """Whether a member has just these losses."""
        return bool((self._losses == losses).all(axis=1).any())

    def takes(self, losses: Sequence[float]) -> bool:
        """Whether a point with these losses would be on it."""
        new = np.asarray(losses, dtype=np.float64)
        return not ((self._losses <= new).all(axis=1) & (self._losses < new).any(axis=1)).any()

    def add(self, member: int, losses: Sequence[float]) -> tuple[bool, list[int]]:
        """Takes up a point, unless the front dominates it.

        Args:
            member: What stands for the point.
            losses: No NaN; infinite ones are allowed.

        Returns:
            Whether it is on the front, and the members that it drove out.
        """
        new = np.asarray(losses, dtype=np.float64)
        if not self.takes(losses):
            return False, []
        stays = (self._losses < new).any(axis=1) | (self._losses == new).all(axis=1)
        left = [self._members[position] for position in np.flatnonzero(~stays)]
        self._members = [*(self._members[position] for position in np.flatnonzero(stays)), member]
        self._losses = np.vstack([self._losses[stays], new])
        return True, left


def domination_ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Rank of each point: 0 on the front, k on the front of what is left without the ranks below k.

    The rank is the length of the longest chain of points, each dominating the next, that ends at the
    point. Dominating points come first in lexicographic order, so one pass in that order finds it, in
    O(points^2 * objectives) elementary operations on whole arrays.

    Args:
        losses: (points, objectives), no NaN.

    Returns:
        (points,), from 0.
    """
    points, inverse = np.unique(np.atleast_2d(np.asarray(losses, np.float64)), axis=0, return_inverse=True)
    rest = np.ascontiguousarray(points.T[1:])  # the first loss never falls in this order
    ranks = np.zeros(len(points), dtype=np.int64)
    if not len(rest):
        return np.arange(len(points))[inverse.reshape(-1)]
    for i in range(1, len(points)):
        dominates = rest[0, :i] <= rest[0, i]
        for loss in rest[1:]:
            dominates &= loss[:i] <= loss[i]
        above = ranks[:i][dominates]
        if above.size:
            ranks[i] = above.max() + 1
    return ranks[inverse.reshape(-1)]


def is_on_front(losses: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one dominates.

    Args:
        losses: (points, objectives), no NaN.

    Returns:
        (points,)
    """
    points, inverse = np.unique(np.atleast_2d(np.asarray(losses, np.float64)), axis=0, return_inverse=True)
    on_front = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    while left.size:  # the first of what is left, in lexicographic order, is dominated by nothing
        on_front[left[0]] = True
        left = left[(points[left] < points[left[0]]).any(axis=1)]
    return on_front[inverse.reshape(-1)]


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the points dominate, up to a reference point; exact for any number of objectives.

    In two dimensions a sum of rectangles; in more by Optuna (While, Bradstreet and Barone, 2012,
    doi:10.1109/TEVC.2010.2077298).

    Args:
        losses: (points, objectives); those that are not better than the reference in every objective
            cover nothing.
        reference: (objectives,), finite.
    """
    limit = np.asarray(reference, dtype=np.float64)
    points = np.asarray(losses, dtype=np.float64).reshape(-1, limit.size)
    points = points[(points < limit).all(axis=1)]
    if not len(points):
        return 0.0
    points = np.unique(points[is_on_front(points)], axis=0)
    if limit.size == 2:
        x, y = points.T  # x rises, so y falls
        return float(((limit[0] - x) * (np.concatenate([limit[1:], y[:-1]]) - y)).sum())
    return float(compute_hypervolume(points, limit, assume_pareto=True))
