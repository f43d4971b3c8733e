"""Gathers, batch by batch, the statistics that the built-in distances are formulas of.

First the float model's outputs are described (`FloatOutput`), as psnr and ssim need their range
beforehand; then a candidate's are compared with them (`OutputComparison`), and the outputs of a
model are combined (`distances_of`). Integers and booleans are compared as numbers, in float64, where
integers above 2^53 lose their last digits. NaN and infinities have no distance and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.distance import BLOCK_SUMS, DISTANCES, Statistics
from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.ssim import WINDOW, ssim_accumulator

Array = NDArray[Any]

# 64 KiB of float64: the temporaries of a block stay in the cache, and BLAS starts no threads for it.
_BLOCK_ELEMENTS = 8192


@dataclass(frozen=True)
class FloatOutput:
    """What the distances need to know of one float output before a candidate is seen.

    Attributes:
        name: The output's name.
        count: Number of elements over all batches.
        low: Least value; +inf if there is none.
        high: Greatest value; -inf if there is none.
        has_planes: Whether every batch is (batch, ..., height, width) with a height and width that
            hold an SSIM window.
    """

    name: str
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    has_planes: bool = True

    def add(self, x: Array) -> FloatOutput:
        """The same output with one more batch.

        Raises:
            EvaluatorInputError: If x is not a tensor of numbers, or has NaN or infinities.
        """
        if not _is_numeric(x):
            raise EvaluatorInputError(
                f"output {self.name!r} of the float model is {_type_name(x)}; "
                "only tensors of numbers can be compared"
            )
        if not x.size:
            return self
        low, high = float(x.min()), float(x.max())  # both are NaN if any element is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise EvaluatorInputError(
                f"output {self.name!r} of the float model has NaN or infinities: check the model and the data"
            )
        return FloatOutput(
            self.name,
            self.count + x.size,
            min(self.low, low),
            max(self.high, high),
            self.has_planes and x.ndim >= 3 and min(x.shape[-2:]) >= WINDOW,
        )

    def require_values(self) -> None:
        """Refuses an output that is empty in every batch: there is nothing to compare.

        Raises:
            EvaluatorInputError: If no batch had an element.
        """
        if not self.count:
            raise EvaluatorInputError(
                f"output {self.name!r} of the float model is empty in every batch: "
                "evaluate on data for which it has values"
            )


class OutputComparison:
    """Gathers what the metrics asked for need of one output, and nothing else, in one pass.

    The values are copied to blocks of fixed size, whatever the batches: many small batches cost no
    more than a large one, and the result does not depend on how the data was split.

    Args:
        metrics: Names in `DISTANCES`.
        output: The float output, with all of its batches.
    """

    def __init__(self, metrics: Sequence[str], output: FloatOutput) -> None:
        output.require_values()
        self._output = output
        needed = {name for metric in metrics for name in DISTANCES[metric].statistics}
        self._sums = {name: 0.0 for name in BLOCK_SUMS if name in needed}
        self._ssim = (
            ssim_accumulator(output.low, output.high, output.has_planes) if "ssim" in needed else None
        )
        self._ssim_of_planes = self._ssim is not None and self._ssim.needs_planes
        size = min(output.count, _BLOCK_ELEMENTS)
        self._x, self._y = np.empty(size), np.empty(size)
        self._filled = 0
        self._count = 0
        # Small batches wait until they make a block: between two runs of a model every line of Python
        # starts with cold processor caches.
        self._waiting: list[tuple[Array, Array]] = []
        self._waiting_elements = 0

    def add(self, x: Array, y: Array) -> None:
        """Takes one batch of the float output x and of the candidate's output y.

        Raises:
            EvaluationError: If y is not a tensor of numbers, has another shape than x, or has NaN
                or infinities (which may be seen only later, when a block is full).
        """
        name = self._output.name
        if not _is_numeric(y):
            raise EvaluationError(f"output {name!r} is {_type_name(y)}, not a tensor of numbers")
        if y.shape != x.shape:
            raise EvaluationError(
                f"output {name!r} has shape {y.shape} where the float model's has {x.shape}"
            )
        self._waiting.append((x, y))
        self._waiting_elements += x.size
        if self._waiting_elements >= _BLOCK_ELEMENTS:
            self._take_waiting()

    @property
    def has_values(self) -> bool:
        """Whether there was an element so far."""
        return bool(self._count or self._filled or self._waiting_elements)

    def statistics(self) -> Statistics:
        """The statistics of all batches so far, at least one element.

        Raises:
            EvaluationError: If the last values of the candidate have NaN or infinities.
        """
        self._take_waiting()
        self._add_block()
        statistics = {"count": float(self._count), "range": self._output.high - self._output.low}
        if self._ssim is not None:
            statistics["ssim"] = self._ssim.value()
        return {**statistics, **self._sums}

    def _take_waiting(self) -> None:
        for x, y in self._waiting:
            if self._ssim is not None and self._ssim_of_planes:
                self._require_finite(y)
                self._ssim.add(x, y)
            self._fill_blocks(x.reshape(-1), y.reshape(-1))
        self._waiting.clear()
        self._waiting_elements = 0

    def _fill_blocks(self, x: Array, y: Array) -> None:
        start = 0
        while start < x.size:
            length = min(x.size - start, self._x.size - self._filled)
            self._x[self._filled : self._filled + length] = x[start : start + length]
            self._y[self._filled : self._filled + length] = y[start : start + length]
            self._filled += length
            start += length
            if self._filled == self._x.size:
                self._add_block()

    def _add_block(self) -> None:
        """Adds what the block holds to the statistics, and empties it."""
        x, y = self._x[: self._filled], self._y[: self._filled]
        self._filled = 0
        if not x.size:
            return
        self._count += x.size
        self._require_finite(y)
        if self._sums:
            error = x - y
            for name, total in self._sums.items():
                row = BLOCK_SUMS[name]
                self._sums[name] = row.merge(total, row.of_block(x, y, error))
        if self._ssim is not None and not self._ssim_of_planes:
            self._ssim.add(x, y)

    def _require_finite(self, y: Array) -> None:
        if not np.isfinite(y).all():
            raise EvaluationError(f"output {self._output.name!r} has NaN or infinities")


def distances_of(metrics: Sequence[str], outputs: Sequence[OutputComparison]) -> dict[str, float]:
    """Value of each metric over all outputs of a model.

    Args:
        metrics: Names in `DISTANCES`, among those that `outputs` were made with.
        outputs: One comparison per output, at least one.
    """
    statistics = [output.statistics() for output in outputs]
    rows = [DISTANCES[name] for name in metrics]
    return {row.metric.name: row.over_outputs([row.of_output(s) for s in statistics]) for row in rows}


def _is_numeric(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiub"


def _type_name(value: object) -> str:
    """How an error calls a value that is not numeric: "str" arrays come as dtype object."""
    return f"a tensor of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
