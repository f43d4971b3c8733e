"""Evaluators that raise, hang or end the process, one in each way."""

from __future__ import annotations

import re

import pytest

from tests.faults.processes import PATIENCE_S
from tests.faults.searches import Search

pytestmark = pytest.mark.faults

ERRORS = {
    "raise": r"EvaluationError: evaluator 'evaluate' raised LookupError: no label",
    "hang": r"TrialTimeout: not done after 8 s; raise trial_timeout.*",
    "exit": r"WorkerDied: twice, exit code 7",
    "abort": r"WorkerDied: twice, SIGABRT \(a library gave up\)",
}


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_costs_its_own_trial_and_the_search_goes_on(search: Search, jobs: int) -> None:
    search.plant(*ERRORS)
    process = search.start("--n-jobs", jobs, "--set", "trial_timeout=8", evaluation_s=0)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    search.check_end(failed=len(ERRORS))
    failures, planted = search.failures(), search.planted()
    assert sorted(planted.values()) == sorted(ERRORS)
    for name, fault in planted.items():
        assert re.fullmatch(ERRORS[fault], failures[name])
    evaluations = [name for name, _ in search.evaluated()]
    tries = {fault: evaluations.count(name) for name, fault in planted.items()}
    assert tries == {"raise": 1, "hang": 1, "exit": 2, "abort": 2}


@pytest.mark.slow
def test_what_ends_the_search_itself_is_tried_in_a_process_of_its_own_afterwards(search: Search) -> None:
    search.plant("exit")
    process = search.start()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 7
    search.finish()
    search.check_end(failed=1)
    assert list(search.failures().values()) == ["WorkerDied: twice, exit code 7"]


def test_what_ends_the_search_twice_has_failed_where_processes_are_forbidden(search: Search) -> None:
    search.plant("abort")
    for _ in range(2):
        process = search.start("--set", "isolate_trials=false")
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -6
    search.finish("--set", "isolate_trials=false")
    search.check_end(failed=1)
    (error,) = search.failures().values()
    assert error.startswith("SearchDied: the search ended 2 times while it tried this configuration")
