"""Where trials are computed: in this process, or in worker processes."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from joblib.externals.loky import ProcessPoolExecutor

from autosearch.objective import Objective
from autosearch.trial import Outcome
from quant import QuantConfig

_WORKER_IDLE_S = 300


class Executor(Protocol):
    """Computes outcomes, at most `slots` at a time."""

    slots: int

    def submit(self, number: int, config: QuantConfig, path: Path) -> None:
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
        self._waiting: list[tuple[int, QuantConfig, Path]] = []

    def submit(self, number: int, config: QuantConfig, path: Path) -> None:
        self._waiting.append((number, config, path))

    def next(self) -> tuple[int, Outcome]:
        number, config, path = self._waiting.pop(0)
        return number, self._objective(config, path)

    def close(self) -> None:
        self._waiting.clear()


class WorkerProcesses:
    """Trials in processes of their own; the objective travels to each once, closures included.

    A worker that dies takes the pool with it: the trials that were running are reported as failed, and
    the next one starts a new pool.
    """

    def __init__(self, objective: Objective, slots: int) -> None:
        self.slots = slots
        self._objective = objective
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[Future[Outcome], int] = {}

    def submit(self, number: int, config: QuantConfig, path: Path) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self.slots,
                timeout=_WORKER_IDLE_S,
                initializer=_receive,
                initargs=(self._objective,),
            )
        self._running[self._pool.submit(_compute, config, path)] = number

    def next(self) -> tuple[int, Outcome]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = next(iter(done))
        number = self._running.pop(future)
        try:
            return number, future.result()
        except BrokenProcessPool as error:
            if not self._running:
                self.close()
            return number, Outcome(error=f"WorkerDied: {error}")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)
            self._pool = None
        self._running.clear()


_objective: Objective | None = None
"""A worker's own copy."""


def _receive(objective: Objective) -> None:
    global _objective
    _objective = objective


def _compute(config: QuantConfig, path: Path) -> Outcome:
    assert _objective is not None
    return _objective(config, path)
