"""Searches that are interrupted or killed, and the same command afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest

from tests.autosearch.models import DISTINCT, run_command
from tests.faults.processes import PATIENCE_S, is_running, wait_until
from tests.faults.searches import Search

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_trial_of_a_worker_that_was_killed_is_tried_again(search: Search) -> None:
    process = search.start("--n-jobs", 2, evaluation_s=0.3)
    search.wait_for(3)
    os.kill(search.evaluated()[-1][1], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    search.check_end()
    assert not [entry for entry in search.record("log.json").values() if entry["state"] == "FAIL"]


@pytest.mark.slow
def test_a_trial_that_ends_its_worker_twice_has_failed_and_takes_no_other_with_it(search: Search) -> None:
    search.plant("kill")
    process = search.start("--n-jobs", 2, evaluation_s=0.1)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "1 trials failed, first: WorkerDied" in out
    ((name, error),) = search.failures().items()
    assert search.planted() == {name: "kill"}
    assert error == "WorkerDied: twice, SIGKILL (by somebody, or for want of memory)"
    search.check_end(failed=1)


@pytest.mark.slow
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
