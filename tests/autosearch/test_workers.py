from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosearch import AutoSearch, Outcome
from autosearch.errors import ConfigError
from autosearch.workers import InProcess, WorkerProcesses
from quant import QuantConfig
from tests.autosearch.models import DISTINCT, make_feeds


def test_one_at_a_time_in_order() -> None:
    executor = InProcess(lambda config, path, judge: Outcome(model_path=str(path)))  # type: ignore[arg-type]
    assert executor.slots == 1
    for number in (3, 1):
        executor.submit(number, QuantConfig(), Path(f"{number}.onnx"))
    assert executor.next() == (3, Outcome(model_path="3.onnx"))
    assert executor.next() == (1, Outcome(model_path="1.onnx"))


class Local:
    """Of this test module, which workers cannot import by name."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, path: str) -> float:
        return self.offset + Path(path).stat().st_size


def closure(offset: float) -> Callable[[str], float]:
    return lambda path: offset + Path(path).stat().st_size


@pytest.mark.parametrize("make", [closure, Local])
def test_closures_lambdas_and_objects_travel(
    model: Path, settings: dict[str, Any], make: Callable[[float], Any]
) -> None:
    changed = {**settings, "n_jobs": 2, "search_evaluator": make(0.5)}
    candidates = AutoSearch(None, changed, model, make_feeds()).search_model()
    assert len(candidates) == DISTINCT
    for candidate in candidates:
        (value,) = candidate["metrics"].values()
        assert value == 0.5 + Path(candidate["model_path"]).stat().st_size


def test_an_evaluator_that_cannot_travel_is_refused(model: Path, settings: dict[str, Any]) -> None:
    lock = threading.Lock()

    def locked(path: str) -> float:
        with lock:
            return 0.5

    changed = {**settings, "n_jobs": 2, "search_evaluator": locked}
    with pytest.raises(ConfigError, match=r"cannot be sent to a worker process: .*lock.*n_jobs = 1"):
        AutoSearch(None, changed, model, make_feeds()).search_model()
    assert len(AutoSearch(None, {**changed, "n_jobs": 1}, model, make_feeds()).search_model()) == DISTINCT


def test_failures_in_workers_come_back_with_their_cause(model: Path, settings: dict[str, Any]) -> None:
    def broken(path: str) -> float:
        if path != str(model):
            raise LookupError("labels are missing")
        return 0.5

    search = AutoSearch(None, {**settings, "n_jobs": 2, "search_evaluator": broken}, model, make_feeds())
    assert search.search_model() == []
    assert search.result is not None
    assert len(search.result.trials) <= 4  # three, and one that was running
    assert "labels are missing" in search.result.stop_reason
    assert all("LookupError" in (trial.outcome.traceback or "") for trial in search.result.trials)


def test_no_trial_is_lost_when_a_worker_dies_before_the_next_one_is_sent(tmp_path: Path) -> None:
    died = tmp_path / "died"

    def objective(config: QuantConfig, path: Path, judge: object) -> Outcome:
        if path.name == "deadly" and not died.exists():
            died.touch()
            os._exit(1)
        time.sleep(0.5)
        return Outcome(model_path=path.name)

    executor = WorkerProcesses(objective, slots=3)  # type: ignore[arg-type]
    try:
        executor.submit(0, QuantConfig(), Path("slow"))
        executor.submit(1, QuantConfig(), Path("deadly"))
        while not died.exists():
            time.sleep(0.05)
        time.sleep(1.0)  # the pool has noticed
        executor.submit(2, QuantConfig(), Path("late"))
        outcomes = dict(executor.next() for _ in range(3))
    finally:
        executor.close()
    assert {number: outcome.model_path for number, outcome in outcomes.items()} == {
        0: "slow",
        1: "deadly",
        2: "late",
    }
