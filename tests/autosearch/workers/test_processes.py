from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autosearch import AutoSearch, Outcome
from autosearch.errors import ConfigError, OutputError
from autosearch.workers import Task, WorkerProcesses
from quant import QuantConfig
from tests.autosearch.models import DISTINCT, environment, make_feeds, write_job
from tests.autosearch.workers.objectives import FakeObjective
from tests.faults.processes import is_running, wait_until


@contextmanager
def workers(compute: Callable[[Task], Outcome], slots: int = 1, **options: Any) -> Iterator[WorkerProcesses]:
    executor = WorkerProcesses(FakeObjective(compute), slots, **options)
    try:
        yield executor
    finally:
        executor.close()


def submit(executor: WorkerProcesses, *names: str) -> None:
    for number, name in enumerate(names):
        executor.submit(Task(number, QuantConfig(), Path(name)))


class Local:
    """An evaluator with a state."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, path: str) -> float:
        return self.offset + Path(path).stat().st_size


def test_closures_and_objects_travel_and_each_line_of_a_trial_names_its_worker(
    model: Path, settings: dict[str, Any]
) -> None:
    local = Local(0.5)
    changed = {**settings, "n_jobs": 2, "search_evaluator": lambda path: local(path)}
    candidates = AutoSearch(None, changed, model, make_feeds()).search_model()
    assert len(candidates) == DISTINCT
    for candidate in candidates:
        (value,) = candidate["metrics"].values()
        assert value == 0.5 + Path(candidate["model_path"]).stat().st_size
    log = Path(settings["search_log_path"]).read_text().splitlines()
    lines = [line for line in log if "Executing search" in line]
    assert len(lines) == DISTINCT
    assert {line.partition("worker ")[2][:2] for line in lines} <= {"1:", "2:"}


SCRIPT = """
from pathlib import Path
import numpy as np
from autosearch import AutoSearch

class Reader:
    def __init__(self):
        rng = np.random.default_rng(1)
        self.feeds = iter([{"x": rng.normal(size=(16, 6)).astype(np.float32)} for _ in range(4)])
    def get_next(self):
        return next(self.feeds, None)

class Size:
    direction = "minimize"
    def __init__(self, scale):
        self.scale = scale
    def evaluate(self, path):
        return weigh(path) * self.scale

weigh = lambda path: Path(path).stat().st_size

class Config:
    search_space = {"calibrate_method": ["MinMax", "Percentile"], "per_channel": [False, True]}
    search_evaluator = Size(2.0)
    n_jobs = 2
    search_output_dir = "out"

for candidate in AutoSearch(None, Config, "model.onnx", Reader()).search_model():
    print(candidate["config_index"], *candidate["metrics"].values(), weigh(candidate["model_path"]))
"""


@pytest.mark.slow
def test_classes_of_a_script_travel_and_the_script_runs_once(tmp_path: Path) -> None:
    write_job(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)  # without `if __name__ == "__main__"`
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sorted(int(number) for number, _, _ in lines) == [0, 1, 2, 3]
    assert all(float(value) == 2 * int(size) for _, value, size in lines)


def test_an_evaluator_that_cannot_travel_is_refused(model: Path, settings: dict[str, Any]) -> None:
    lock = threading.Lock()

    def locked(path: str) -> float:
        with lock:
            return 0.5

    changed = {**settings, "n_jobs": 2, "search_evaluator": locked}
    with pytest.raises(ConfigError, match=r"cannot be sent to a worker process: .*lock.*n_jobs = 1"):
        AutoSearch(None, changed, model, make_feeds()).search_model()
    assert len(AutoSearch(None, {**changed, "n_jobs": 1}, model, make_feeds()).search_model()) == DISTINCT


class Unpacked:
    """Travels, and does not arrive."""

    def __call__(self, task: Task) -> Outcome:
        return Outcome()

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ImportError("no module of that name")

    def __getstate__(self) -> dict[str, Any]:
        return {"some": "state"}


def test_an_evaluator_that_does_not_arrive_is_refused() -> None:
    expected = r"cannot be opened in a worker process: ImportError: no module of that name.*importable"
    with workers(Unpacked()) as executor:
        submit(executor, "any")
        with pytest.raises(ConfigError, match=expected):
            executor.next()


class Deadly(Unpacked):
    """Ends every process that opens it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os._exit(9)


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_search() -> None:
    with workers(Deadly()) as executor:
        submit(executor, "any")
        with pytest.raises(OutputError, match="worker processes end while they start: exit code 9"):
            executor.next()


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


def test_the_trial_of_a_dead_worker_is_tried_once_more_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    died, begun = tmp_path / "died", tmp_path / "begun"

    def compute(task: Task) -> Outcome:
        with begun.open("a") as record:
            record.write(f"{task.path.name} {os.getpid()}\n")
        if task.path.name == "deadly" and not died.exists():
            died.touch()
            os._exit(7)
        while task.path.name == "slow" and not (tmp_path / "late").exists():
            time.sleep(0.01)
        (tmp_path / task.path.name).touch()
        return Outcome(model_path=task.path.name)

    with workers(compute, slots=3) as executor:
        submit(executor, "slow", "deadly")
        assert executor.next().outcome.model_path == "deadly"  # the second time
        executor.submit(Task(2, QuantConfig(), Path("late")))
        done = {each.number: each for each in (executor.next(), executor.next())}
    assert {number: each.outcome.model_path for number, each in done.items()} == {0: "slow", 2: "late"}
    lines = [line.split() for line in begun.read_text().splitlines()]
    assert sorted(name for name, _ in lines) == ["deadly", "deadly", "late", "slow"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == "worker 2: its process ended in trial 1: exit code 7; trying it once more"


def test_a_worker_that_died_between_two_trials_is_replaced() -> None:
    with workers(lambda task: Outcome(model_path=str(os.getpid()))) as executor:
        submit(executor, "first")
        first = int(executor.next().outcome.model_path or "")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_running(first))
        submit(executor, "second")
        assert int(executor.next().outcome.model_path or "") != first


def test_a_trial_that_ends_its_process_twice_has_failed(tmp_path: Path) -> None:
    def compute(task: Task) -> Outcome:
        if task.path.name == "exit":
            os._exit(3)
        if task.path.name == "signals":
            if (tmp_path / "aborted").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            (tmp_path / "aborted").touch()
            os.abort()
        return Outcome(model_path=task.path.name)

    with workers(compute, slots=2) as executor:
        submit(executor, "exit", "signals")
        done = {each.number: each for each in (executor.next(), executor.next())}
        submit(executor, "harmless")
        assert executor.next().outcome == Outcome(model_path="harmless")
    assert (done[0].worker, done[0].outcome.error) == (1, "WorkerDied: twice, exit code 3")
    assert done[1].outcome.error == (
        "WorkerDied: twice, by SIGABRT (a library gave up), then SIGKILL (by somebody, or for want of memory)"
    )


def test_a_trial_that_takes_too_long_has_failed_and_its_children_are_gone(tmp_path: Path) -> None:
    child = tmp_path / "child"

    def compute(task: Task) -> Outcome:
        if task.path.name == "endless":
            started = subprocess.Popen(["sleep", "1000"])
            child.write_text(str(started.pid))
            started.wait()
        return Outcome(model_path=task.path.name)

    with workers(compute, slots=2, timeout_s=0.5) as executor:
        submit(executor, "endless", "short")
        done = {each.number: each.outcome for each in (executor.next(), executor.next())}
        submit(executor, "afterwards")
        assert executor.next().outcome.model_path == "afterwards"
    assert done[1].model_path == "short"
    assert (done[0].error or "").startswith("TrialTimeout: not done after 0.5 s; raise trial_timeout")
    wait_until(lambda: not is_running(int(child.read_text())))


def test_the_end_of_a_parent_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def compute(task: Task) -> Outcome:
        with pids.open("a") as record:
            record.write(f"{os.getpid()}\n")
        time.sleep(0 if task.path.name == "short" else 1000)
        return Outcome()

    with workers(compute, slots=2) as executor:
        submit(executor, "long", "short")
        executor.next()
        wait_until(lambda: len(pids.read_text().split()) == 2)
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())


def test_a_worker_among_its_libraries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It logs into the one log, takes its share of the cores, and ends with its exit handlers."""

    def compute(task: Task) -> Outcome:
        import atexit

        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

        logging.getLogger("quant.calibration").warning("a tensor of %d zeros", 3)
        atexit.register(lambda: (tmp_path / "left").touch())
        return Outcome(metrics={each["filepath"]: each["num_threads"] for each in threadpool_info()})

    with workers(compute, threads=1) as executor:
        executor.submit(Task(5, QuantConfig(), Path("any")))
        threads = executor.next().outcome.metrics
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("quant.calibration", logging.WARNING)
    assert record.getMessage() == "worker 1, trial 5: a tensor of 3 zeros"
    assert threads
    assert set(threads.values()) == {1}
    assert (tmp_path / "left").exists()


def test_what_two_workers_need_is_computed_once(model: Path, settings: dict[str, Any]) -> None:
    counts = {}
    for jobs in (1, 2):
        own = {f"search_{kind}_dir": str(model.parent / f"{kind}{jobs}") for kind in ("output", "cache")}
        search = AutoSearch(None, {**settings, **own, "n_jobs": jobs}, model, make_feeds())
        search.search_model()
        assert search.result is not None
        counts[jobs] = search.result.stages["statistics"]
    assert counts[1].computed == counts[2].computed == 1
    assert counts[2].disk_hits == 1
