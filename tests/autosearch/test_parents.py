from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autosearch.parents import MISSED, Parent, Parents, host_of
from autosearch.storage import open_storage

HERE = Parent.this()


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_no_two_have_the_same_id() -> None:
    assert Parent.this().id != HERE.id
    assert host_of(HERE.id) == HERE.host


def test_whether_a_process_has_ended_is_known_where_it_ran_alone() -> None:
    pid = gone()
    assert not HERE.has_ended(HERE)
    assert replace(HERE, process=pid).has_ended(HERE)
    assert replace(HERE, started="0").has_ended(HERE)  # its number is another's now
    assert not replace(HERE, process=pid, host="elsewhere").has_ended(HERE)
    assert not replace(HERE, process=pid, namespace="of a container").has_ended(HERE)
    assert replace(HERE, machine="m", boot="before").has_ended(replace(HERE, machine="m"))
    assert not replace(HERE, machine="", boot="before").has_ended(replace(HERE, machine=""))


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    one = replace(HERE, process=process.pid, started=stat[19])
    assert not one.has_ended(HERE)
    process.kill()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    assert one.has_ended(HERE)
    process.wait()


@pytest.fixture
def parents(tmp_path: Path) -> list[Parents]:
    """Two of one study, on machines that do not see each other; their threads do not run."""
    url = f"journal:{tmp_path / 'journal'}"
    study = optuna.create_study(storage=open_storage(url))
    made = [Parents(open_storage(url), study._study_id, 3600) for _ in range(2)]
    for number, each in enumerate(made):
        each.me = replace(each.me, host=f"machine{number}")
        each._write(0)
    return made


def ended(parents: list[Parents]) -> bool:
    """Whether the second has ended, for the first."""
    one, other = parents
    attributes = one._storage.get_study_user_attrs(one._study_id)
    return other.me.id in one.ended({one.me.id, other.me.id}, attributes)


def test_who_misses_heartbeats_has_ended(parents: list[Parents]) -> None:
    one, other = parents
    for beat in range(1, 20):
        other._write(beat)
        one._look()
        assert not ended(parents)
    for _ in range(MISSED):
        assert not ended(parents)
        one._look()
    assert ended(parents)
    other._write(20)  # it was asleep
    one._look()
    assert not ended(parents)


def test_who_sleeps_itself_accuses_nobody(parents: list[Parents]) -> None:
    one, _ = parents
    one._look()
    assert not ended(parents)  # however long ago that was


def test_a_slower_heart_is_given_more_time(parents: list[Parents]) -> None:
    one, other = parents
    other._every_s = 3 * 3600
    other._write(1)
    for _ in range(3 * MISSED):
        one._look()
        assert not ended(parents)
    one._look()
    assert ended(parents)


def test_who_leaves_has_ended_at_once(parents: list[Parents]) -> None:
    one, other = parents
    attributes = one._storage.get_study_user_attrs(one._study_id)
    assert not one.is_alone(attributes)
    other.enter()
    other.leave()
    assert ended(parents)
    assert one.is_alone(one._storage.get_study_user_attrs(one._study_id))


def test_who_is_not_known_has_ended(parents: list[Parents]) -> None:
    assert parents[0].ended({"nobody:1:0"}, {}) == {"nobody:1:0"}
