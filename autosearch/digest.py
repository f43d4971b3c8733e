"""Digests: names for contents."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from quant.graph.shared_weights import external_files


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_digest(path: Path) -> str:
    """Of a model with everything it refers to, in hexadecimal.

    sha256 of its file; where that refers to external data, sha256 of the lines ``digest  name`` of the
    model, with no name, and of the external files by name.

    Raises:
        FileNotFoundError: If one of the files is missing.
    """
    own = file_digest(path)
    names = sorted(external_files(path))
    if not names:
        return own
    lines = [f"{own}  \n"]
    for name in names:
        file = path.parent / name
        stat = file.stat()
        lines.append(f"{_digest_of(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=64)
def _digest_of(path: Path, inode: int, size: int, modified_ns: int) -> str:
    """Of one version of a file, which many candidates may share."""
    return file_digest(path)


def digest_of_json(value: object) -> str:
    """sha256 of a JSON-ready value, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
