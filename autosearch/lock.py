"""One search at a time in an output directory."""

from __future__ import annotations

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
