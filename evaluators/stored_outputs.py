"""Keeps a model's outputs for many readings: in memory up to a limit, beyond it in a file."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.errors import EvaluatorInputError

Array = NDArray[Any]

_ALIGNMENT = 64  # bytes: a cache line, and no less than the widest vector load


@dataclass(frozen=True)
class _Spilled:
    """Where an array lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class StoredOutputs:
    """A list of batches, each a tuple of arrays; appended to first, then read many times.

    What passes the limit goes to an unnamed temporary file in `directory` (the system's own if
    None), which is memory-mapped for reading. Having no name, the file is never seen half written,
    and the operating system frees its space when it is closed, when the process ends, and also
    when the process is killed.
    """

    def __init__(self, memory_limit_bytes: int, directory: Path | None = None) -> None:
        self._memory_left = memory_limit_bytes
        self._directory = directory
        self._batches: list[tuple[Array | _Spilled, ...]] = []
        self._file: Any = None
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def is_in_memory(self) -> bool:
        """Whether nothing is in a file, so that a copy can be sent to another process."""
        return self._file is None

    def append(self, batch: Sequence[Array]) -> None:
        """Adds a batch; the arrays are kept as they are or copied to the file, never changed.

        Raises:
            EvaluatorInputError: If the file cannot be written.
        """
        size_bytes = sum(array.nbytes for array in batch)
        if size_bytes <= self._memory_left:
            self._memory_left -= size_bytes
            self._batches.append(tuple(batch))
            return
        self._map = None
        try:
            self._batches.append(tuple(self._spill(array) for array in batch))
        except OSError as error:
            raise EvaluatorInputError(
                f"cache_dir: cannot write {size_bytes} bytes of the float model's outputs to "
                f"{self._directory or tempfile.gettempdir()}: {error}"
            ) from error

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        """The batches in order; arrays that come from the file are read-only."""
        for batch in self._batches:
            yield tuple(a if isinstance(a, np.ndarray) else self._mapped(a) for a in batch)

    def close(self) -> None:
        """Forgets everything and frees the file's space; closing twice does no harm.

        Arrays that a reader still holds stay valid.
        """
        self._batches.clear()
        self._map = None  # unmapped with the last array that reads from it
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self, array: Array) -> _Spilled:
        if self._file is None:
            if self._directory is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 (closed by close)
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        return _Spilled(offset, array.shape, array.dtype)

    def _mapped(self, spilled: _Spilled) -> Array:
        if self._map is None:
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(spilled.shape, spilled.dtype, buffer=self._map, offset=spilled.offset)
