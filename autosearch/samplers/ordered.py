"""Walks the distinct configurations of a space in an order that is fixed at the start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autosearch.samplers.contract import History, Proposal
from autosearch.space import SearchSpace
from autosearch.space.configuration import Configuration


class OrderedSampler:
    """Proposes in a given order.

    Args:
        space: Enumerable.
        order: Positions in the space's enumeration.
    """

    def __init__(self, space: SearchSpace, order: NDArray[np.int64]) -> None:
        self._space = space
        self._order = order
        self._next = 0

    def propose(self, history: History) -> Proposal | None:
        """The next configuration in the order that is not in the history."""
        configuration = self.peek(history)
        if configuration is None:
            return None
        self._next += 1
        return Proposal(configuration)

    def adopt(self, configuration: Configuration, history: History) -> Proposal | None:
        """The configuration itself."""
        return Proposal(configuration)

    def peek(self, history: History) -> Configuration | None:
        """What `propose` would propose, without moving on."""
        while self._next < self._order.size:
            index = self._space.enumeration.index[self._order[self._next]]
            configuration = self._space.configuration(int(index))
            if configuration.digest not in history.trials:
                return configuration
            self._next += 1
        return None
