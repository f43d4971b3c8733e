"""Single flight: of several processes that need the same result, one computes it."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_log = logging.getLogger(__name__)

PATIENCE_S = 3600.0
"""A holder that takes longer is taken for stuck; the result is then computed a second time."""

_SHORTEST_S, _LONGEST_S = 0.005, 0.25
"""Between two looks at a lock that another one holds."""


@contextmanager
def single_flight(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Holds the lock file while the block runs, and removes it at the end.

    The operating system drops the lock when its holder dies, however it dies. Two processes of which
    each waits for the other cannot be, as long as stages depend on each other without cycles. Where
    locks are not supported, or the file cannot be made, the block runs without one: results are
    written atomically, so nothing but time is lost.

    Args:
        path: The lock file, one for each key; its folder is made.
        patience_s: When to go on without the lock.
    """
    stream = _acquire(path, patience_s)
    try:
        yield
    finally:
        if stream is not None:
            with suppress(OSError):
                path.unlink()  # before it is released: whoever waited sees that the name is gone
            os.close(stream)


def remove_unheld(path: Path) -> None:
    """Removes a lock file that a killed process left; one that is held stays."""
    try:
        stream = os.open(path, os.O_RDWR)
    except OSError:
        return
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(stream, path):
            path.unlink()
    os.close(stream)


def _acquire(path: Path, patience_s: float) -> int | None:
    """The descriptor that holds the lock, or None if there is to be none."""
    deadline = time.monotonic() + patience_s
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                held = _wait(stream, deadline)
                if held and _is_at(stream, path):
                    return stream
            except BaseException:
                os.close(stream)
                raise
            os.close(stream)
            if not held:
                _log.warning("%s is held for more than %.0f s; going on without it", path, patience_s)
                return None
    except OSError as error:
        _log.debug("no lock %s (%s)", path, error)
        return None


def _wait(stream: int, deadline: float) -> bool:
    """Whether the lock was obtained before the deadline."""
    pause = _SHORTEST_S
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)


def _is_at(stream: int, path: Path) -> bool:
    """Whether the open file is still the one of that name: its holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream), path.stat())
    except FileNotFoundError:
        return False
