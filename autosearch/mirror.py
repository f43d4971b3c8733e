"""The study that Optuna's samplers ask: in memory, so that parameters and repeated proposals cost no storage.

A search with a format for every layer has hundreds of parameters, and Optuna writes and reads each of them
by itself. Here it does so in memory; the trial goes into the real study as a whole, when it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class Asked:
    """A proposal as the sampler made it.

    Attributes:
        params, distributions: By the parameter's name.
        system_attrs: What the sampler noted with it, such as its generation.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, Any]
    system_attrs: Mapping[str, Any]


class Mirror:
    """Holds the trials of one stage; those of others would tell samplers nothing, or mislead them.

    Attributes:
        study: What samplers ask. Its numbers are its own.
    """

    def __init__(
        self,
        name: str,
        directions: Sequence[StudyDirection],
        trials: Iterable[FrozenTrial] = (),
        counters: Mapping[str, int] | None = None,
    ) -> None:
        """Begins with trials that have ended.

        Args:
            name: Of the real study.
            directions: Of its objectives.
            trials: Of the stage; those that have not ended are left out.
            counters: What samplers noted of the whole study, from `counters`.
        """
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, study_name=name, directions=directions)
        for trial in trials:
            self.learn(trial)
        for key, value in (counters or {}).items():
            self._storage.set_study_system_attr(self._study_id, key, value)

    @property
    def _study_id(self) -> int:
        return self._storage.get_study_id_from_name(self.study.study_name)

    def learn(self, trial: FrozenTrial) -> None:
        """Takes up a trial of the real study that was not asked for here; one that runs is passed over."""
        if trial.state.is_finished():
            self.study.add_trial(trial)

    def asked(self, trial: optuna.Trial) -> Asked:
        """What is to be recorded of a proposal."""
        frozen = self._storage.get_trial(self._id(trial.number))
        return Asked(dict(frozen.params), dict(frozen.distributions), dict(frozen.system_attrs))

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Tells the sampler what became of a proposal.

        Args:
            number: In the mirror.
            state, values: How it ended.
            attributes: System attributes to set before, such as constraints.

        Returns:
            The system attributes that the trial has now, with what the sampler noted.
        """
        trial_id = self._id(number)
        for key, value in attributes.items():
            self._storage.set_trial_system_attr(trial_id, key, value)
        self.study.tell(number, None if values is None else list(values), state=state)
        return dict(self._storage.get_trial(trial_id).system_attrs)

    @property
    def counters(self) -> dict[str, int]:
        """What samplers count over the whole study, such as the points of a sequence."""
        noted = self._storage.get_study_system_attrs(self._study_id)
        return {key: value for key, value in noted.items() if isinstance(value, int)}

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
