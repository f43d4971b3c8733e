"""Who writes in an output directory: one search, or processes that search together."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autosearch.errors import StudyError


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Holds the directory's lock, which the operating system drops when the process ends.

    Raises:
        StudyError: If another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".autosearch.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise StudyError(
                f"search_output_dir {str(directory)!r}: a search is running there (process"
                f" {stream.read().strip() or 'unknown'}); wait for it or give another directory"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextmanager
def shared(directory: Path) -> Iterator[None]:
    """Keeps searches away that would have the directory for themselves.

    Raises:
        StudyError: If there is one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".autosearch.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"search_output_dir {str(directory)!r}: a search of its own is running there; wait for it or"
                " give another directory"
            ) from None
        except OSError as error:
            if error.errno not in (
                errno.ENOLCK,
                errno.ENOTSUP,
            ):  # some file systems of clusters have no locks
                raise
        yield
