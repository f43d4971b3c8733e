from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from autosearch import AutoSearchConfig, Outcome
from autosearch.errors import ConfigError
from autosearch.workers import InProcess, WorkerProcesses, check_isolation, make_executor
from tests.autosearch.workers.objectives import FakeObjective


def chosen(abandoned: dict[Path, int] | None = None, objective: Any = None, **settings: Any) -> type:
    objective = objective or FakeObjective(lambda task: Outcome())
    executor: Any = make_executor(objective, AutoSearchConfig(**settings), abandoned or {})
    return type(executor._executor)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, InProcess),
        ({"n_jobs": 2}, WorkerProcesses),
        ({"trial_timeout": 10.0}, WorkerProcesses),
        ({"trial_timeout": -1}, InProcess),
        ({"isolate_trials": True}, WorkerProcesses),
        ({"isolate_trials": False}, InProcess),
    ],
    ids=repr,
)
def test_processes_where_asked_for(settings: dict[str, Any], kind: type) -> None:
    assert chosen(**settings) is kind


def test_a_process_for_what_may_have_ended_an_earlier_run() -> None:
    abandoned = {Path("1.onnx"): 1}
    assert chosen(abandoned) is WorkerProcesses
    assert chosen(abandoned, isolate_trials=False) is InProcess
    lock = threading.Lock()
    bound = FakeObjective(lambda task: Outcome(error=str(lock)))
    assert chosen(abandoned, objective=bound) is InProcess, "what cannot travel stays here"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_jobs": 3}, "isolate_trials: false .* n_jobs: 3 .*leave one"),
        ({"trial_timeout": 1.5}, "isolate_trials: false .*trial_timeout could not end"),
    ],
    ids=["n_jobs", "trial_timeout"],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_isolation(AutoSearchConfig(isolate_trials=False, **settings))
