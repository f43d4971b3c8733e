"""Random search without replacement, cheap configurations likelier."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autosearch.samplers.contract import History, Proposal
from autosearch.samplers.ordered import OrderedSampler
from autosearch.space import SearchSpace
from autosearch.space.configuration import Configuration
from autosearch.space.cost import Amount, sampling_weight
from autosearch.space.rules import DEFAULTS

_MAX_REFUSED = 64
"""Draws in a row that may be refused for their cost; then the cheapest of them is taken."""
_MAX_REPEATED = 1000
"""Configurations in a row that may be known already; then nothing new is expected."""


class RandomSampler:
    """Draws configurations, with probability inverse to their expected seconds.

    An enumerable space is shuffled once: the order of keys E / w, with E from the standard
    exponential distribution and w the weight, is that of successive draws without replacement
    (Efraimidis and Spirakis, 2006, doi:10.1016/j.ipl.2005.11.003). Any other space is drawn from
    point by point, each kept with probability proportional to w; the digests proposed are
    remembered, nothing else.

    Args:
        space: Any.
        seed: Of all randomness; None = from the operating system.
    """

    def __init__(self, space: SearchSpace, seed: int | None = None) -> None:
        generator = np.random.default_rng(seed)
        self._sampler: OrderedSampler | _Rejection
        if space.is_enumerable:
            order = weighted_order(sampling_weight(space.enumeration.cost_s), generator)
            self._sampler = OrderedSampler(space, order)
        else:
            self._sampler = _Rejection(space, generator)

    def propose(self, history: History) -> Proposal | None:
        """A configuration that is not in the history; None when none is found any more."""
        return self._sampler.propose(history)

    def adopt(self, configuration: Configuration, history: History) -> Proposal | None:
        """The configuration itself."""
        return Proposal(configuration)

    def peek(self, history: History) -> Configuration | None:
        """What `propose` would propose, without moving on."""
        return self._sampler.peek(history)


def weighted_order(weight: Amount, generator: np.random.Generator) -> NDArray[np.int64]:
    """A random order: each place goes to one of the rest, in proportion to its weight."""
    return np.argsort(generator.standard_exponential(np.shape(weight)) / weight, kind="stable")


class _Rejection:
    """Draws points of a space that is too large to enumerate."""

    def __init__(self, space: SearchSpace, generator: np.random.Generator) -> None:
        self._space = space
        self._generator = generator
        self._proposed: set[str] = set()
        self._ahead: Configuration | None = None
        self._heaviest = float(sampling_weight(space.cost_model.seconds(DEFAULTS)))

    def propose(self, history: History) -> Proposal | None:
        configuration = self.peek(history)
        if configuration is None:
            return None
        self._ahead = None
        self._proposed.add(configuration.digest)
        return Proposal(configuration)

    def peek(self, history: History) -> Configuration | None:
        for _ in range(_MAX_REPEATED):
            if self._ahead is None:
                self._ahead = self._draw()
            if self._ahead is None:
                return None
            if self._ahead.digest not in history.trials and self._ahead.digest not in self._proposed:
                return self._ahead
            self._ahead = None
        return None

    def _draw(self) -> Configuration | None:
        """Kept with probability weight / heaviest, surely where that exceeds 1.

        The heaviest weight is taken to be that of the default configuration. None if rules refuse
        everything drawn.
        """
        refused: list[Configuration] = []
        for _ in range(_MAX_REFUSED):
            drawn = self._space.draw(self._generator)
            if drawn.excluded is not None:
                continue
            if self._generator.random() * self._heaviest < sampling_weight(drawn.cost_s):
                return drawn
            refused.append(drawn)
        return min(refused, key=lambda configuration: configuration.cost_s, default=None)
