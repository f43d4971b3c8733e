"""Calibration data: whatever the caller has, as batches that can be read again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quant.errors import DataError

Feed = Mapping[str, NDArray[Any]]


@runtime_checkable
class DataReader(Protocol):
    """onnxruntime's `CalibrationDataReader`: a feed at each call, None at the end."""

    def get_next(self) -> Feed | None: ...


@dataclass(frozen=True)
class InputSpec:
    """What a model expects of one input: name, element type, shape with None where free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None

    def complaint(self, array: NDArray[Any]) -> str | None:
        """Why the array cannot be fed, or None."""
        if array.dtype != self.dtype:
            return f"element type {array.dtype}, the model takes {self.dtype}; convert it with .astype"
        if self.shape is None:
            return None
        wanted = ", ".join("?" if size is None else str(size) for size in self.shape)
        fits = array.ndim == len(self.shape) and all(
            size in (None, given) for size, given in zip(self.shape, array.shape, strict=True)
        )
        return None if fits else f"shape {array.shape}, the model takes ({wanted})"


class CalibrationData:
    """Feeds that were read once, checked, and can be iterated any number of times.

    A list of feeds is used as it is. A reader is read to its end at once, and its feeds are kept:
    a calibration, an evaluation and a second search all need the same data again. A reader that
    yields nothing is rewound (`rewind()`) and asked again before it is refused.
    """

    def __init__(self, source: CalibrationData | DataReader | Iterable[Feed]) -> None:
        feeds = source.feeds if isinstance(source, CalibrationData) else _read(source)
        if not feeds:
            raise DataError(
                "calibration data: no feeds; the reader is empty, or was read to its end before and has"
                " no rewind()"
            )
        self.feeds: tuple[dict[str, NDArray[Any]], ...] = tuple(
            _as_feed(feed, position) for position, feed in enumerate(feeds)
        )

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return iter(self.feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    @cached_property
    def samples(self) -> int:
        """Number of samples: the sum of the feeds' leading dimensions (of their first input)."""
        return sum(_batch_size(feed) for feed in self.feeds)

    @cached_property
    def digest(self) -> str:
        """sha256 of names, types, shapes, values and batching, in order."""
        digest = hashlib.sha256()
        for feed in self.feeds:
            for name in sorted(feed):
                array = feed[name]
                digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            digest.update(b";")
        return digest.hexdigest()

    def head(self, samples: int | None) -> CalibrationData:
        """The first `samples` samples (all, if None); a batch across the limit is cut."""
        if samples is None or samples >= self.samples:
            return self
        kept, left = [], samples
        for feed in self.feeds:
            size = _batch_size(feed)
            kept.append(feed if size <= left else _cut(feed, size, left))
            left -= size
            if left <= 0:
                break
        return CalibrationData(kept)

    def check(self, inputs: Sequence[InputSpec]) -> None:
        """Raises DataError unless every feed fits the model's inputs and is finite."""
        expected = {spec.name: spec for spec in inputs}
        for position, feed in enumerate(self.feeds):
            missing, unknown = expected.keys() - feed.keys(), feed.keys() - expected.keys()
            if missing or unknown:
                raise DataError(
                    f"calibration data, feed {position}: inputs {sorted(feed)}, the model takes"
                    f" {sorted(expected)}"
                )
            for name, array in feed.items():
                complaint = expected[name].complaint(array)
                if complaint is None and array.dtype.kind == "f" and not np.isfinite(array).all():
                    complaint = "NaN or infinite values; remove those samples"
                if complaint:
                    raise DataError(f"calibration data, feed {position}, input {name!r}: {complaint}")


def _read(source: DataReader | Iterable[Feed]) -> list[Feed]:
    if isinstance(source, DataReader):
        feeds = _drain(source)
        rewind = getattr(source, "rewind", None)
        if not feeds and callable(rewind):
            rewind()
            feeds = _drain(source)
        return feeds
    if isinstance(source, Mapping):  # one feed, not a list of them
        return [source]
    try:
        return list(source)
    except TypeError:
        raise DataError(
            f"calibration data: got {type(source).__name__}; give an object with get_next(), or a list"
            " of {input name: array}"
        ) from None


def _drain(reader: DataReader) -> list[Feed]:
    first = reader.get_next()
    return [] if first is None else list(chain([first], iter(reader.get_next, None)))


def _as_feed(feed: object, position: int) -> dict[str, NDArray[Any]]:
    if not isinstance(feed, Mapping):
        raise DataError(
            f"calibration data, feed {position}: got {type(feed).__name__}, not {{input name: array}}"
        )
    return {str(name): np.asarray(value) for name, value in feed.items()}


def _batch_size(feed: Feed) -> int:
    first = next(iter(feed.values()), np.empty(0))
    return first.shape[0] if first.ndim else 1


def _cut(feed: Feed, size: int, keep: int) -> dict[str, NDArray[Any]]:
    """Cuts the arrays that have the batch axis; others (masks, constants) stay whole."""
    return {
        name: array[:keep] if array.ndim and array.shape[0] == size else array for name, array in feed.items()
    }
