"""How long the rest of a search will take, by a cost model that learns from every trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from autosearch.space import Configuration, CostModel, SearchSpace
from autosearch.space.cost import stage_keys

_SAMPLE = 16


class TimeLeft:
    """Expected seconds of trials still to come.

    They are priced like a sample of the space, evenly spaced (of a space that is not enumerated, like
    the newest trials), with every shared stage taken as computed already.
    """

    def __init__(self, space: SearchSpace, later: Sequence[SearchSpace] = ()) -> None:
        """Begins with the space's own cost model.

        Args:
            space: That is searched now.
            later: Those that are searched after it, all of each.
        """
        self._model = space.cost_model
        self._done: set[str] = set()
        self._now = _Sample(space)
        self._later = [_Sample(each) for each in later]

    def at_stage(self, space: SearchSpace, later: Sequence[SearchSpace] = ()) -> TimeLeft:
        """For another space, with what was learned so far."""
        moved = TimeLeft(space, later)
        moved._model, moved._done = self._model, self._done
        return moved

    def observe(self, configuration: Configuration, seconds: Mapping[str, float]) -> None:
        """Learns from a trial's seconds by step."""
        self._model = self._model.observe(configuration.effective, seconds, self._done)
        self._done.update(stage_keys(configuration.effective).values())
        self._now.observe(configuration)

    def seconds(self, trials: int) -> float:
        """Of that many more trials, one after another; the last of them are those of later spaces."""
        total = 0.0
        for sample in self._later:
            own = min(trials, sample.size or 0)
            total += own * sample.seconds(self._model)
            trials -= own
        return total + trials * self._now.seconds(self._model)


class _Sample:
    """Configurations that stand for a space."""

    def __init__(self, space: SearchSpace) -> None:
        self.size = space.size
        self._configurations = deque[Configuration](maxlen=_SAMPLE)
        self._follows_trials = not space.is_enumerable
        if space.is_enumerable:
            index = space.enumeration.index
            chosen = np.unique(np.linspace(0, index.size - 1, min(_SAMPLE, index.size)).astype(int))
            self._configurations.extend(space.configuration(int(index[position])) for position in chosen)
        self._shared = {key for each in self._configurations for key in stage_keys(each.effective).values()}

    def observe(self, configuration: Configuration) -> None:
        if self._follows_trials:
            self._configurations.append(configuration)
            self._shared.update(stage_keys(configuration.effective).values())

    def seconds(self, model: CostModel) -> float:
        """Of one trial, on average."""
        if not self._configurations:
            return 0.0
        each = [
            model.seconds(configuration.effective, self._shared) for configuration in self._configurations
        ]
        return sum(each) / len(each)
