"""What computes trials, and the simplest one: this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autosearch.objective import Objective
from autosearch.pruning import Judge
from autosearch.trial import Outcome
from quant import QuantConfig
from quant.cache import StageCount


@dataclass(frozen=True)
class Task:
    """A trial that is to be computed.

    Attributes:
        number: Of the trial.
        config: What to make.
        path: Of the model.
        judge: Asked after parts of the evaluation, if there is a pruner.
    """

    number: int
    config: QuantConfig
    path: Path
    judge: Judge | None = None


@dataclass(frozen=True)
class Done:
    """A trial that was computed.

    Attributes:
        number: Of the trial.
        outcome: What came out.
        worker: Number of the worker process, from 1; None where there is none.
    """

    number: int
    outcome: Outcome
    worker: int | None = None

    @property
    def prefix(self) -> str:
        """Of the trial's line in the log."""
        return "" if self.worker is None else f"worker {self.worker}: "


class Executor(Protocol):
    """Computes outcomes, at most `slots` at a time."""

    slots: int

    @property
    def stages(self) -> Mapping[str, StageCount]:
        """What the stage caches of all processes did so far, by stage."""
        ...

    def submit(self, task: Task) -> None:
        """Begins a trial; there are never more than `slots` of them."""
        ...

    def next(self, patience_s: float | None = None) -> Done | None:
        """Waits for any of the trials that were begun.

        Args:
            patience_s: About how long, where it does not compute them itself; None = until there is one.

        Returns:
            None if there is none in this time.

        Raises:
            OutputError: If a trial could not be written, and no other one could.
        """
        ...

    def close(self) -> None:
        """Ends workers: those that compute at once, and no process is left behind."""
        ...


class InProcess:
    """One trial at a time, here."""

    slots = 1

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: list[Task] = []

    @property
    def stages(self) -> Mapping[str, StageCount]:
        return self._objective.stages

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self, patience_s: float | None = None) -> Done:
        task = self._waiting.pop(0)
        return Done(task.number, self._objective(task.config, task.path, task.judge))

    def close(self) -> None:
        self._waiting.clear()


class Distrustful:
    """Another executor, but for trials of which enough is known."""

    def __init__(self, executor: Executor, abandoned: Mapping[Path, int], most: int) -> None:
        """Takes the history of earlier runs of the search.

        Args:
            executor: For all other trials.
            abandoned: How often a run ended within a trial, by the path of its model; a live view.
            most: Times after which a trial is taken for the cause, and has failed.
        """
        self.slots = executor.slots
        self._executor = executor
        self._abandoned = abandoned
        self._most = most
        self._failed: list[Done] = []

    @property
    def stages(self) -> Mapping[str, StageCount]:
        return self._executor.stages

    def submit(self, task: Task) -> None:
        times = self._abandoned.get(task.path, 0)
        if times < self._most:
            self._executor.submit(task)
            return
        error = (
            f"SearchDied: the search ended {times} times while it tried this configuration; to try it once"
            " more, and see why, give another search_output_dir and isolate_trials = true"
        )
        self._failed.append(Done(task.number, Outcome(error=error)))

    def next(self, patience_s: float | None = None) -> Done | None:
        return self._failed.pop(0) if self._failed else self._executor.next(patience_s)

    def close(self) -> None:
        self._executor.close()
