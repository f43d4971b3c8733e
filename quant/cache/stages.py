"""Content-addressed results of stages: in memory, and on disk where a directory is given.

A result's key is a digest of the stage's name and version and of everything that the stage reads. So
an entry can never be stale, may be shared by any number of searches and processes, and is safe to
delete at any time. What several processes need at once, one of them computes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from quant.cache.disk import DEFAULT_LIMIT_BYTES, Content, DiskStore
from quant.cache.memory import Recent
from quant.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A pure function's name in the cache.

    Attributes:
        name: What it makes; a folder of that name on disk.
        version: To be raised with every change of its results.
        memory_entries: Results that are kept in memory.
        memory_bytes: Most bytes that they take together, by `size`; the newest is kept in any case.
        size: Bytes of a result, where there is such a limit; called once for each.
        encode, decode: To bytes, or parts of them, and back from a view that may be of a file's pages;
            absent = never on disk.
    """

    name: str
    version: int
    memory_entries: int
    encode: Callable[[T], Content] | None = None
    decode: Callable[[memoryview], T] | None = None
    memory_bytes: int = 0
    size: Callable[[T], int] | None = None


@dataclass
class StageCount:
    """What a stage did in this process."""

    computed: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    seconds: float = 0.0

    def __add__(self, other: StageCount) -> StageCount:
        """What two processes did together."""
        return StageCount(
            self.computed + other.computed,
            self.memory_hits + other.memory_hits,
            self.disk_hits + other.disk_hits,
            self.seconds + other.seconds,
        )


@dataclass
class StageCache:
    """Looks results up, or computes and keeps them.

    Attributes:
        directory: Where entries are kept between processes; None = in memory alone.
        limit_bytes: Most bytes that they take there, None = any number; the least recently used go.
        counts: By stage name.
    """

    directory: Path | None = None
    limit_bytes: int | None = DEFAULT_LIMIT_BYTES
    counts: dict[str, StageCount] = field(default_factory=dict)
    _memory: dict[str, Recent[Any]] = field(default_factory=dict)
    _disk: DiskStore | None = None

    def get(self, stage: Stage[T], parameters: Mapping[str, Any], compute: Callable[[], T]) -> T:
        """The stage's result for these parameters.

        Args:
            stage: Which stage.
            parameters: JSON-ready; everything that decides the result, digests of large things.
            compute: Called if the result is nowhere; its own exceptions pass through.
        """
        key = stage_key(stage, parameters)
        count = self.counts.setdefault(stage.name, StageCount())
        recent: Recent[T] | None = self._memory.get(stage.name)
        if recent is None:
            recent = Recent(stage.memory_entries, stage.memory_bytes, stage.size)
            self._memory[stage.name] = recent
        if key in recent:
            count.memory_hits += 1
            return recent[key]
        result = self._load_or_compute(stage, key, count, compute)
        recent.add(key, result)
        return result

    def __contains__(self, item: tuple[Stage[Any], Mapping[str, Any]]) -> bool:
        stage, parameters = item
        key = stage_key(stage, parameters)
        disk = self._disk_of(stage)
        return key in self._memory.get(stage.name, ()) or (
            disk is not None and disk.path(stage.name, key).is_file()
        )

    def _load_or_compute(self, stage: Stage[T], key: str, count: StageCount, compute: Callable[[], T]) -> T:
        disk = self._disk_of(stage)
        if disk is None:
            return _timed(compute, count)
        assert stage.encode is not None and stage.decode is not None
        payload = disk.read(stage.name, key, quiet=True)
        if payload is None:
            with disk.flight(key):
                payload = disk.read(stage.name, key)  # another process may have been faster
                if payload is None:
                    result = _timed(compute, count)
                    disk.write(stage.name, key, stage.encode(result))
                    return result
        count.disk_hits += 1
        return stage.decode(payload)

    def _disk_of(self, stage: Stage[Any]) -> DiskStore | None:
        """Where the stage's results are kept between processes, if they are."""
        if self.directory is None or stage.encode is None or stage.decode is None:
            return None
        if self._disk is None:
            self._disk = DiskStore(self.directory, self.limit_bytes)
        return self._disk


def _timed(compute: Callable[[], T], count: StageCount) -> T:
    start = time.perf_counter()
    result = compute()
    count.seconds += time.perf_counter() - start
    count.computed += 1
    return result


def stage_key(stage: Stage[Any], parameters: Mapping[str, Any]) -> str:
    """sha256 of the stage's name, version and parameters, in hexadecimal."""
    text = json.dumps([stage.name, stage.version, parameters], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, (tuple, frozenset)):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    raise ConfigError(f"cache key: {type(value).__name__} has no canonical form")
