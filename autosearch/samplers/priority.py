"""Exhaustive search, cheapest configuration first."""

from __future__ import annotations

from autosearch.samplers.ordered import OrderedSampler
from autosearch.space import SearchSpace


class PrioritySampler(OrderedSampler):
    """All configurations by the time that each is expected to take alone.

    Raises:
        ConfigError: If the space cannot be enumerated.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, space.enumeration.cheapest_order())
