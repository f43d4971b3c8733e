"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Writes to a temporary name and renames, so that a reader never sees half a file.

    Args:
        path: Where.
        data: The content, or its parts in order.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as stream:
            for part in (data,) if isinstance(data, bytes) else data:
                stream.write(part)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # a write does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
