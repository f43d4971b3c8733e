"""Values between two segments, in memory as far as a limit allows and in files beyond it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Stored:
    """An array in the file of its tensor."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Frontier:
    """Arrays by batch and name.

    Those that do not fit into memory are mapped from files without a name, one for each tensor, in the
    system's temporary directory: nothing is left there, however the process ends.
    """

    def __init__(self, keep_bytes: int | None) -> None:
        """Takes how many bytes stay in memory; None = all."""
        self.keep_bytes = keep_bytes
        self.bytes_in_memory = 0
        self._entries: dict[str, dict[int, NDArray[Any] | _Stored]] = {}
        self._files: dict[str, IO[bytes]] = {}

    def put(self, batch: int, name: str, array: NDArray[Any]) -> None:
        """Stores an array, which is the frontier's from then on."""
        total = self.bytes_in_memory + array.nbytes
        in_memory = (
            self.keep_bytes is None or total <= self.keep_bytes or array.dtype.hasobject or not array.size
        )
        if in_memory:
            self.bytes_in_memory = total
        self._entries.setdefault(name, {})[batch] = array if in_memory else self._write(name, array)

    def get(self, batch: int, name: str) -> NDArray[Any]:
        """A stored array, not to be written to."""
        entry = self._entries[name][batch]
        if not isinstance(entry, _Stored):
            return entry
        return np.memmap(self._files[name], entry.dtype, "r", entry.offset, entry.shape)

    def drop(self, batch: int, name: str) -> None:
        """Forgets an array, and its tensor's file with the last one."""
        entries = self._entries[name]
        entry = entries.pop(batch)
        if not isinstance(entry, _Stored):
            self.bytes_in_memory -= entry.nbytes
        if not entries:
            del self._entries[name]
            if name in self._files:
                self._files.pop(name).close()

    def close(self) -> None:
        """Forgets everything."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._entries.clear()
        self.bytes_in_memory = 0

    def _write(self, name: str, array: NDArray[Any]) -> _Stored:
        if name not in self._files:
            self._files[name] = tempfile.TemporaryFile(prefix="autosearch-")  # noqa: SIM115 (closed by drop or close)
        file = self._files[name]
        offset = file.seek(0, 2)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        return _Stored(offset, array.dtype, array.shape)
