"""What a search space amounts to, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autosearch.space.configuration import Configuration


@dataclass(frozen=True)
class SpaceReport:
    """Sizes and cost of a space; for one that is not enumerated, its raw size alone.

    Attributes:
        raw_size: Points, None where a range is continuous.
        limit: Points up to which a space is enumerated.
        dropped: Reason of a rule and number of points that it refused.
        stripped: Reason of a rule and number of points in which it set a key back.
        distinct: Configurations that are left; None where the space is not enumerated.
        cost_s: Expected seconds for all of them, shared stages computed once.
        first: The first configurations of a grid search.
        layers: What the layers range over, a line for all that have the same choices.
    """

    raw_size: int | None
    limit: int
    dropped: tuple[tuple[str, int], ...] = ()
    stripped: tuple[tuple[str, int], ...] = ()
    distinct: int | None = None
    cost_s: float | None = None
    first: tuple[Configuration, ...] = ()
    layers: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the log and the terminal."""
        if self.raw_size is None:
            return ["search space: a continuous range, not enumerated", *self._layer_lines()]
        if self.distinct is None or self.cost_s is None:
            size, limit = counted(self.raw_size), spaced(self.limit)
            return [
                f"search space: {size} points, too many to enumerate (limit {limit})",
                *self._layer_lines(),
            ]
        size = spaced(self.raw_size)
        return [
            f"search space: {size} points, {spaced(self.distinct)} distinct configurations, "
            f"about {self.cost_s:.0f} s for all",
            *self._layer_lines(),
            *(f"  {spaced(count)} of {size}: {reason}; dropped" for reason, count in self.dropped),
            *(f"  {spaced(count)} of {size}: {reason}; merged" for reason, count in self.stripped),
            *(f"  #{c.index}: {c.short} (about {c.cost_s:.1f} s)" for c in self.first),
        ]

    def _layer_lines(self) -> list[str]:
        return [f"  {line}" for line in self.layers]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def spaced(number: int) -> str:
    """With thin groups of thousands.

    >>> spaced(1280)
    '1 280'
    """
    return f"{number:,}".replace(",", " ")


def counted(number: int) -> str:
    """The number, or its power of ten where nobody would count the digits.

    >>> counted(10**41)
    'about 10^41'
    """
    return spaced(number) if number < 10**15 else f"about 10^{math.log10(number):.0f}"
