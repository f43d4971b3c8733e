"""Four processes at once, one of which is killed; the database goes and comes back."""

from __future__ import annotations

import hashlib
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.faults.processes import wait_until
from tests.machines.fleet import DISTINCT, Fleet
from tests.machines.servers import Server

pytestmark = pytest.mark.faults


def test_four_try_every_configuration_once_and_end_alike(fleet: Fleet, storage: str) -> None:
    fleet.write(storage)
    folders = ["out", "out", "far", "away"]  # two share theirs
    processes = [fleet.start("--output-dir", folder, together=4) for folder in folders]
    for process in processes:
        assert f"candidates of {DISTINCT} trials" in fleet.end(process)
    evaluations = Counter(name for name, _ in fleet.evaluated())
    assert set(evaluations.values()) == {1}
    assert len(evaluations) == DISTINCT
    assert len({pid for _, pid in fleet.evaluated()}) == 4
    assert sorted(fleet.complete()) == sorted(evaluations)
    assert {trial.state for trial in fleet.trials()} <= {TrialState.COMPLETE, TrialState.FAIL}
    records = [(fleet.record("best.json", folder), fleet.record("log.json", folder)) for folder in folders]
    for best, log in records:
        assert len(log) == DISTINCT
        assert [entry["number"] for entry in best.values()] == [e["number"] for e in records[0][0].values()]
        for entry in best.values():
            path = Path(entry["model_path"])
            assert path.is_absolute()
            assert entry["machine"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["model_digest"]
    listed = {Path(entry["model_path"]) for best, _ in records for entry in best.values()}
    assert {
        path for folder in set(folders) for path in (fleet.folder / folder / "models").iterdir()
    } == listed
    for process in processes:
        lines = fleet.log(process).splitlines()
        assert all(line[:4].isdigit() for line in lines)


def test_trials_of_one_that_was_killed_come_back(fleet: Fleet, either_storage: str) -> None:
    fleet.write(either_storage)
    killed, *others = [fleet.start("--output-dir", f"out{i}", together=4) for i in range(4)]
    fleet.wait_for(2, killed)
    fleet.hold(killed)
    before = fleet.evaluated()
    wait_until(lambda: len(fleet.evaluated()) > len(before))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for process in others:
        assert f"candidates of {DISTINCT} trials" in fleet.end(process)
    evaluations = Counter(name for name, _ in fleet.evaluated())
    assert len(evaluations) == DISTINCT
    assert evaluations.total() <= DISTINCT + 1
    assert sorted(fleet.complete()) == sorted(evaluations)


@pytest.mark.slow
def test_one_that_was_suspended_does_not_overwrite(fleet: Fleet, either_storage: str) -> None:
    """Nobody can see that it lives; when it comes back, its trial is another's."""
    fleet.write(either_storage)
    suspended, other = [fleet.start("--output-dir", f"out{i}", together=2) for i in range(2)]
    fleet.wait_for(1, suspended)
    suspended.send_signal(signal.SIGSTOP)
    assert f"candidates of {DISTINCT} trials" in fleet.end(other)
    suspended.send_signal(signal.SIGCONT)
    assert f"candidates of {DISTINCT} trials" in fleet.end(suspended)
    evaluations = Counter(name for name, _ in fleet.evaluated())
    assert evaluations.total() <= DISTINCT + 1
    assert Counter(fleet.complete()) == Counter(set(evaluations))
    assert fleet.record("best.json", "out0").keys() == fleet.record("best.json", "out1").keys()
    if evaluations.total() > DISTINCT:
        assert "dropped: this process gave no sign of life" in fleet.log(suspended)


@pytest.mark.slow
def test_one_that_is_told_to_end_gives_its_trials_back(fleet: Fleet, either_storage: str) -> None:
    fleet.write(either_storage)
    told, other = [fleet.start("--output-dir", f"out{i}", together=2) for i in range(2)]
    fleet.wait_for(1, told)
    told.send_signal(signal.SIGTERM)
    told.communicate(timeout=30)
    assert told.returncode == 128 + signal.SIGTERM
    assert f"candidates of {DISTINCT} trials" in fleet.end(other)
    assert len(set(fleet.complete())) == len(fleet.complete()) == DISTINCT
    assert not [trial for trial in fleet.trials() if "abandoned" in trial.user_attrs]


def test_a_database_that_is_restarted_loses_nothing(fleet: Fleet, server: Server, tmp_path: Path) -> None:
    fleet.write(server.new_database("restarted"))
    processes = [fleet.start("--output-dir", f"out{i}", together=2, evaluation_s=0.05) for i in range(2)]
    fleet.wait_for(8)
    server.stop()
    time.sleep(4)  # longer than processes may be silent: nobody is silent while nobody can speak
    server.start()
    for process in processes:
        assert f"candidates of {DISTINCT} trials" in fleet.end(process)
        assert "trying again for up to 300 s" in fleet.log(process)
    assert Counter(name for name, _ in fleet.evaluated()) == Counter(fleet.complete())
    assert len(fleet.complete()) == DISTINCT


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_search_clearly(fleet: Fleet, server: Server) -> None:
    fleet.write(server.new_database("away"), storage_patience=1)
    process = fleet.start(evaluation_s=0.05)
    fleet.wait_for(3)
    try:
        server.stop()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err.startswith("error: storage: ")
        assert "when that is mended, the same command goes on" in err
        assert "Traceback" not in err
    finally:
        server.start()
    before = set(fleet.complete())
    begun = len(fleet.evaluated())
    fleet.end(fleet.start())
    assert len(fleet.complete()) == DISTINCT
    assert not before & {name for name, _ in fleet.evaluated()[begun:]}


@pytest.mark.slow
def test_sixteen_share_one_storage(fleet: Fleet, storage: str) -> None:
    fleet.write(storage)
    processes = [fleet.start("--output-dir", f"out{i}", together=16) for i in range(16)]
    for process in processes:
        assert f"candidates of {DISTINCT} trials" in fleet.end(process)
    assert "lock" not in fleet.logs().casefold()
    assert Counter(fleet.complete()) == Counter(name for name, _ in fleet.evaluated())


@pytest.mark.parametrize(
    "limit", ["iteration_limit", pytest.param("find_n_candidates", marks=pytest.mark.slow)]
)
def test_limits_hold_for_all_together(fleet: Fleet, tmp_path: Path, limit: str) -> None:
    fleet.write(f"journal:{tmp_path / 'journal.log'}", search_stop_condition={limit: 9})
    processes = [fleet.start("--output-dir", f"out{i}", together=3) for i in range(3)]
    outs = [fleet.end(process) for process in processes]
    counts = {out.split(" candidates of ")[1].split(" trials")[0] for out in outs}
    assert counts == {str(len(fleet.complete()))}
    if limit == "iteration_limit":
        assert counts == {"9"}
    (reason,) = {out.split("stopped: ")[1].splitlines()[0] for out in outs}
    assert reason.startswith(limit)
