"""Exhaustive search, with neighbours that share their work."""

from __future__ import annotations

from autosearch.samplers.ordered import OrderedSampler
from autosearch.space import SearchSpace


class GridSampler(OrderedSampler):
    """All configurations: transform by transform, statistics by statistics, cheapest first in each.

    Raises:
        ConfigError: If the space cannot be enumerated.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, space.enumeration.grouped_order())
