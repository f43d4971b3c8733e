"""Searches that are interrupted or killed, and the same command afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import optuna
import pytest
from optuna.trial import TrialState

from tests.autosearch.models import DISTINCT, command, environment, run_command, write_job
from tests.faults.processes import PATIENCE_S, is_running, wait_until

pytestmark = pytest.mark.faults

EVALUATOR = """
import os, signal, time
from pathlib import Path

HERE = Path(__file__).parent

def evaluate(path):
    name = Path(path).stem
    if name == "model":  # the float one
        return 1.0
    with (HERE / "evaluated.txt").open("a") as record:
        record.write(f"{name} {os.getpid()}\\n")
    if (HERE / "deadly.txt").exists() and (HERE / "deadly.txt").read_text() in ("any", name):
        (HERE / "deadly.txt").write_text(name)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ["EVALUATION_S"]))
    return 1.0 - int(name[:8], 16) / 2**32
"""


class Search:
    """A search of 12 configurations as a command, half of which are candidates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = write_job(
            folder, search_evaluator="my_module:evaluate", search_metric_tolerance=0.5,
            search_output_dir="out", search_cache_dir="cache",
        )  # fmt: skip
        (folder / "my_module.py").write_text(EVALUATOR)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, evaluation_s: float = 0.05) -> subprocess.Popen[str]:
        """In a session of its own, so that it can be signalled like a terminal does."""
        process = subprocess.Popen(
            command("search", self.job, *arguments), cwd=self.folder, text=True, start_new_session=True,
            env={**environment(), "EVALUATION_S": str(evaluation_s)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, *arguments: object) -> None:
        """The same command until it is done."""
        process = self.start(*arguments, evaluation_s=0)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err

    def evaluated(self) -> list[tuple[str, int]]:
        """Model and process of every evaluation that began, in order."""
        path = self.folder / "evaluated.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(process)) for name, process in (line.split() for line in lines)]

    def wait_for(self, evaluations: int) -> None:
        wait_until(lambda: len(self.evaluated()) >= evaluations)

    def study(self) -> optuna.Study | None:
        """As it is on disk; None if nothing is yet."""
        path = self.folder / "out" / "study.db"
        if not path.exists():
            return None
        url = f"sqlite:///{path}"
        names = optuna.get_all_study_names(url)
        return optuna.load_study(study_name=names[0], storage=url) if names else None

    def complete(self) -> dict[int, str]:
        """Digests of the complete trials by number."""
        study = self.study()
        trials = [] if study is None else study.get_trials(states=(TrialState.COMPLETE,))
        return {trial.number: trial.user_attrs["configuration"]["digest"] for trial in trials}

    def record(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "out" / name).read_text())
        return content

    def check_records(self) -> None:
        """Whatever is listed is there, whole."""
        models = set()
        for entry in self.record("best.json").values():
            path = self.folder / entry["model_path"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["model_digest"]
            ort.InferenceSession(path)
            models.add(path)
        assert models
        assert set((self.folder / "out" / "models").glob("*.onnx")) >= models

    def check_end(self) -> None:
        """Each configuration has one complete trial, and nothing lies about."""
        self.check_records()
        study = self.study()
        assert study is not None
        assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}
        complete = self.complete()
        assert len(complete) == len(set(complete.values())) == DISTINCT
        assert len(self.record("log.json")) == DISTINCT
        listed = {self.folder / entry["model_path"] for entry in self.record("best.json").values()}
        assert set((self.folder / "out" / "models").iterdir()) == listed
        hidden = {path.name for folder in ("out", "cache") for path in (self.folder / folder).rglob(".*")}
        assert hidden == {".autosearch.lock"}


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    made = Search(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert not [pid for _, pid in made.evaluated() if is_running(pid)], "processes left behind"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_search_goes_on_and_repeats_nothing(search: Search, jobs: int) -> None:
    process = search.start("--n-jobs", jobs, evaluation_s=0.2)
    search.wait_for(3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to workers too
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "press Ctrl-C again to stop at once" in err
    assert "Traceback" not in err
    assert "stopped: interrupted" in out
    search.check_records()
    assert 3 <= len(search.evaluated()) == len(search.complete()) < DISTINCT
    assert "Stopped: interrupted" in (search.folder / "auto_search.log").read_text()
    search.finish()
    search.check_end()
    assert set(Counter(name for name, _ in search.evaluated()).values()) == {1}


def test_interrupted_while_workers_start(search: Search) -> None:
    process = search.start("--n-jobs", 2)
    log = search.folder / "auto_search.log"
    wait_until(lambda: log.exists() and "search space" in log.read_text())
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(search.evaluated()) == len(search.complete()) <= 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_interruption_stops_at_once(search: Search, jobs: int) -> None:
    process = search.start("--n-jobs", jobs, evaluation_s=1000)
    search.wait_for(jobs)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    wait_until(lambda: not any(is_running(pid) for _, pid in search.evaluated()))
    search.finish()
    search.check_end()


def test_killed_again_and_again_it_loses_nothing_and_repeats_only_what_was_in_flight(search: Search) -> None:
    moments = np.random.default_rng(0).uniform(0, 0.12, size=6)
    for kills, moment in enumerate(moments):
        before = search.complete()
        begun = len(search.evaluated())
        process = search.start(evaluation_s=0.05)
        if kills % 3:  # else while it starts up
            search.wait_for(begun + 1)
            time.sleep(moment)
        else:
            time.sleep(10 * moment)
        process.kill()
        process.communicate()
        after = search.complete()
        assert before.items() <= after.items()
        done = {digest[:16] for digest in before.values()}
        assert not done & {name for name, _ in search.evaluated()[begun:]}
        if (search.folder / "out" / "best.json").exists():
            search.check_records()
    search.finish()
    search.check_end()
    evaluations = Counter(name for name, _ in search.evaluated())
    assert len(evaluations) == DISTINCT
    assert evaluations.total() - DISTINCT <= len(moments)


def test_the_trial_of_a_worker_that_was_killed_is_tried_again(search: Search) -> None:
    process = search.start("--n-jobs", 2, evaluation_s=0.3)
    search.wait_for(3)
    os.kill(search.evaluated()[-1][1], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    search.check_end()
    assert not [entry for entry in search.record("log.json").values() if entry["state"] == "FAIL"]


def test_a_trial_that_ends_its_worker_twice_has_failed_and_takes_no_other_with_it(search: Search) -> None:
    (search.folder / "deadly.txt").write_text("any")
    process = search.start("--n-jobs", 2, evaluation_s=0.1)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "1 trials failed, first: WorkerDied" in out
    (failed,) = [entry for entry in search.record("log.json").values() if entry["state"] == "FAIL"]
    assert failed["user_attrs_config_digest"].startswith((search.folder / "deadly.txt").read_text())
    assert "SIGKILL" in failed["user_attrs_error"]
    assert len(search.complete()) == DISTINCT - 1


def test_workers_end_soon_after_a_parent_that_was_killed(search: Search) -> None:
    process = search.start("--n-jobs", 2, evaluation_s=1000)
    search.wait_for(2)
    process.kill()
    process.wait()
    workers = {pid for _, pid in search.evaluated()}
    assert len(workers) == 2
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    search.finish("--n-jobs", 2)
    search.check_end()


def test_a_second_process_is_refused_while_one_searches(search: Search) -> None:
    process = search.start(evaluation_s=1000)
    search.wait_for(1)
    done = run_command("search", search.job, cwd=search.folder)
    assert done.returncode == 2
    assert f"a search is running there (process {process.pid})" in done.stderr
