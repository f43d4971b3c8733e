"""Content-addressed results of stages: in memory, and on disk where a directory is given.

A result's key is a digest of the stage's name and version and of everything that the stage reads. So
an entry can never be stale, may be shared by any number of searches and processes, and is safe to
delete at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

from quant.errors import ConfigError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MAGIC = b"autosearch-stage-1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A pure function's name in the cache.

    Attributes:
        name: What it makes; a folder of that name on disk.
        version: To be raised with every change of its results.
        memory_entries: Results that are kept in memory.
        memory_bytes: Most bytes that they take together, by `size`; the newest is kept in any case.
        size: Bytes of a result, where there is such a limit.
        encode, decode: To bytes and back; absent = never on disk.
    """

    name: str
    version: int
    memory_entries: int
    encode: Callable[[T], bytes] | None = None
    decode: Callable[[bytes], T] | None = None
    memory_bytes: int = 0
    size: Callable[[T], int] | None = None


@dataclass
class StageCount:
    """What a stage did in this process."""

    computed: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    seconds: float = 0.0


@dataclass
class StageCache:
    """Looks results up, or computes and keeps them.

    Attributes:
        directory: Where entries are kept between processes; None = in memory alone.
        counts: By stage name.
    """

    directory: Path | None = None
    counts: dict[str, StageCount] = field(default_factory=dict)
    _memory: dict[str, OrderedDict[str, Any]] = field(default_factory=dict)

    def get(self, stage: Stage[T], parameters: Mapping[str, Any], compute: Callable[[], T]) -> T:
        """The stage's result for these parameters.

        Args:
            stage: Which stage.
            parameters: JSON-ready; everything that decides the result, digests of large things.
            compute: Called if the result is nowhere; its own exceptions pass through.
        """
        key = stage_key(stage, parameters)
        count = self.counts.setdefault(stage.name, StageCount())
        entries = self._memory.setdefault(stage.name, OrderedDict())
        if key in entries:
            entries.move_to_end(key)
            count.memory_hits += 1
            result: T = entries[key]
            return result
        result = self._load_or_compute(stage, key, count, compute)
        entries[key] = result
        _evict(stage, entries)
        return result

    def __contains__(self, item: tuple[Stage[Any], Mapping[str, Any]]) -> bool:
        stage, parameters = item
        key = stage_key(stage, parameters)
        path = self._path(stage, key)
        return key in self._memory.get(stage.name, ()) or (path is not None and path.is_file())

    def _load_or_compute(self, stage: Stage[T], key: str, count: StageCount, compute: Callable[[], T]) -> T:
        stored = self._read(stage, key)
        if stored is not None:
            count.disk_hits += 1
            return stored[0]
        start = time.perf_counter()
        result = compute()
        count.seconds += time.perf_counter() - start
        count.computed += 1
        self._write(stage, key, result)
        return result

    def _path(self, stage: Stage[Any], key: str) -> Path | None:
        if self.directory is None or stage.encode is None:
            return None
        return self.directory / stage.name / key[:2] / key

    def _read(self, stage: Stage[T], key: str) -> tuple[T] | None:
        path = self._path(stage, key)
        if path is None or stage.decode is None:
            return None
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cache entry %s cannot be read (%s); computing it again", path, error)
            return None
        payload = data[len(_MAGIC) + _DIGEST_BYTES :]
        if (
            data[: len(_MAGIC)] != _MAGIC
            or hashlib.sha256(payload).digest() != data[len(_MAGIC) :][:_DIGEST_BYTES]
        ):
            _log.warning("cache entry %s is damaged; computing it again", path)
            return None
        return (stage.decode(payload),)

    def _write(self, stage: Stage[T], key: str, result: T) -> None:
        path = self._path(stage, key)
        if path is None or stage.encode is None:
            return
        payload = stage.encode(result)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _MAGIC + hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            _log.warning("cache entry %s cannot be written (%s); going on without", path, error)


def _evict(stage: Stage[T], entries: OrderedDict[str, T]) -> None:
    """Drops the least recently used results until the stage's limits hold."""
    while len(entries) > stage.memory_entries:
        entries.popitem(last=False)
    if stage.size is None:
        return
    total = sum(map(stage.size, entries.values()))
    while total > stage.memory_bytes and len(entries) > 1:
        total -= stage.size(entries.popitem(last=False)[1])


def stage_key(stage: Stage[Any], parameters: Mapping[str, Any]) -> str:
    """sha256 of the stage's name, version and parameters, in hexadecimal."""
    text = json.dumps([stage.name, stage.version, parameters], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, (tuple, frozenset)):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    raise ConfigError(f"cache key: {type(value).__name__} has no canonical form")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes to a temporary name and renames, so that a reader never sees half a file.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
