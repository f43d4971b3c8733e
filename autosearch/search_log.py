"""auto_search.log: what people `tail -f`."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from autosearch.errors import OutputError

LIBRARIES = ("quant", "evaluators", "autosearch")
"""The packages whose loggers are this product's."""

_PACKAGES = ("onnx", "onnxruntime", "onnx-ir", "numpy", "optuna")


@contextmanager
def search_log(path: Path, is_shared: bool = False) -> Iterator[logging.Logger]:
    """A logger of one search alone, which also gets what the packages warn of while it runs.

    Args:
        path: Of the file.
        is_shared: Whether other processes may want the same file. One gets it, the others write beside it,
            each to a file of its own, named for machine and process: lines never mix.

    Raises:
        OutputError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
        if is_shared and not _has_lock(handler):
            handler.close()
            handler = logging.FileHandler(own_log(path), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"search_log_path {str(path)!r}: cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.Logger("autosearch.search", logging.INFO)  # not in the registry: no other search's
    log.addHandler(handler)
    libraries = [logging.getLogger(name) for name in LIBRARIES]
    for library in libraries:
        library.addHandler(handler)
    try:
        yield log
    finally:
        for library in libraries:
            library.removeHandler(handler)
        handler.close()


def log_levels() -> dict[str, int]:
    """Of the packages' loggers, by name: what another process needs to log alike."""
    levels = {name: logging.getLogger(name).getEffectiveLevel() for name in LIBRARIES}
    for name, logger in logging.getLogger().manager.loggerDict.items():
        if name.partition(".")[0] in LIBRARIES and isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels


def own_log(path: Path) -> Path:
    """A log's path with the machine and the process in its name."""
    return path.with_name(f"{path.stem}.{platform.node() or 'unknown'}-{os.getpid()}{path.suffix}")


def _has_lock(handler: logging.FileHandler) -> bool:
    """Whether the file is this process's now, until it is closed."""
    assert handler.stream is not None
    try:
        fcntl.flock(handler.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another's, or a file system without locks
        return False
    return True


def environment() -> str:
    """Versions and machine, on a line."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {packages}"
