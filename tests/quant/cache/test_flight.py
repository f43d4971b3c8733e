from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

import pytest

from quant.cache import StageCache
from quant.cache.flight import remove_unheld, single_flight
from tests.quant.cache.processes import STAGE, finish, forever, slowly, start, wait_for


def test_one_computes_and_the_others_wait(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    assert finish(start(slowly, [(tmp_path / "cache", records, 4)] * 4)) == [0] * 4
    assert len(list(records.glob("ready*"))) == 4
    assert len(list(records.glob("computed*"))) == 1
    assert not list((tmp_path / "cache" / "locks").iterdir())


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    (process,) = start(forever, [(tmp_path / "cache", tmp_path / "begun")])
    wait_for(tmp_path / "begun")
    process.kill()
    process.join()
    assert len(list((tmp_path / "cache" / "locks").iterdir())) == 1
    assert StageCache(tmp_path / "cache").get(STAGE, {"x": 7}, lambda: 49) == 49
    assert not list((tmp_path / "cache" / "locks").iterdir())


def test_another_key_does_not_wait(tmp_path: Path) -> None:
    (process,) = start(forever, [(tmp_path / "cache", tmp_path / "begun")])
    wait_for(tmp_path / "begun")
    assert StageCache(tmp_path / "cache").get(STAGE, {"x": 8}, lambda: 64) == 64
    assert process.is_alive()
    process.kill()
    process.join()


def test_who_waits_too_long_goes_on_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lock"
    with single_flight(path), caplog.at_level(logging.WARNING):
        start_s = time.monotonic()
        with single_flight(path, patience_s=0.05):
            assert time.monotonic() - start_s >= 0.05
        assert path.exists(), "the lock of another one was removed"
    assert "is held for more than" in caplog.text
    assert not path.exists()


def test_a_lock_that_its_holder_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, the holder removes it and a third one makes another."""
    path, real, calls = tmp_path / "lock", fcntl.flock, []

    def flock(stream: int, operation: int) -> None:
        if not calls:
            path.unlink()
            path.touch()
        calls.append(stream)
        real(stream, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    with single_flight(path):
        assert len(calls) == 2
        stream = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            real(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(stream)


def test_file_systems_without_locks_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert StageCache(tmp_path).get(STAGE, {"x": 7}, lambda: 49) == 49
    assert StageCache(tmp_path).counts == {}
    assert StageCache(tmp_path).get(STAGE, {"x": 7}, lambda: 0) == 49


def test_exceptions_release_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), single_flight(tmp_path / "lock"):
        raise ZeroDivisionError
    with single_flight(tmp_path / "lock", patience_s=0):
        assert (tmp_path / "lock").exists()


def test_only_locks_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    with single_flight(tmp_path / "held"):
        remove_unheld(tmp_path / "held")
        assert (tmp_path / "held").exists()
    (tmp_path / "left").touch()
    remove_unheld(tmp_path / "left")
    remove_unheld(tmp_path / "absent")
    assert not list(tmp_path.iterdir())
