"""Which groups should be wide: an order by gain and cost, and how far to go along it.

The problem is the same in both directions: from narrow to wide until the target is met, or from wide to
narrow until it would be missed. Both ask for a small set of wide groups with which the target is met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_LEAST_COST = 1e-4
"""Below this the price of a group is a matter of indifference."""

Reaches = Callable[[Sequence[int]], bool]
"""Whether the target is met when just these groups are wide."""


def wide_order(errors: NDArray[np.float64], costs: NDArray[np.float64]) -> tuple[int, ...]:
    """The order in which groups should become wide, best first.

    The errors that groups cause alone are taken to add up. Again and again the part of the outputs with
    the greatest sum is found, and in it the group with the most error per cost; ties go to the first.

    Args:
        errors: Error of every part of the outputs with only this group narrow, shape (groups, parts);
            infinite ones count as the greatest finite number.
        costs: Of every group, shape (groups,), not negative.
    """
    errors = np.nan_to_num(errors, posinf=1e30)
    gains = errors / np.maximum(costs, _LEAST_COST)[:, None]
    left = np.ones(len(errors), bool)
    order = []
    for _ in range(len(errors)):
        worst = int(np.argmax(errors[left].sum(axis=0))) if errors.shape[1] else 0
        best = int(np.argmax(np.where(left, gains[:, worst], -1.0)))
        order.append(best)
        left[best] = False
    return tuple(order)


def within_budget(order: Sequence[int], fits: Reaches) -> tuple[int, ...]:
    """The groups that a budget has room for, each taken where those before it leave enough."""
    kept: list[int] = []
    for group in order:
        if fits([*kept, group]):
            kept.append(group)
    return tuple(kept)


def shortest_prefix(order: Sequence[int], reaches: Reaches, least: int = 0) -> tuple[int, ...]:
    """The fewest groups from the front that meet the target, found by bisection.

    Args:
        order: With all of it the target is met.
        reaches: Taken to stay true once it is; where it is not, some prefix that meets the target is found.
        least: Groups that are taken in any case.
    """
    low, high = min(least, len(order)), len(order)
    while low < high:
        middle = (low + high) // 2
        if reaches(order[:middle]):
            high = middle
        else:
            low = middle + 1
    return tuple(order[:high])


def without_needless(chosen: Sequence[int], reaches: Reaches, least: int = 0) -> tuple[int, ...]:
    """Leaves groups out, the last first, where the target is met without them.

    Errors do not quite add up, so the front of an order may hold groups that the later ones make needless.
    """
    kept = list(chosen)
    for group in reversed(chosen):
        fewer = [other for other in kept if other != group]
        if len(kept) > least and reaches(fewer):
            kept = fewer
    return tuple(kept)
