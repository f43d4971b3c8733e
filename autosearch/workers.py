"""Where trials are computed: in this process, or in worker processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Protocol

from joblib.externals.loky import ProcessPoolExecutor

from autosearch.errors import ConfigError
from autosearch.objective import Objective
from autosearch.pruning import Judge
from autosearch.trial import Outcome
from quant import QuantConfig

_WORKER_IDLE_S = 300
_PARENT_CHECKED_EVERY_S = 0.5


class Executor(Protocol):
    """Computes outcomes, at most `slots` at a time."""

    slots: int

    def submit(self, number: int, config: QuantConfig, path: Path, judge: Judge | None = None) -> None:
        """Begins the trial of this number."""
        ...

    def next(self) -> tuple[int, Outcome]:
        """Waits for any of the trials that were begun."""
        ...

    def close(self) -> None:
        """Ends workers at once."""
        ...


class InProcess:
    """One trial at a time, here."""

    slots = 1

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: list[tuple[int, QuantConfig, Path, Judge | None]] = []

    def submit(self, number: int, config: QuantConfig, path: Path, judge: Judge | None = None) -> None:
        self._waiting.append((number, config, path, judge))

    def next(self) -> tuple[int, Outcome]:
        number, config, path, judge = self._waiting.pop(0)
        return number, self._objective(config, path, judge)

    def close(self) -> None:
        self._waiting.clear()


@dataclass(frozen=True)
class _Task:
    """A trial, as a worker gets it."""

    number: int
    config: QuantConfig
    path: Path
    judge: Judge | None


class WorkerProcesses:
    """Trials in processes of their own; the objective travels to each once, closures included.

    A worker that dies takes the pool with it, and nobody knows whose trial it was. So those that were
    running are tried once more, one at a time; one that ends its process again has failed.
    """

    def __init__(self, objective: Objective, slots: int) -> None:
        self.slots = slots
        self._objective = objective
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[Future[Outcome], _Task] = {}
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()

    def submit(self, number: int, config: QuantConfig, path: Path, judge: Judge | None = None) -> None:
        """Begins the trial of this number.

        Raises:
            ConfigError: If the evaluator or the data cannot be sent to another process.
        """
        task = _Task(number, config, path, judge)
        if self._suspects:
            self._waiting.append(task)
        else:
            self._begin(task)

    def next(self) -> tuple[int, Outcome]:
        while not self._suspects:
            while self._waiting and not self._suspects:
                self._begin(self._waiting.popleft())
            if self._suspects:
                break
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            future = next(iter(done))
            try:
                outcome = future.result()
            except BrokenProcessPool:
                self._suspects.extend(self._running.values())
                self._drop_pool()
            else:
                return self._running.pop(future).number, outcome
        return self._retry(self._suspects.popleft())

    def _retry(self, task: _Task) -> tuple[int, Outcome]:
        """Computes a trial with no other beside it."""
        self._begin(task)
        (future,) = self._running
        try:
            return task.number, future.result()
        except BrokenProcessPool as error:
            self._drop_pool()
            return task.number, Outcome(error=f"WorkerDied: twice, {_how_it_ended(error)}")
        finally:
            self._running.pop(future, None)

    def _begin(self, task: _Task) -> None:
        try:
            future = self._send(task)
        except BrokenProcessPool:  # a worker has died, and nobody has waited for a trial since
            interrupted = list(self._running.values())
            self._drop_pool()
            if interrupted:
                self._suspects.extend(interrupted)
                self._waiting.appendleft(task)
                return
            future = self._send(task)
        self._running[future] = task

    def _send(self, task: _Task) -> Future[Outcome]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self.slots,
                timeout=_WORKER_IDLE_S,
                initializer=_receive,
                initargs=(self._objective, os.getpid()),
            )
        try:
            with _without_interruptions():
                future: Future[Outcome] = self._pool.submit(_compute, task.config, task.path, task.judge)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"n_jobs: the evaluator cannot be sent to a worker process: {error}; let it make what"
                " cannot travel (sessions, locks, open files) when it is called, or use n_jobs = 1"
            ) from error
        return future

    def _drop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None
        self._running.clear()

    def close(self) -> None:
        self._drop_pool()
        self._waiting.clear()
        self._suspects.clear()


@contextmanager
def _without_interruptions() -> Iterator[None]:
    """Processes that start here do not see Ctrl-C, which a terminal sends to all, until they ignore it."""
    resource_tracker.ensure_running()  # whose start, up to Python 3.12, would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(error: BrokenProcessPool) -> str:
    """The exit codes, where loky has them; else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    codes = [line for line in lines if line.startswith("The exit codes")]
    return (codes or lines or [type(error).__name__])[0]


_objective: Objective | None = None
"""A worker's own copy."""


def _receive(objective: Objective, parent: int) -> None:
    global _objective
    _objective = objective
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECKED_EVERY_S)
    os._exit(1)


def _compute(config: QuantConfig, path: Path, judge: Judge | None) -> Outcome:
    assert _objective is not None
    return _objective(config, path, judge)
