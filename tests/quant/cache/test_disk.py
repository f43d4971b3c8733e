from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.cache import DiskStore, StageCache
from quant.cache import disk as disk_module
from tests.quant.cache.processes import STAGE, finish, hammer, start

PAYLOAD = bytes(1000)
OVERHEAD = 64


def key(x: int) -> str:
    return hashlib.sha256(str(x).encode()).hexdigest()


def held(store: DiskStore) -> set[str]:
    return {entry.path.name for entry in store.entries()}


def age(store: DiskStore, x: int, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(store.path("s", key(x)), (moment, moment))


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, limit_bytes=4 * (1000 + OVERHEAD))
    for x in range(4):
        store.write("s", key(x), PAYLOAD)
        age(store, x, 100 - x)
    assert store.read("s", key(0)) == PAYLOAD  # now the newest
    store.write("s", key(4), PAYLOAD)
    assert held(store) == {key(0), key(4), key(3)}


def test_recency_is_no_matter_of_access_times(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.write("s", key(0), PAYLOAD)
    age(store, 0, 1000)
    before = next(store.entries()).used
    store.read("s", key(0))
    assert next(store.entries()).used - before == pytest.approx(1000, abs=60)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=30), limit=st.integers(200, 5000))
def test_the_limit_holds_and_the_newest_stays(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int
) -> None:
    store = DiskStore(tmp_path_factory.mktemp("cache"), limit)
    for x, size in enumerate(sizes):
        store.write("s", key(x), bytes(size))
        if key(x) in held(store):
            age(store, x, 1000 - x)
        total = sum(entry.size_bytes for entry in store.entries())
        assert total == sum(path.stat().st_size for path in store.directory.rglob("*") if path.is_file())
        assert total <= limit
        assert (key(x) in held(store)) == (size + OVERHEAD <= limit)


def test_what_others_wrote_counts(tmp_path: Path) -> None:
    limit = 100 * (1000 + OVERHEAD)
    first, second = DiskStore(tmp_path, limit), DiskStore(tmp_path, limit)
    for x in range(200):
        (first, second)[x % 2].write("s", key(x), PAYLOAD)
        assert len(held(first)) <= 100 + 2 * (100 // 32 + 1)


def test_without_a_limit_all_stays(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, None)
    for x in range(50):
        store.write("s", key(x), PAYLOAD)
    assert len(held(store)) == 50


def test_looking_at_the_directory_is_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looks, real = DiskStore(tmp_path, 10**7), [], DiskStore.entries

    def entries(self: DiskStore) -> object:
        looks.append(1)
        return real(self)

    monkeypatch.setattr(DiskStore, "entries", entries)
    for x in range(600):
        store.write("s", key(x), PAYLOAD)
    assert len(looks) <= 1 + 600 * 1051 / (10**7 / 32)


def test_processes_that_hammer_one_directory_get_what_is_right(tmp_path: Path) -> None:
    limit = 5 * 500
    assert finish(start(hammer, [(tmp_path, limit, seed, 300) for seed in range(4)])) == [0] * 4
    store = DiskStore(tmp_path, limit)
    assert 0 < sum(entry.size_bytes for entry in store.entries()) <= limit
    for entry in store.entries():
        assert store.read(entry.stage, entry.path.name) is not None
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list((tmp_path / "locks").iterdir())


def test_an_entry_evicted_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path)
    store.write("s", key(0), PAYLOAD)

    def utime(path: Path) -> None:
        Path(path).unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr("os.utime", utime)
    assert store.read("s", key(0)) == PAYLOAD
    assert store.read("s", key(0)) is None


def test_a_full_disk_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replace(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", replace)
    cache = StageCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        for x in range(5):
            assert cache.get(STAGE, {"x": x}, lambda x=x: x * x) == x * x
    (record,) = caplog.records
    assert "No space left on device" in record.message
    assert "free some space, or lower the limit of the cache" in record.message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_is_full_in_the_middle_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Path.open

    def to_the_full_device(self: Path, *arguments: Any, **options: Any) -> object:
        return real(Path("/dev/full") if self.suffix == ".tmp" else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", to_the_full_device)
    with caplog.at_level(logging.WARNING):
        assert StageCache(tmp_path).get(STAGE, {"x": 3}, lambda: 9) == 9
    assert "No space left on device" in caplog.text


def test_only_entries_are_looked_at_and_removed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 3 * (1000 + OVERHEAD))
    mine = [tmp_path / "notes.txt", tmp_path / "s" / "ab" / "notes.txt", tmp_path / "s" / "ab" / key(1)]
    mine[-1].parent.mkdir(parents=True)
    for path in mine:
        path.write_bytes(bytes(10**5))
    for x in range(5, 12):
        store.write("s", key(x), PAYLOAD)
    store.remove(list(store.entries()))
    assert not held(store)
    assert all(path.exists() for path in mine)


def test_abandoned_files_go_when_they_are_old(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.write("s", key(0), PAYLOAD)
    (tmp_path / "locks").mkdir()
    folder = store.path("s", key(0)).parent
    unfinished = [folder / f".{key(x)}.123.0123abcd.tmp" for x in (0, 1)]
    locks = [tmp_path / "locks" / key(x) for x in (0, 1)]
    long_ago = time.time() - 1.5 * disk_module._ABANDONED_S
    for old, new in (unfinished, locks):
        old.touch()
        new.touch()
        os.utime(old, (long_ago, long_ago))
    store.remove_abandoned()
    assert [path.exists() for path in (*unfinished, *locks)] == [False, True, False, True]
    assert held(store) == {key(0)}


def test_a_directory_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StageCache(tmp_path).get(STAGE, {"x": 3}, lambda: 9)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    for name in ("os.utime", "os.replace", "os.open", "pathlib.Path.mkdir"):
        monkeypatch.setattr(name, refuse)
    assert StageCache(tmp_path).get(STAGE, {"x": 3}, lambda: 0) == 9
    assert StageCache(tmp_path).get(STAGE, {"x": 4}, lambda: 16) == 16


def test_large_entries_are_mapped_and_outlive_their_file(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    content = np.random.default_rng(0).bytes(3 << 20)
    store.write("s", key(0), (content[:1000], memoryview(content)[1000:]))
    found = store.read("s", key(0))
    assert found is not None and isinstance(found.obj, mmap.mmap)
    store.remove(list(store.entries()))
    assert found == content
    damaged = store.path("s", key(0))
    damaged.write_bytes(bytes(2 << 20))
    assert store.read("s", key(0)) is None
