"""Batches for which a device has too little memory, run in parts."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY = re.compile(
    "failed to allocate memory|out of memory|_ALLOC_FAILED|bad allocation|bad_alloc", re.IGNORECASE
)
"""What onnxruntime's arenas, CUDA, cuBLAS, cuDNN and C++ say, in exceptions without a type of their own."""

Feed = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], Sequence[NDArray[Any]]]


def run_in_parts(run: Run, feed: Feed) -> Sequence[NDArray[Any]]:
    """What a run gives, of the whole batch if there is memory for it, else of its halves, put together.

    Samples of a batch must not depend on each other, as everywhere where batches are averaged over.

    Args:
        run: From a feed to arrays, which may be in memory that the next run uses again.
        feed: The batch; samples are along the first axis.

    Raises:
        MemoryError: If there is too little for one sample, or outputs have no such axis.
    """
    try:
        return run(feed)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)
    size = _batch_size(feed)
    if size < 2:
        raise MemoryError(f"too little memory on the device, even for a batch of one: {reason}")
    first = size // 2 + (1 if size > 2 else 0)  # unlike the second, so that no other axis is mistaken for it
    _note(size)
    begin = [np.array(part) for part in run_in_parts(run, _cut(feed, size, slice(first)))]
    end = run_in_parts(run, _cut(feed, size, slice(first, None)))
    joined = [_join(a, np.asarray(b), first, size - first) for a, b in zip(begin, end, strict=True)]
    if any(each is None for each in joined):
        raise MemoryError(
            "too little memory on the device, and no smaller batches, as an output has no axis of samples:"
            f" {reason}"
        )
    return [each for each in joined if each is not None]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of a runtime means that."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _batch_size(feed: Feed) -> int:
    first = next(iter(feed.values()), np.empty(0))
    return int(first.shape[0]) if first.ndim else 1


def _cut(feed: Feed, size: int, part: slice) -> Feed:
    """Masks and constants, which have no axis of samples, stay whole."""
    return {name: x[part] if x.ndim and x.shape[0] == size else x for name, x in feed.items()}


def _join(a: NDArray[Any], b: NDArray[Any], first: int, second: int) -> NDArray[Any] | None:
    """Both parts of an output; None if they cannot be put together."""
    if a.ndim and a.shape[0] == first and b.shape[:1] == (second,) and a.shape[1:] == b.shape[1:]:
        return np.concatenate([a, b])
    return a if np.array_equal(a, b) else None


@cache
def _note(size: int) -> None:
    """Once for each size."""
    _log.warning("too little memory on the device for %d samples at a time; running them in halves", size)
