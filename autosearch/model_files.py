"""The quantized models of a search on disk: their names, whether they are what was evaluated, leftovers."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from autosearch.digest import model_digest
from autosearch.trial import Trial
from quant.graph.shared_weights import external_files, is_shared_weights

_DIGITS = 16
"""Of a configuration's digest, in a file's name."""

_TEMPORARY = re.compile(r"\.(autosearch-|.+\.)(?P<process>\d+)(\.[0-9a-f]{8})?(\.tmp)?")
"""Names that files and folders have while they are being written, with the writer's process."""


@dataclass(frozen=True)
class ModelFiles:
    """Models by the digest of their configuration.

    Attributes:
        directory: Where they are.
    """

    directory: Path
    _references: dict[Path, tuple[tuple[int, ...], frozenset[str]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def path(self, digest: str) -> Path:
        """Where the model of a configuration is written."""
        return self.directory / f"{digest[:_DIGITS]}.onnx"

    def holds(self, trial: Trial) -> bool:
        """Whether the trial's model is there, with the bytes that were evaluated."""
        try:
            return model_digest(self.path(trial.digest)) == trial.outcome.model_digest
        except FileNotFoundError:
            return False

    def delete(self, digest: str) -> None:
        """Removes a configuration's model, with its external data and what only it needed."""
        path = self.path(digest)
        for file in (path, Path(f"{path}.data")):
            file.unlink(missing_ok=True)
        self.remove_unneeded_weights()

    def remove_unneeded_weights(self) -> None:
        """Removes shared weights that no model in the directory refers to.

        Workers may be writing models meanwhile: a worker writes the model and then, once more, its
        weights if they are gone. So the file is taken away first and the models are looked at after
        that. A model that was there by then gets its weights back, and a later one brings its own.
        """
        for path in self.directory.glob("weights-*.data"):
            if not is_shared_weights(path.name) or path.name in self._needed():
                continue
            aside = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
            path.rename(aside)
            if path.name in self._needed():
                aside.rename(path)
            else:
                aside.unlink()

    def _needed(self) -> set[str]:
        """Files that the models refer to; each version of a model is read once."""
        needed: set[str] = set()
        for path in self.directory.glob("*.onnx"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                known = self._references.get(path)
                if known is None or known[0] != version:
                    known = self._references[path] = version, external_files(path)
                needed |= known[1]
        return needed


OTHERS_TAKE_S = 86400.0
"""Longer than any process takes to write a file."""


def remove_leftovers(paths: Iterable[Path], older_s: float = 0.0) -> None:
    """Removes those that a process of this machine was writing when it was killed.

    Args:
        paths: Of files and folders.
        older_s: Least age; where other machines write, too, `OTHERS_TAKE_S`, as their processes are not
            seen here.
    """
    for path in [path for path in paths if _is_leftover(path) and _age_s(path) >= older_s]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _is_leftover(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    try:
        os.kill(int(match["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
