"""Trials in processes of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from cloudpickle import dumps

from autosearch.errors import ConfigError, OutputError
from autosearch.objective import Objective
from autosearch.trial import Outcome
from autosearch.workers.endings import ending
from autosearch.workers.executor import Done, Task
from autosearch.workers.process import WorkerProcess, end_all
from autosearch.workers.worker import Computed, Halted, Logged, Ready, Refused
from quant.cache import StageCount

_log = logging.getLogger(__name__)

_MOST_DEATHS = 2
_MOST_FAILED_STARTS = 5
"""One after another: the cause is not a trial, as none has begun."""
_ELSE = "or let trials run in this process: n_jobs = 1, isolate_trials = false, no trial_timeout"


def can_travel(objective: Objective) -> bool:
    """Whether it can be sent to another process."""
    try:
        dumps(objective)
    except Exception:  # noqa: BLE001 - pickle's, or whatever the user's __reduce__ raises
        return False
    return True


@dataclass
class _Deaths:
    """How often, and how, processes ended while they computed a trial."""

    endings: list[str] = field(default_factory=list)

    def outcome(self) -> Outcome:
        first, *others = self.endings
        how = first if set(others) == {first} else f"by {first}, then {', '.join(others)}"
        return Outcome(error=f"WorkerDied: twice, {how}")


class WorkerProcesses:
    """Trials in processes of their own; the objective travels to each once, closures included.

    Each worker computes one trial at a time. If its process ends meanwhile, another process takes its
    place and tries that trial once more; a trial that ends its process again has failed. The others go
    on undisturbed.
    """

    def __init__(
        self,
        objective: Objective,
        slots: int,
        *,
        threads: int = 0,
        timeout_s: float | None = None,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Starts no process before the first trial.

        Args:
            objective: What every trial does.
            slots: How many workers.
            threads: Of each, in libraries that compute; 0 = as many as they like.
            timeout_s: Most seconds of a trial; None = no limit.
            environments: What each worker's environment has beside this process's; empty = nothing.
        """
        self.slots = slots
        self._objective = objective
        self._threads = threads
        self._timeout_s = timeout_s
        self._environments = environments or ({},) * slots
        self._workers: dict[int, WorkerProcess] = {}
        self._deaths: dict[int, _Deaths] = {}  # by the number of a trial
        self._done: list[Done] = []
        self._failed_starts = 0
        self._stages: dict[WorkerProcess, Mapping[str, StageCount]] = {}

    @property
    def stages(self) -> Mapping[str, StageCount]:
        """Of all processes that there were; of one that died, without its last trial."""
        total: dict[str, StageCount] = {}
        for counts in self._stages.values():
            for stage, count in counts.items():
                total[stage] = total.get(stage, StageCount()) + count
        return total

    def submit(self, task: Task) -> None:
        """Begins a trial.

        Raises:
            ConfigError: If the evaluator or the data cannot be sent to another process.
        """
        self._begin(self._free(), task)

    def next(self, patience_s: float | None = None) -> Done | None:
        """Waits for any of the trials that were begun; None if none is done in so many seconds.

        Raises:
            ConfigError: If the evaluator or the data cannot be opened in another process.
            OutputError: If a trial could not be written, and no other one could, or no worker starts.
        """
        deadline = None if patience_s is None else time.monotonic() + patience_s
        while not self._done:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            handles = {handle: worker for worker in self._workers.values() for handle in worker.handles}
            for worker in {handles[handle] for handle in wait(list(handles), self._patience_s(left))}:
                self._read(worker)
            for worker in list(self._workers.values()):
                if self._timeout_s is not None and worker.waited_s >= self._timeout_s:
                    self._give_up(worker)
        return self._done.pop(0)

    def close(self) -> None:
        end_all(self._workers)
        self._workers.clear()
        self._deaths.clear()
        self._done.clear()

    def _free(self) -> int:
        """Number of a worker that has nothing to do, started or not."""
        busy = {number for number, worker in self._workers.items() if worker.task is not None}
        return next(number for number in range(1, self.slots + 1) if number not in busy)

    def _begin(self, number: int, task: Task) -> None:
        if number not in self._workers:
            payload = self._payload()
            self._workers[number] = WorkerProcess(number, self._threads, self._environments[number - 1])
            self._workers[number].equip(payload)
        self._workers[number].begin(task)

    def _payload(self) -> bytes:
        try:
            return bytes(dumps(self._objective))
        except Exception as error:  # likewise
            raise ConfigError(
                f"n_jobs: the evaluator cannot be sent to a worker process: {error}; let it make what"
                f" cannot travel (sessions, locks, open files) when it is called, {_ELSE}"
            ) from error

    def _patience_s(self, left: float | None) -> float | None:
        """Until the first trial that runs may be given up, or nobody waits any more."""
        if self._timeout_s is None:
            return left
        running = [worker for worker in self._workers.values() if worker.task is not None]
        until = max(0.0, min(self._timeout_s - worker.waited_s for worker in running))
        return until if left is None else min(until, left)

    def _read(self, worker: WorkerProcess) -> None:
        """Takes up what a worker sent; another process takes its place if it has ended."""
        try:
            for message in worker.messages():
                self._take(worker, message)
        except EOFError:
            self._replace(worker)

    def _take(self, worker: WorkerProcess, message: Any) -> None:
        if isinstance(message, Ready):
            worker.ready()
            self._failed_starts = 0
        elif isinstance(message, Logged):
            prefix = f"worker {worker.number}"
            if worker.task is not None:
                prefix += f", trial {worker.task.number}"
            logging.getLogger(message.logger).log(message.level, "%s: %s", prefix, message.message)
        elif isinstance(message, Refused):
            raise ConfigError(
                f"n_jobs: the evaluator cannot be opened in a worker process: {message.error}; let its"
                f" modules be importable there, {_ELSE}"
            )
        elif isinstance(message, Halted):
            raise OutputError(message.error)
        else:
            assert isinstance(message, Computed) and worker.task is not None
            self._stages[worker] = message.stages
            self._finish(worker, message.outcome)

    def _finish(self, worker: WorkerProcess, outcome: Outcome) -> None:
        assert worker.task is not None
        number, worker.task = worker.task.number, None
        self._deaths.pop(number, None)
        self._done.append(Done(number, outcome, worker.number))

    def _replace(self, worker: WorkerProcess) -> None:
        """Tries the trial of a worker that died once more, or fails it."""
        how = ending(worker.kill())
        del self._workers[worker.number]
        task = worker.task
        if task is None:
            return  # between two trials; the next one starts another process
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise OutputError(f"n_jobs: worker processes end while they start: {how}")
            self._begin(worker.number, task)
            return
        deaths = self._deaths.setdefault(task.number, _Deaths())
        deaths.endings.append(how)
        if len(deaths.endings) < _MOST_DEATHS:
            _log.warning(
                "worker %d: its process ended in trial %d: %s; trying it once more",
                worker.number, task.number, how,
            )  # fmt: skip
            self._begin(worker.number, task)
        else:
            self._finish(worker, deaths.outcome())

    def _give_up(self, worker: WorkerProcess) -> None:
        """Ends a trial that takes too long, and its process with it."""
        worker.kill()
        del self._workers[worker.number]
        self._finish(
            worker,
            Outcome(
                error=f"TrialTimeout: not done after {self._timeout_s:g} s; raise trial_timeout, or leave"
                " out of the search space what takes so long"
            ),
        )
