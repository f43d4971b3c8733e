"""What one pass over the calibration data keeps of every activation tensor."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.calibration.histogram import HALF_BINS, Histogram


@dataclass(frozen=True)
class TensorStatistics:
    """Extremes of every batch, and the histogram where one was asked for.

    The extremes of every batch are kept, not only of all: moving averages with any constant then
    are arithmetic, and merging two passes is concatenation.

    Attributes:
        batch_min, batch_max: float32, shape (batches,); batches in which the tensor was empty are
            left out.
        histogram: Counts of all values, or None.
    """

    batch_min: NDArray[np.float32]
    batch_max: NDArray[np.float32]
    histogram: Histogram | None = None

    @property
    def low(self) -> np.float32:
        """Least value; 0 for a tensor that was always empty."""
        return np.float32(self.batch_min.min(initial=np.inf)) if self.batch_min.size else np.float32(0)

    @property
    def high(self) -> np.float32:
        """Greatest value; 0 for a tensor that was always empty."""
        return np.float32(self.batch_max.max(initial=-np.inf)) if self.batch_max.size else np.float32(0)

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Statistics of this pass's batches followed by the other's. Associative."""
        if self.histogram is None or other.histogram is None:
            merged = None
        else:
            merged = self.histogram.merge(other.histogram)
        return TensorStatistics(
            np.concatenate([self.batch_min, other.batch_min]),
            np.concatenate([self.batch_max, other.batch_max]),
            merged,
        )


Statistics = dict[str, TensorStatistics]


def merge_statistics(first: Statistics, then: Statistics) -> Statistics:
    """Statistics of one pass from those of its parts, in the order of the batches. Associative.

    Passes over parts of the data can run anywhere, and their results be merged into those of one.

    Args:
        first, then: Of the same tensors, both with histograms or both without; left as they are.

    Raises:
        ValueError: If a tensor is missing in one of them, with its name, or has no histogram there.
    """
    missing = first.keys() ^ then.keys()
    if missing:
        raise ValueError(f"tensor {min(missing)!r}: statistics in one pass only; merge passes over the same")
    for name, tensor in first.items():
        if (tensor.histogram is None) != (then[name].histogram is None):
            raise ValueError(f"tensor {name!r}: a histogram in one pass only; collect both alike")
    return {name: tensor.merge(then[name]) for name, tensor in first.items()}


def encode_statistics(statistics: Mapping[str, TensorStatistics]) -> bytes:
    """As an .npz archive; tensor names travel in an array of their own."""
    arrays: dict[str, NDArray[np.generic]] = {"names": np.array(list(statistics), dtype=np.str_)}
    for index, tensor in enumerate(statistics.values()):
        arrays[f"min{index}"], arrays[f"max{index}"] = tensor.batch_min, tensor.batch_max
        if tensor.histogram is not None:
            used = np.flatnonzero(tensor.histogram.counts)
            arrays[f"bins{index}"] = used.astype(np.int32)
            arrays[f"counts{index}"] = tensor.histogram.counts[used]
            arrays[f"exponent{index}"] = np.array(tensor.histogram.exponent)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode_statistics(data: bytes | memoryview) -> Statistics:
    """The inverse of `encode_statistics`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = dict(archive)
    statistics: Statistics = {}
    for index, name in enumerate(arrays["names"]):
        counted = None
        if f"bins{index}" in arrays:
            counts = np.zeros(2 * HALF_BINS, dtype=np.int64)
            counts[arrays[f"bins{index}"]] = arrays[f"counts{index}"]
            counted = Histogram(int(arrays[f"exponent{index}"]), counts)
        statistics[str(name)] = TensorStatistics(arrays[f"min{index}"], arrays[f"max{index}"], counted)
    return statistics
