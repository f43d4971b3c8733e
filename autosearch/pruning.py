"""Giving up on a trial whose error is hopeless after part of the evaluation data.

Optuna is imported where it is needed: a worker process without a pruner does without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autosearch.errors import ConfigError
from autosearch.trial import Trial
from evaluators import Direction
from quant.errors import nearest

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial
    from optuna.pruners import BasePruner

REPORT_AT = (25, 50, 75)
"""Percentages of the evaluation data after which a trial is judged; the steps of Optuna's pruners."""

PRUNERS: Mapping[str, str] = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "threshold": "ThresholdPruner",
}
"""Names of classes in `optuna.pruners`."""
_UNABLE = ("successive_halving", "hyperband")


class Pruned(Exception):
    """Ends an evaluation.

    Attributes:
        percentage: Of the data that was seen.
    """

    def __init__(self, percentage: int) -> None:
        super().__init__(f"pruned after {percentage} % of the evaluation data")
        self.percentage = percentage


def make_pruner(name: str, params: Mapping[str, Any]) -> BasePruner:
    """One of Optuna's, upper and lower case alike.

    Args:
        name: A key of `PRUNERS`.
        params: Its parameters; those that count steps count percent.

    Raises:
        ConfigError: If there is none of that name, or it does not take the parameters.
    """
    from optuna import pruners

    known = name.casefold()
    if known in _UNABLE:
        raise ConfigError(
            f"search_pruner: {name!r} grants data to trials by their rank, and here trials are given all or"
            f" are given up; use {', '.join(PRUNERS)}"
        )
    if known not in PRUNERS:
        raise ConfigError(f"search_pruner: unknown pruner {name!r}{nearest(name, PRUNERS)}")
    try:
        pruner: BasePruner = getattr(pruners, PRUNERS[known])(**params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"search_pruner_params: {name!r}: {error}") from None
    return pruner


class Judge:
    """Says whether a trial is hopeless beside those that had ended when it began.

    It travels to a worker with the trial, so that no process waits for another: the pruner is asked
    there, with a study in memory of what is known.
    """

    def __init__(
        self, pruner: BasePruner, direction: Direction, metric: str, trials: Iterable[Trial]
    ) -> None:
        """Takes what is known.

        Args:
            pruner: Of Optuna.
            direction: Of the searched metric.
            metric: Its name.
            trials: That ended; failed ones say nothing.
        """
        self.pruner = pruner
        self.direction = direction
        self.metric = metric
        self._known = tuple(
            (trial.outcome.metrics.get(metric), dict(trial.outcome.intermediate))
            for trial in trials
            if trial.outcome.intermediate and trial.state != "failed"
        )

    @cached_property
    def _trial(self) -> OptunaTrial:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # a worker's streams are the terminal's
        study = optuna.create_study(direction=self.direction, pruner=self.pruner)
        for value, intermediate in self._known:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            study.add_trial(create_trial(state=state, value=value, intermediate_values=intermediate))
        return study.ask()

    def judge(self, percentage: int, value: float) -> bool:
        """Whether to give up, after a value over part of the data; to be asked in order."""
        self._trial.report(value, percentage)
        return self._trial.should_prune()
