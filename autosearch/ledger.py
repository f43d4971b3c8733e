"""What a search has seen so far: its trials, judged, and what follows from them."""

from __future__ import annotations

from dataclasses import replace

from autosearch.samplers import Known
from autosearch.stop import Progress
from autosearch.study import known
from autosearch.trial import Trial
from evaluators import Metric

SAME_FAILURES = 3
"""A search whose first trials fail this often with one cause has nothing to find."""


class Ledger:
    """Trials by number. Adding one costs the same however many there are.

    Attributes:
        metric: The searched one.
        trials: By number.
        known: What samplers see, by digest; a live view.
        candidates: Number of trials within tolerance.
        since_best: Trials since the best candidate; None before the first one.
    """

    def __init__(self, metric: Metric, tolerance: float | None, float_value: float) -> None:
        """Begins empty.

        Args:
            metric: The searched one.
            tolerance: What makes a candidate; None = every trial is one.
            float_value: Of the float model; not read where the metric compares with it anyway.
        """
        self.metric = metric
        self.tolerance = tolerance
        self.float_value = float_value
        self.trials: dict[int, Trial] = {}
        self.known: dict[str, Known] = {}
        self.candidates = 0
        self.since_best: int | None = None
        self._best: int | None = None
        self._causes: set[str] | None = set()  # of the failures before the first success

    @property
    def best(self) -> Trial | None:
        """The trial with the least difference, candidate or not."""
        return None if self._best is None else self.trials[self._best]

    def add(self, trial: Trial) -> Trial:
        """Takes up a trial that ended; returns it with its difference and today's verdict."""
        trial = self._judged(trial)
        self.trials[trial.number] = trial
        self.known[trial.digest] = known(trial, self.metric.name)
        self.candidates += trial.is_candidate
        self._note_failure(trial)
        better = trial.difference is not None and (
            self.best is None or self.loss(trial) < self.loss(self.best)
        )
        if better:
            self._best = trial.number
        if better and trial.is_candidate:
            self.since_best = 0
        elif self.since_best is not None:
            self.since_best += 1
        return trial

    def set_model(self, number: int, path: str | None) -> None:
        """Where the model of a trial is now; None = nowhere."""
        trial = self.trials[number]
        self.trials[number] = replace(trial, outcome=replace(trial.outcome, model_path=path))

    def loss(self, trial: Trial) -> float:
        """What trials are ranked by: lower is better."""
        assert trial.difference is not None
        return self.metric.loss(trial.difference)

    def ranked(self) -> list[Trial]:
        """Trials with a result, best first; earlier ones first among equals."""
        complete = [trial for trial in self.trials.values() if trial.difference is not None]
        return sorted(complete, key=lambda trial: (self.loss(trial), trial.number))

    def by_number(self) -> tuple[Trial, ...]:
        """All trials, in the order of their numbers."""
        return tuple(sorted(self.trials.values(), key=lambda trial: trial.number))

    def progress(self, seconds: float) -> Progress:
        """What stop conditions look at."""
        return Progress(len(self.trials), self.candidates, self.since_best, seconds)

    def hopeless(self) -> str | None:
        """Why there is no point in going on: nothing but failures, all for one cause. Or None."""
        if self._causes is None or len(self.trials) < SAME_FAILURES or len(self._causes) != 1:
            return None
        return f"the first {len(self.trials)} trials failed with the same cause: {next(iter(self._causes))}"

    def _note_failure(self, trial: Trial) -> None:
        if trial.outcome.error is None:
            self._causes = None
        elif self._causes is not None:
            self._causes.add(trial.outcome.error)

    def _judged(self, trial: Trial) -> Trial:
        value = trial.outcome.metrics.get(self.metric.name)
        if value is None:
            return replace(trial, difference=None, is_candidate=False)
        difference = self.metric.difference(value, self.float_value)
        return replace(
            trial, difference=difference, is_candidate=self.metric.within(difference, self.tolerance)
        )
