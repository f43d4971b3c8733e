from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.cache import Stage, StageCache, stage_key
from quant.errors import ConfigError
from tests.quant.cache.processes import STAGE


def _never() -> Any:
    raise AssertionError("computed again")


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_memory_first_then_disk(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    assert cache.get(STAGE, {"x": 3}, lambda: 9) == 9
    assert cache.get(STAGE, {"x": 3}, _never) == 9
    other = StageCache(tmp_path)
    assert (STAGE, {"x": 3}) in other
    assert (STAGE, {"x": 4}) not in other
    assert other.get(STAGE, {"x": 3}, _never) == 9
    assert other.get(STAGE, {"x": 3}, _never) == 9
    first, second = cache.counts["squares"], other.counts["squares"]
    assert (first.computed, first.memory_hits, first.disk_hits) == (1, 1, 0)
    assert (second.computed, second.memory_hits, second.disk_hits) == (0, 1, 1)


def test_the_key_holds_name_version_and_parameters() -> None:
    keys = [
        stage_key(STAGE, {"x": 3, "y": (1, 2)}),
        stage_key(STAGE, {"x": 4, "y": (1, 2)}),
        stage_key(STAGE, {"x": 3, "y": (2, 1)}),
        stage_key(Stage("squares", 2, 1), {"x": 3, "y": (1, 2)}),
        stage_key(Stage("cubes", 1, 1), {"x": 3, "y": (1, 2)}),
    ]
    assert len(set(keys)) == len(keys)
    assert stage_key(STAGE, {"y": [1, 2], "x": 3}) == keys[0]
    assert stage_key(STAGE, {"s": frozenset("ab")}) == stage_key(STAGE, {"s": ["a", "b"]})


def test_parameters_without_a_canonical_form_are_refused() -> None:
    with pytest.raises(ConfigError, match="object has no canonical form"):
        stage_key(STAGE, {"x": object()})


def _truncate(data: bytes) -> bytes:
    return data[:-1]


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 4])


def _other_header(data: bytes) -> bytes:
    return b"X" + data[1:]


@pytest.mark.parametrize("damage", [_truncate, _flip, _other_header, lambda _: b""])
def test_damaged_entries_are_computed_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    StageCache(tmp_path).get(STAGE, {"x": 3}, lambda: 9)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert StageCache(tmp_path).get(STAGE, {"x": 3}, lambda: 9) == 9
    assert f"{path} is damaged" in caplog.text
    assert StageCache(tmp_path).get(STAGE, {"x": 3}, _never) == 9


def test_an_unwritable_directory_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = StageCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        assert cache.get(STAGE, {"x": 3}, lambda: 9) == 9
    assert "cannot be written" in caplog.text
    assert cache.get(STAGE, {"x": 3}, _never) == 9


def test_exceptions_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.get(STAGE, {"x": 0}, lambda: 1 // 0)
    assert not files(tmp_path)
    assert cache.get(STAGE, {"x": 0}, lambda: 7) == 7


def test_stages_without_encoding_stay_in_memory(tmp_path: Path) -> None:
    StageCache(tmp_path).get(Stage("graphs", 1, 4), {}, lambda: object())
    assert not files(tmp_path)


def test_eviction_by_count_drops_the_least_recently_used() -> None:
    cache = StageCache()
    stage: Stage[int] = Stage("n", 1, memory_entries=2)
    for x in (1, 2, 1, 3):
        cache.get(stage, {"x": x}, lambda x=x: x)
    kept = [x for x in (1, 2, 3) if (stage, {"x": x}) in cache]
    assert kept == [1, 3]


def test_eviction_by_bytes_keeps_the_newest_in_any_case() -> None:
    cache = StageCache()
    stage: Stage[bytes] = Stage("b", 1, memory_entries=9, memory_bytes=10, size=len)
    for x, size in enumerate((4, 4, 4)):
        cache.get(stage, {"x": x}, lambda size=size: bytes(size))
    assert [(stage, {"x": x}) in cache for x in range(3)] == [False, True, True]
    cache.get(stage, {"x": 9}, lambda: bytes(100))
    assert [(stage, {"x": x}) in cache for x in (0, 1, 2, 9)] == [False, False, False, True]
