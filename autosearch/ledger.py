"""What a search has seen so far: its trials, judged, and what follows from them."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace

import numpy as np

from autosearch.objectives import Objectives
from autosearch.pareto import Front, domination_ranks
from autosearch.samplers import Known
from autosearch.stop import Progress
from autosearch.study import known
from autosearch.trial import Trial

SAME_FAILURES = 3
"""A search whose first trials fail this often with one cause has nothing to find."""


class Ledger:
    """Trials by number. Adding one costs the same however many there are, but for the front's size.

    Attributes:
        objectives: Limits resolved.
        trials: By number.
        known: What samplers see, by digest; a live view.
        since_best: Trials since one was better than all before, or came onto the Pareto front; None before
            the first candidate.
        displaced: Trials of which the newest one took the place, as the best or on the front.
    """

    def __init__(self, objectives: Objectives, float_value: float = 0.0) -> None:
        """Begins empty.

        Args:
            objectives: What trials are judged by, with limits resolved.
            float_value: Of the float model in the searched metric; not read where there is none, or where
                it compares with the float model anyway.
        """
        self.objectives = objectives
        self.float_value = float_value
        self.trials: dict[int, Trial] = {}
        self.known: dict[str, Known] = {}
        self.since_best: int | None = None
        self.displaced: tuple[Trial, ...] = ()
        self._front = None if objectives.is_single else Front(len(objectives.names))
        self._candidates: list[tuple[float, tuple[float, ...], int]] = []  # standings and numbers, best first
        self._best: int | None = None
        self._causes: set[str] | None = set()  # of the failures before the first success

    @property
    def best(self) -> Trial | None:
        """The first of `ranked`."""
        return None if self._best is None else self.trials[self._best]

    @property
    def candidates(self) -> int:
        """How many there are now."""
        return len(self._candidates)

    def add(self, trial: Trial) -> Trial:
        """Takes up a trial that ended; returns it with its values and today's verdict."""
        trial, previous = self._judged(trial), self.best
        is_better = self._is_better(trial, previous)
        is_news = is_better and (previous is None or self._standing(trial) != self._standing(previous))
        is_news, out = is_news and trial.is_candidate, list[int]()
        if self._front is not None and trial.is_candidate:
            losses = self._losses(trial)
            is_news = not self._front.has_equal(losses)
            joined, out = self._front.add(trial.number, losses)
            is_news &= joined
            trial = replace(trial, is_candidate=joined)
        for number in out:
            del self._candidates[bisect_left(self._candidates, self._place(self.trials[number]))]
            self.trials[number] = replace(self.trials[number], is_candidate=False)
        self.trials[trial.number] = trial
        self.known[trial.digest] = known(trial)
        if trial.is_candidate:
            insort(self._candidates, self._place(trial))
        self._note_failure(trial)
        if is_better:
            self._best = trial.number
            out += [] if previous is None or previous.number in out else [previous.number]
        self.displaced = tuple(self.trials[number] for number in out)
        if is_news:
            self.since_best = 0
        elif self.since_best is not None:
            self.since_best += 1
        return trial

    def verdict(self, trial: Trial) -> tuple[Trial, bool]:
        """A trial as `add` would take it up, which this does not; and whether it would be the best one."""
        trial = self._judged(trial)
        if self._front is not None and trial.is_candidate:
            trial = replace(trial, is_candidate=self._front.takes(self._losses(trial)))
        return trial, self._is_better(trial, self.best)

    def set_model(self, number: int, path: str | None) -> None:
        """Where the model of a trial is now; None = nowhere."""
        trial = self.trials[number]
        self.trials[number] = replace(trial, outcome=replace(trial.outcome, model_path=path))

    def ranked(self) -> list[Trial]:
        """Trials with a result, best first; earlier ones first among equals.

        Those that keep to the constraints come first; of several objectives, in the order of Pareto
        fronts, within each by the objectives in their order. Then the others, least violation first.
        """
        complete = [trial for trial in self.trials.values() if trial.values is not None]
        ranks = dict.fromkeys((trial.number for trial in complete), 0)
        feasible = [trial for trial in complete if not trial.violated]
        if self._front is not None and feasible:
            losses = np.array([self._losses(trial) for trial in feasible])
            found = domination_ranks(losses).tolist()
            ranks |= zip((trial.number for trial in feasible), found, strict=True)

        def place(trial: Trial) -> tuple[float, int, tuple[float, ...], int]:
            violation, losses = self._standing(trial)
            return violation, ranks[trial.number], losses, trial.number

        return sorted(complete, key=place)

    def best_trials(self, most: int | None = None) -> list[Trial]:
        """The candidates, or so many of them, best first; without any, the best trial alone."""
        if not self._candidates:
            return [] if self.best is None else [self.best]
        return [self.trials[number] for *_, number in self._candidates[:most]]

    def front(self) -> list[Trial]:
        """The Pareto front of the candidates, best in the first objective first."""
        candidates = [trial for trial in self.best_trials() if trial.is_candidate]
        return candidates[:1] if self._front is None else candidates

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

    def _is_better(self, trial: Trial, other: Trial | None) -> bool:
        """Of equals, the one that began first: whatever the order in which they come."""
        if trial.values is None or other is None:
            return trial.values is not None
        return (self._standing(trial), trial.number) < (self._standing(other), other.number)

    def _note_failure(self, trial: Trial) -> None:
        if trial.outcome.error is None:
            self._causes = None
        elif self._causes is not None:
            self._causes.add(trial.outcome.error)

    def _judged(self, trial: Trial) -> Trial:
        measured, searched = trial.outcome.measured, self.objectives.searched
        is_measured = trial.state in ("complete", "infeasible")
        values = self.objectives.values(measured) if trial.state == "complete" else None
        difference = None
        if searched is not None and values is not None:
            difference = searched.difference(values[0], self.float_value)
        trial = replace(
            trial,
            difference=difference,
            values=values,
            scaled=self.objectives.scaled(measured),
            violations=self.objectives.violations(measured) if is_measured else {},
        )
        is_within = searched is None or (
            difference is not None and searched.within(difference, self.objectives.tolerance)
        )
        return replace(trial, is_candidate=values is not None and not trial.violated and is_within)

    def _losses(self, trial: Trial) -> tuple[float, ...]:
        assert trial.values is not None
        return self.objectives.losses(trial.values)

    def _standing(self, trial: Trial) -> tuple[float, tuple[float, ...]]:
        """What trials of one front are compared by: lower is better."""
        return sum(trial.violated.values()), self._losses(trial)

    def _place(self, trial: Trial) -> tuple[float, tuple[float, ...], int]:
        """Among the candidates."""
        return *self._standing(trial), trial.number
