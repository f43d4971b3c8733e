from __future__ import annotations

import json
import multiprocessing
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError, PendingRollbackError

from autosearch import storage as storage_module
from autosearch.errors import StudyError
from autosearch.journal import Journal
from autosearch.storage import Patience, open_storage, passes, shown_url, sqlite_url, stamp_trials


class _Driver(Exception):
    pass


AWAY = OperationalError("select 1", None, _Driver("server closed the connection"))


def wrapped(cause: Exception) -> StorageInternalError:
    error = StorageInternalError("as Optuna says it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AWAY, True),
        (wrapped(AWAY), True),
        (wrapped(PendingRollbackError("after a lost connection")), True),
        (OperationalError("", None, sqlite3.OperationalError("database is locked")), True),
        (OperationalError("", None, sqlite3.OperationalError("database or disk is full")), False),
        (OperationalError("", None, sqlite3.OperationalError("no such table: trials")), False),
        (ValueError("other"), False),
    ],
    ids=["away", "wrapped", "pending", "locked", "full", "no_table", "other"],
)
def test_what_passes(error: Exception, expected: bool) -> None:
    assert passes(error) is expected


def test_patience_calls_again_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, resets, told = list[float](), list[int](), list[bool]()
    monkeypatch.setattr(storage_module.time, "sleep", pauses.append)

    def function(again: bool) -> str:
        told.append(again)
        if len(told) < 6:
            raise wrapped(AWAY)
        return "done"

    assert Patience(60).call(function, lambda: resets.append(1)) == "done"
    assert told == [False, *[True] * 5]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert len(resets) == 5


def test_patience_ends_and_is_not_spent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(storage_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage_module.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    calls = []

    def function(again: bool) -> None:
        calls.append(again)
        raise wrapped(AWAY)

    patience = Patience(10)
    with pytest.raises(StorageInternalError):
        patience.call(function, lambda: None)
    assert now[0] == pytest.approx(10)
    before = len(calls)
    with pytest.raises(StorageInternalError):
        patience.call(function, lambda: None)
    assert len(calls) == before + 1


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def function(again: bool) -> None:
        calls.append(again)
        raise LookupError("ours")

    with pytest.raises(LookupError):
        Patience(10).call(function, lambda: None)
    assert calls == [False]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_trials_begin_with_the_stamp(kind: str, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path) if kind == "sqlite" else f"journal:{tmp_path / 'j'}"
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    stamp_trials(storage, {"owner": "me"})
    study.enqueue_trial({"x": 1.0})
    assert study.trials[0].user_attrs == {}  # whoever takes it from the queue owns it
    study.ask()
    study.ask()
    assert [trial.user_attrs for trial in study.trials] == [{}, {"owner": "me"}]


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)  # as if it were not installed
    with pytest.raises(StudyError, match=r"'mysql\+pymysql://me:\*\*\*@host/db'.*'autosearch\[mysql\]'"):
        open_storage("mysql+pymysql://me:secret@host/db")


def test_passwords_are_not_shown() -> None:
    assert shown_url("postgresql+psycopg://me:se@cret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert shown_url("sqlite:////folder/study.db") == "sqlite:////folder/study.db"
    assert shown_url("journal:/folder/j") == "journal:/folder/j"


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(str(path)).append_logs([{"a": 1}])
    with path.open("ab") as stream:
        stream.write(b'{"cut": ' + b"x" * 100_000)
    Journal(str(path)).append_logs([{"b": 2}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]


def _append(path: str, writer: int) -> None:
    journal = Journal(path)
    for number in range(50):
        journal.append_logs([{"writer": writer, "number": number}, {"writer": writer, "second": number}])


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(str(path))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(str(path), writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for writer in range(4):
        own = [entry for entry in entries if entry["writer"] == writer]
        assert [entry["number"] for entry in own if "number" in entry] == list(range(50))
        assert len(own) == 100
