"""The results that are kept on disk: one file each, checked when read, the least recently used evicted.

    directory / stage / first two digits of the key / key

Any number of processes and machines may share a directory. A file is written under another name and
renamed, never changed, and may vanish at any time: whoever misses it computes it again. The time of
its last use is its modification time, which every read sets; so file systems that are mounted without
access times do as well.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from quant.cache.atomic import write_atomically
from quant.cache.flight import remove_unheld, single_flight

_log = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 10 * 10**9

Content = bytes | Sequence[bytes | memoryview]
"""Of an entry, whole or in parts."""

_MAGIC = b"autosearch-stage-2\n".ljust(32, b"\0")
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
"""64, so that arrays in the content may be aligned."""
_MAPPED_BYTES = 1 << 20
"""Larger entries are mapped into memory, which processes share."""

_KEY = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\..+\.tmp")
_LOCKS = "locks"

_SLACK = 32
"""What one process adds before it looks at the directory again: 1/32 of the limit."""
_KEPT_SHARE = 0.9
"""Of the limit, after an eviction; so that not every write evicts."""
_ABANDONED_S = 24 * 3600
"""Unfinished files older than this belong to nobody any more."""


@dataclass(frozen=True)
class DiskEntry:
    """One result on disk.

    Attributes:
        path: Its file.
        stage: The stage's name.
        size_bytes: Of the file.
        used: When it was last read or written, seconds since the epoch.
    """

    path: Path
    stage: str
    size_bytes: int
    used: float


@dataclass
class DiskStore:
    """Files of one directory; whatever goes wrong with them costs a warning and no result.

    Attributes:
        directory: Made with the first entry.
        limit_bytes: Most bytes that entries take together, None = any number. Each process that
            writes may exceed it by 1/32 for a while.
    """

    directory: Path
    limit_bytes: int | None = DEFAULT_LIMIT_BYTES
    _room: int = 0
    _complaints: set[int | None] = field(default_factory=set)

    def path(self, stage: str, key: str) -> Path:
        """Where an entry is."""
        return self.directory / stage / key[:2] / key

    def flight(self, key: str) -> AbstractContextManager[None]:
        """Held by the one process that computes this entry, while others wait."""
        return single_flight(self.directory / _LOCKS / key)

    def read(self, stage: str, key: str, *, quiet: bool = False) -> memoryview | None:
        """The entry's content, or None if it is not there or damaged.

        A large one is a view of the file's pages, which stay when the file is deleted.

        Args:
            stage: The stage's name.
            key: Of the entry.
            quiet: Say nothing of a damaged entry, because it will be read once more.
        """
        path = self.path(stage, key)
        try:
            data = _bytes_of(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not quiet:
                _log.warning("cache entry %s cannot be read (%s); computing it again", path, error)
            return None
        payload = data[_HEADER_BYTES:]
        if data[:_HEADER_BYTES] != _header((payload,)):
            if not quiet:
                _log.warning("cache entry %s is damaged; computing it again", path)
            return None
        with suppress(OSError):  # a directory that may only be read, or an entry just evicted
            os.utime(path)
        return payload

    def write(self, stage: str, key: str, content: Content) -> None:
        """Keeps an entry, and evicts others if there are too many bytes now."""
        path = self.path(stage, key)
        parts = (content,) if isinstance(content, bytes) else content
        size = _HEADER_BYTES + sum(map(len, parts))
        if self.limit_bytes is not None and size > self.limit_bytes:
            _log.debug("cache entry %s is larger than the limit of all", path)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (_header(parts), *parts))
        except OSError as error:
            self._complain(path, error)
            return
        self._make_room(size)

    def entries(self) -> Iterator[DiskEntry]:
        """What is there now, in no order; nothing but entries is ever looked at."""
        for path in _files(self.directory, depth=2):
            if _KEY.fullmatch(path.name) and path.parent.name == path.name[:2]:
                with suppress(OSError):  # evicted meanwhile
                    stat = path.stat()
                    yield DiskEntry(path, path.parent.parent.name, stat.st_size, stat.st_mtime)

    def remove(self, entries: Iterable[DiskEntry]) -> int:
        """Deletes entries; how many bytes that gave back."""
        freed = 0
        for entry in entries:
            with suppress(OSError):  # another process was faster, or it may not be
                entry.path.unlink()
                freed += entry.size_bytes
        return freed

    def remove_abandoned(self, older_than_s: float = _ABANDONED_S) -> None:
        """Deletes what processes left that were killed: unfinished files, and locks nobody holds."""
        before = time.time() - older_than_s
        for path in _files(self.directory, depth=2):
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()
        for path in _files(self.directory / _LOCKS, depth=0):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    remove_unheld(path)

    def _make_room(self, size_bytes: int) -> None:
        """Looks at the directory when what it had room for may have been used up."""
        if self.limit_bytes is None:
            return
        self._room -= size_bytes
        if self._room >= 0:
            return
        entries = sorted(self.entries(), key=lambda entry: (-entry.used, entry.path))
        total = sum(entry.size_bytes for entry in entries)
        if total > self.limit_bytes:
            self.remove_abandoned()
            evicted = []
            while total > self.limit_bytes * (_KEPT_SHARE if len(entries) > 1 else 1):
                evicted.append(entries.pop())
                total -= evicted[-1].size_bytes
            self.remove(evicted)
        self._room = min(self.limit_bytes - total, self.limit_bytes // _SLACK)

    def _complain(self, path: Path, error: OSError) -> None:
        """Once for each kind of error: a full disk stays full for every stage."""
        level = logging.DEBUG if error.errno in self._complaints else logging.WARNING
        self._complaints.add(error.errno)
        remedy = "; free some space, or lower the limit of the cache" if error.errno == errno.ENOSPC else ""
        _log.log(level, "cache entry %s cannot be written (%s); going on without%s", path, error, remedy)


def _header(parts: Sequence[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return _MAGIC + digest.digest()


def _bytes_of(path: Path) -> memoryview:
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size < _MAPPED_BYTES:
            return memoryview(stream.read())
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files exactly so many folders below; what vanishes or may not be read is left out."""
    try:
        with os.scandir(folder) as found:
            children = list(found)
    except OSError:
        return
    for child in children:
        if depth and child.is_dir(follow_symlinks=False):
            yield from _files(Path(child.path), depth - 1)
        elif not depth and child.is_file(follow_symlinks=False):
            yield Path(child.path)
