"""Objectives that cost nothing, for tests of what executes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autosearch import Outcome
from autosearch.objective import Objective
from autosearch.pruning import Judge
from autosearch.workers import Task
from quant import QuantConfig


class FakeObjective(Objective):
    """Does what a function says."""

    def __init__(self, compute: Callable[[Task], Outcome], threads: int = 1) -> None:
        self.compute = compute
        self.threads = threads
        self._pipeline = None

    def prepare(self) -> None:
        pass

    def __call__(self, config: QuantConfig, path: Path, judge: Judge | None = None) -> Outcome:
        return self.compute(Task(0, config, path, judge))
