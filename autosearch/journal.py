"""Optuna's journal file, written so that neither a killed process nor a full disk can spoil it."""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

from optuna.storages.journal import JournalFileBackend

_BLOCK = 1 << 16


class Journal(JournalFileBackend):
    """Lines of JSON, appended under a lock that the operating system drops when its holder dies.

    Optuna's own lock is a file beside the journal, which a killed process leaves behind: everybody then
    waits for half a minute. And a line that was cut off in the middle of its writing would be glued to the
    next one, after which nobody could read the journal; here the next writer takes it away.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them or none.

        Raises:
            OSError: If they cannot be written.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        file = os.open(self._file_path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _end_of_whole_lines(file)
            os.ftruncate(file, end)
            try:
                _write(file, lines, end)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise
        finally:
            os.close(file)  # which drops the lock


def _end_of_whole_lines(file: int) -> int:
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK)
        position = os.pread(file, end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0


def _write(file: int, content: bytes, position: int) -> None:
    while content:
        written = os.pwrite(file, content, position)
        content, position = content[written:], position + written
