"""The quantized models of a search on disk: their names, whether they are what was evaluated, leftovers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autosearch.digest import file_digest
from autosearch.trial import Trial

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

    def path(self, digest: str) -> Path:
        """Where the model of a configuration is written."""
        return self.directory / f"{digest[:_DIGITS]}.onnx"

    def holds(self, trial: Trial) -> bool:
        """Whether the trial's model is there, with the bytes that were evaluated."""
        path = self.path(trial.digest)
        return path.is_file() and file_digest(path) == trial.outcome.model_digest

    def delete(self, digest: str) -> None:
        """Removes a configuration's model, with its external data."""
        path = self.path(digest)
        for file in (path, Path(f"{path}.data")):
            file.unlink(missing_ok=True)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes those that a process of this machine was writing when it was killed."""
    for path in [path for path in paths if _is_leftover(path)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
