"""A search by many objectives whose process is killed, and the same command again."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autosearch import Outcome
from autosearch.samplers import Proposal
from autosearch.space import SearchSpace
from autosearch.storage import open_storage, sqlite_url
from autosearch.study import SearchStudy
from quant import QuantConfig
from tests.autosearch.models import SPACE, command, environment, run_command, write_job
from tests.autosearch.trials import make_trial


def test_a_killed_search_goes_on_to_the_same_front(tmp_path: Path) -> None:
    objectives = {
        "search_algo": "TPE",
        "metrics": {"L2": {}, "average_bitwidth_total": {"scale": 0.1}},
        "constraints": {"L2": {"max": 10}, "packed_size": {"max": "0.9x"}},
    }
    jobs = [write_job(tmp_path / name, **objectives) for name in ("killed", "whole")]
    killed, whole = (job.parent for job in jobs)
    running = subprocess.Popen(
        command("search", jobs[0]), cwd=killed, env=environment(), stderr=subprocess.PIPE
    )
    log = killed / "auto_search.log"
    while running.poll() is None and not (log.exists() and "Executing search 3/" in log.read_text()):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    for job in jobs:
        done = run_command("search", job, cwd=job.parent)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Best trial(s):\n|    |   number | software_metrics")
    assert "Continuing after" in log.read_text()
    entries = [json.loads((folder / "log.json").read_text()).values() for folder in (killed, whole)]
    measured = [
        sorted((entry["user_attrs_config_digest"], entry["values_0"], entry["values_1"]) for entry in each)
        for each in entries
    ]
    assert measured[0] == measured[1]
    fronts = [json.loads((folder / "best.json").read_text()).values() for folder in (killed, whole)]
    assert [each["config_digest"] for each in fronts[0]] == [each["config_digest"] for each in fronts[1]]
    for each in fronts[0]:
        assert (killed / each["model_path"]).exists()


@pytest.mark.parametrize("values", [(0.25, 4.0), None], ids=["complete", "infeasible"])
def test_a_trial_killed_before_its_end_is_told_to_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: tuple[float, float] | None
) -> None:
    def opened() -> SearchStudy:
        storage = open_storage(sqlite_url(tmp_path))
        return SearchStudy(storage, {"model": "a"}, ["minimize", "maximize"], "mine")

    space = SearchSpace(SPACE, QuantConfig())
    configuration = next(iter(space))
    study = opened()
    number = study.start(Proposal(configuration), *space.trial_params(configuration))
    outcome = Outcome({"a": 0.25} if values else {}, hardware={"b": 4.0}, infeasible=values is None)
    violations = {"a <= 1": 0.5}
    given = {"digest": configuration.digest, "outcome": outcome, "values": values, "violations": violations}
    trial = make_trial(number, **given)
    monkeypatch.setattr(study, "_end", lambda *_: None)
    study.finish(trial, 1.0)
    for _ in range(2):
        again = opened()
        (found,), abandoned = again.recover()
        assert (found.values, found.violations, abandoned) == (values, {"a <= 1": 0.5}, [])
        (frozen,) = again.study.trials
        assert frozen.constraints == {"a <= 1": 0.5}
        assert frozen.values == (None if values is None else list(values))
        assert frozen.state.name == ("PRUNED" if values is None else "COMPLETE")
