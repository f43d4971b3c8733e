"""The processes that search together, and which of them have ended."""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from optuna.storages import BaseStorage

from autosearch.storage import close_session

_log = logging.getLogger(__name__)

MISSED = 6
"""Heartbeats in a row that must be missing before a process is taken to have ended."""

_KEY = "autosearch:parent:"
_GONE = -1


@dataclass(frozen=True)
class Parent:
    """A process that asks and tells a study.

    Attributes:
        id: Names it; no other process has it, at any time.
        host: Name of its machine.
        machine: Number of that machine's installation; empty where it has none.
        boot: Changes when the machine starts anew; empty where nobody knows.
        namespace: Of its process number: two containers may have the same.
        process: Its number.
        started: Tells it from a later process with this number; empty where nobody knows.
    """

    id: str
    host: str
    machine: str
    boot: str
    namespace: str
    process: int
    started: str

    @classmethod
    def this(cls) -> Parent:
        """This process, under a new name."""
        host, process = platform.node() or "unknown", os.getpid()
        return cls(
            id=f"{host}:{process}:{uuid4().hex[:8]}",
            host=host,
            machine=_content("/etc/machine-id"),
            boot=_content("/proc/sys/kernel/random/boot_id"),
            namespace=_link("/proc/self/ns/pid"),
            process=process,
            started=_started(process) or "",
        )

    def has_ended(self, here: Parent) -> bool:
        """Whether that is certain, as seen from a process of the same machine; else False."""
        if (self.host, self.machine) != (here.host, here.machine):
            return False
        if self.boot != here.boot:
            return bool(self.machine)
        if self.namespace != here.namespace:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return bool(self.started) and _started(self.process) != self.started


def host_of(owner: str) -> str:
    """The machine's name in the id of a parent."""
    return owner.rsplit(":", 2)[0]


class Parents:
    """Those of one study, as one of them sees them.

    Each counts its heartbeats in the study; a thread does that and reads the counts of the others. Who
    did not count on while this process has read `MISSED` times, at least a heartbeat apart, has ended. No
    clock is compared with another one, and while the storage is away nobody misses anything.
    """

    def __init__(self, storage: BaseStorage, study_id: int, every_s: float | None) -> None:
        """Writes nothing yet.

        Args:
            storage: Of the study.
            study_id: Of the study.
            every_s: Seconds from one heartbeat to the next; None = there is but this process.
        """
        self.me = Parent.this()
        self._storage = storage
        self._study_id = study_id
        self._every_s = every_s
        self._beat = 0
        self._seen: dict[str, tuple[int, int]] = {}  # by id: its last count, and how often it was read
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """Makes this process known, and begins to count."""
        self._write(0)
        if self._every_s is not None and self._thread is None:
            self._thread = threading.Thread(target=self._count, name="heartbeat", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        """The others need not wait for this process any more."""
        if self._thread is None:
            return
        self._left.set()
        self._thread.join(self._every_s)
        self._thread = None
        self._write(_GONE)

    def ended(self, owners: set[str], attributes: Mapping[str, Any]) -> set[str]:
        """Which of these parents have ended.

        Args:
            owners: Their ids.
            attributes: Of the study, just read.
        """
        others, known = owners - {self.me.id}, _entries(attributes)
        return {owner for owner in others if owner not in known or self._has_ended(known[owner])}

    def is_alone(self, attributes: Mapping[str, Any]) -> bool:
        """Whether that is certain."""
        entries = _entries(attributes).items()
        return all(self._has_ended(entry) for id, entry in entries if id != self.me.id)

    def _has_ended(self, entry: Mapping[str, Any]) -> bool:
        if entry["beat"] == _GONE:
            return True
        parent = Parent(**{field.name: entry[field.name] for field in fields(Parent)})
        if parent.has_ended(self.me):
            return True
        if self._every_s is None:
            return False
        last, times = self._seen.get(parent.id, (entry["beat"], 0))
        enough = math.ceil(MISSED * max(1.0, (entry["every_s"] or 0) / self._every_s))
        return bool(last == entry["beat"] and times >= enough)

    def _count(self) -> None:
        while not self._left.wait(self._every_s):
            try:
                self._beat += 1
                self._write(self._beat)
                self._look()
            except Exception as error:  # noqa: BLE001 - drivers raise types of their own; the next one counts
                _log.warning("storage: heartbeat: %s", error)
        close_session(self._storage)

    def _look(self) -> None:
        """Notes who has counted on."""
        attributes = self._storage.get_study_user_attrs(self._study_id)
        for id, entry in _entries(attributes).items():
            last, times = self._seen.get(id, (None, 0))
            self._seen[id] = (entry["beat"], times + 1 if last == entry["beat"] else 0)

    def _write(self, beat: int) -> None:
        entry = {**asdict(self.me), "every_s": self._every_s, "beat": beat}
        self._storage.set_study_user_attr(self._study_id, f"{_KEY}{self.me.id}", entry)


def _entries(attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key.removeprefix(_KEY): entry for key, entry in attributes.items() if key.startswith(_KEY)}


def _content(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process began, in ticks since the machine did; None if it is gone, or dead and not buried."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]
