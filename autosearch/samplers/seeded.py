"""Some configurations first, then whatever a sampler proposes."""

from __future__ import annotations

from collections.abc import Iterable

from autosearch.samplers.contract import History, Proposal, Sampler
from autosearch.space.configuration import Configuration


class SeededSampler:
    """Proposes given configurations in their order, those that are known or refused left out.

    Args:
        first: Of the sampler's space; read one by one, when they are needed.
        sampler: Which learns of them, and goes on after them.
    """

    def __init__(self, first: Iterable[Configuration], sampler: Sampler) -> None:
        self._first = iter(first)
        self._sampler = sampler

    def propose(self, history: History) -> Proposal | None:
        """The next of the first configurations; after them, what the sampler proposes."""
        for configuration in self._first:
            if configuration.excluded is None and configuration.digest not in history.trials:
                proposal = self.adopt(configuration, history)
                if proposal is not None:
                    return proposal
        return self._sampler.propose(history)

    def adopt(self, configuration: Configuration, history: History) -> Proposal | None:
        """As the sampler does."""
        return self._sampler.adopt(configuration, history)
