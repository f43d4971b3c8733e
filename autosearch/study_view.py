"""A study as the samplers of a later stage see it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial


def since(study: optuna.Study, storage: BaseStorage, first: int) -> optuna.Study:
    """The same study, of which trials before a number look failed, without parameters.

    Samplers learn nothing from failed trials. Told of the trials of another stage, those that work on
    the parameters that all trials share (CmaEs, GP, NSGAII, QMC) would find none, and draw at random.

    Args:
        study: All of it.
        storage: Where it is.
        first: Number of the first trial that is shown.
    """
    return optuna.Study(study.study_name, cast(BaseStorage, _Since(storage, first)))


class _Since:
    """A storage; everything but the list of trials is passed on."""

    def __init__(self, storage: BaseStorage, first: int) -> None:
        self._storage = storage
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """By number, as `BaseStorage.get_all_trials`."""
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy)
        shown = (trial if trial.number >= self._first else _failed(trial) for trial in trials)
        return [trial for trial in shown if states is None or trial.state in states]


def _failed(trial: FrozenTrial) -> FrozenTrial:
    failed = create_trial(state=TrialState.FAIL)
    failed.number, failed._trial_id = trial.number, trial._trial_id
    return failed
