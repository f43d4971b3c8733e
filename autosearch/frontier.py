"""The best combinations under an additive model: what to try first in a space with a format per layer.

Each group of layers has options, each with a cost and an expected error. With costs and errors that add
up, the combinations on the lower convex hull of (cost, error) are found exactly: every group's own hull
first, then all of their edges in the order of their slopes (Shoham and Gersho, 1988,
doi:10.1109/29.90373).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Option:
    """One choice for a group of layers.

    Attributes:
        cost: What it adds to what is to be small, such as bits.
        error: What it adds to the model's error; not negative.
    """

    cost: float
    error: float


@dataclass(frozen=True)
class Combination:
    """An option for every group.

    Attributes:
        choices: Position of the option, by group.
        cost, error: Sums over the groups.
    """

    choices: tuple[int, ...]
    cost: float
    error: float


def lower_hull(options: Sequence[Option]) -> list[int]:
    """Positions of the options on the lower convex hull, cheapest first, errors falling.

    Of equal options the first is taken. Options with an error that is not finite come last of all
    that cost the same, and are left out if any other is there.

    Args:
        options: At least one.
    """
    finite = [position for position, option in enumerate(options) if np.isfinite(option.error)]
    order = sorted(finite or range(len(options)), key=lambda i: (options[i].cost, options[i].error, i))
    hull: list[int] = []
    for position in order:
        if hull and options[position].error >= options[hull[-1]].error:
            continue
        while len(hull) > 1 and _is_above(options[hull[-2]], options[hull[-1]], options[position]):
            hull.pop()
        hull.append(position)
    return hull


def frontier(groups: Sequence[Sequence[Option]]) -> list[Combination]:
    """Combinations on the lower convex hull of total cost and error, cheapest first.

    Two neighbours differ in one group. The first has the least cost, the last one the least error.

    Args:
        groups: The options of each; none is empty.
    """
    hulls = [lower_hull(options) for options in groups]
    steps = sorted(
        (_slope(groups[group][before], groups[group][after]), group, place)
        for group, hull in enumerate(hulls)
        for place, (before, after) in enumerate(pairwise(hull))
    )
    choices = [hull[0] for hull in hulls]
    found = [_combination(groups, choices)]
    for _, group, place in steps:  # within a group slopes rise, so that its steps come in their order
        choices[group] = hulls[group][place + 1]
        found.append(_combination(groups, choices))
    return found


def spread(combinations: Sequence[Combination], count: int) -> list[Combination]:
    """So many of a frontier, both ends among them, as evenly as they lie by cost and by rank of error.

    Args:
        combinations: Cheapest first.
        count: How many at most; of one, the middle is taken.
    """
    if count >= len(combinations):
        return list(combinations)
    places = _places(np.array([each.cost for each in combinations]))
    chosen: list[int] = []
    for wanted in [0.5] if count == 1 else np.linspace(0, 1, count):
        free = [position for position in range(len(combinations)) if position not in chosen]
        chosen.append(min(free, key=lambda position: abs(places[position] - wanted)))
    return [combinations[position] for position in sorted(chosen)]


def _places(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between 0 and 1: half by cost, half by rank."""
    ranks = np.linspace(0, 1, costs.size)
    width = costs[-1] - costs[0]
    return ranks if width == 0 else (ranks + (costs - costs[0]) / width) / 2


def _slope(before: Option, after: Option) -> float:
    """Error for cost: negative, steepest first."""
    return (after.error - before.error) / max(after.cost - before.cost, np.finfo(np.float64).tiny)


def _is_above(left: Option, middle: Option, right: Option) -> bool:
    """Whether the middle lies on or above the line between the others."""
    return (middle.error - left.error) * (right.cost - left.cost) >= (right.error - left.error) * (
        middle.cost - left.cost
    )


def _combination(groups: Sequence[Sequence[Option]], choices: Sequence[int]) -> Combination:
    chosen = [options[choice] for options, choice in zip(groups, choices, strict=True)]
    return Combination(
        tuple(choices), sum(option.cost for option in chosen), sum(option.error for option in chosen)
    )
