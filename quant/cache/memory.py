"""The results of one stage that are kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The most recently used results, up to a number and a sum of bytes.

    A result is measured once, when it comes: measuring may cost as much as copying it.
    """

    def __init__(self, most: int, most_bytes: int = 0, size: Callable[[T], int] | None = None) -> None:
        """Takes the limits; that of bytes holds where there is a `size`, but for the newest result."""
        self.most = most
        self.most_bytes = most_bytes
        self.size = size
        self._total = 0
        self._entries: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> T:
        """A result, which becomes the newest."""
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def add(self, key: str, result: T) -> None:
        """Keeps a new result, and drops the least recently used ones until the limits hold."""
        size = 0 if self.size is None else self.size(result)
        self._entries[key] = result, size
        self._total += size
        while len(self._entries) > self.most or (self._total > self.most_bytes and self._measured_many):
            self._total -= self._entries.popitem(last=False)[1][1]

    @property
    def _measured_many(self) -> bool:
        return self.size is not None and len(self._entries) > 1
