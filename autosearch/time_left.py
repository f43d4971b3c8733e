"""How long the rest of a search will take, by a cost model that learns from every trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from autosearch.space import Configuration, SearchSpace
from autosearch.space.cost import stage_keys

_SAMPLE = 16


class TimeLeft:
    """Expected seconds of trials still to come.

    They are priced like a sample of the space, evenly spaced (of a space that is not enumerated, like
    the newest trials), with every shared stage taken as computed already.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Begins with the space's own cost model."""
        self._model = space.cost_model
        self._done: set[str] = set()
        self._sample = deque[Configuration](maxlen=_SAMPLE)
        self._follows_trials = not space.is_enumerable
        if space.is_enumerable:
            index = space.enumeration.index
            chosen = np.unique(np.linspace(0, index.size - 1, min(_SAMPLE, index.size)).astype(int))
            self._sample.extend(space.configuration(int(index[position])) for position in chosen)
        self._shared = {key for each in self._sample for key in stage_keys(each.effective).values()}

    def observe(self, configuration: Configuration, seconds: Mapping[str, float]) -> None:
        """Learns from a trial's seconds by step."""
        self._model = self._model.observe(configuration.effective, seconds, self._done)
        keys = stage_keys(configuration.effective).values()
        self._done.update(keys)
        if self._follows_trials:
            self._sample.append(configuration)
            self._shared.update(keys)

    def seconds(self, trials: int) -> float:
        """Of that many more trials, one after another."""
        if not self._sample:
            return 0.0
        each = [self._model.seconds(configuration.effective, self._shared) for configuration in self._sample]
        return trials * sum(each) / len(each)
