"""Streaming passes of the float model over the calibration data, and the one for statistics."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from quant.calibration.data import Feed
from quant.calibration.groups import memory_groups
from quant.calibration.histogram import EMPTY, histogram
from quant.calibration.statistics import Statistics, TensorStatistics
from quant.errors import DataError, ModelError
from quant.graph.parts import run_in_parts
from quant.graph.session import float_session

_MOST_BYTES = 1 << 27
"""Tensors of a batch that are kept at a time; where there are more, the model runs several times."""

_WORTH_A_THREAD = 1 << 15
"""Elements below which handing a tensor to another thread takes longer than looking at it."""

_WORTH_A_COUNT = 1 << 14
"""Values that are counted together at least."""

_BLOCK = 1 << 17
"""Elements whose extremes are found at a time, so that the second look finds them in the cache."""


def collect_statistics(
    model: ir.Model,
    tensors: Sequence[str],
    feeds: Iterable[Feed],
    *,
    histograms: bool,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
) -> Statistics:
    """Runs the model batch by batch and keeps extremes (and histograms) of the tensors.

    Memory: the values of one batch, up to 128 MB of them at a time, and the bins. Batches may differ
    in shape; empty ones of a tensor count for nothing.

    Args:
        model: A prepared model; left as it is.
        tensors: Names of float tensors; inputs of the graph are allowed.
        feeds: Batches.
        histograms: Whether to count values, for the rules that read more than extremes.
        providers: onnxruntime's execution providers.
        threads: Of the session and of the counting; 0 = all cores.

    Raises:
        DataError: If a tensor takes a NaN or infinite value, with its name.
        ModelError: If onnxruntime cannot run the model.
    """
    accumulators = {name: Accumulator(name, histograms) for name in tensors}

    def count(name: str, values: NDArray[Any]) -> None:
        accumulators[name].add(values)

    stream(model, tensors, feeds, count, providers=providers, threads=threads)
    return {name: accumulator.result() for name, accumulator in accumulators.items()}


def stream(
    model: ir.Model,
    tensors: Sequence[str],
    feeds: Iterable[Feed],
    visit: Callable[[str, NDArray[Any]], None],
    *,
    providers: Sequence[str],
    threads: int,
) -> None:
    """Runs the model batch by batch and shows the tensors' values.

    Args:
        model: A prepared model; left as it is.
        tensors: Names; inputs of the graph are allowed.
        feeds: Batches, to be read once for each of the groups that fit into memory (`memory_groups`).
        visit: Called with a tensor's name and values: for several tensors at the same time, for
            one tensor in the order of the batches. The values are gone when it returns, and what it
            raises ends the pass.
        providers: onnxruntime's execution providers.
        threads: Of the session and of the visits; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    graph_inputs = {value.name for value in model.graph.inputs}
    first = next(iter(feeds), {})
    with ThreadPoolExecutor(max_workers=threads or os.cpu_count()) as pool:
        for group in memory_groups(model, tensors, first, _MOST_BYTES):
            computed = [name for name in group if name not in graph_inputs]
            with float_session(model, computed, providers, threads) as session:
                for feed in feeds:
                    values = _run(session, computed, feed) if computed else {}
                    values |= {name: feed[name] for name in group if name in graph_inputs}
                    _visit_all(visit, {name: values[name] for name in group}, pool)
                    del values  # the next run writes to the same memory, which is still in the caches


def _visit_all(
    visit: Callable[[str, NDArray[Any]], None], values: dict[str, NDArray[Any]], pool: ThreadPoolExecutor
) -> None:
    """Visits large tensors in the pool, the largest first, and small ones meanwhile, here."""
    large = [name for name, array in values.items() if array.size >= _WORTH_A_THREAD]
    large.sort(key=lambda name: -values[name].size)
    visits = [pool.submit(visit, name, values[name]) for name in large]
    for name, array in values.items():
        if array.size < _WORTH_A_THREAD:
            visit(name, array)
    for finished in visits:
        finished.result()  # raises what the visit did


def _run(session: ort.InferenceSession, names: Sequence[str], feed: Feed) -> dict[str, NDArray[Any]]:
    """The named tensors, in memory that the session uses again at the next run.

    Arrays of their own would have to be mapped and zeroed by the operating system for every batch,
    which takes longer than the model.
    """

    def run(part: Feed) -> list[NDArray[Any]]:
        binding = session.io_binding()
        for name, array in part.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    try:
        values = run_in_parts(run, feed)
    except (MemoryError, RuntimeError) as error:  # the latter a bound run raises, whatever the cause
        raise ModelError(f"model: onnxruntime cannot run it: {error}") from error
    return dict(zip(names, values, strict=True))


class Accumulator:
    """Statistics of one tensor so far, in the memory of its bins.

    Values of small batches are gathered until there are enough to be worth a count: with batches of
    one sample, setting up and adding bins would take far longer than filling them.
    """

    def __init__(self, name: str, histograms: bool) -> None:
        """Takes the tensor's name, for errors, and whether to count values."""
        self._name = name
        self._lows: list[np.float32] = []
        self._highs: list[np.float32] = []
        self._histogram = EMPTY if histograms else None
        self._waiting: list[NDArray[np.float32]] = []

    def add(self, values: NDArray[Any]) -> None:
        """Counts a batch, of any shape and any float type; nothing if it is empty.

        Raises:
            DataError: If a value is NaN or infinite.
        """
        if values.size == 0:
            return
        with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, and refused as that
            values = values.astype(np.float32, copy=False)
        low, high = extremes(values)
        if not (math.isfinite(low) and math.isfinite(high)):
            refuse(self._name)
        self._lows.append(low)
        self._highs.append(high)
        if self._histogram is None:
            return
        if values.size >= _WORTH_A_COUNT:
            self._count(values, low, high)
            return
        self._waiting.append(values.flatten())  # a copy: the batch's memory is used again
        if sum(map(len, self._waiting)) >= _WORTH_A_COUNT:
            self._count_waiting()

    def _count(self, values: NDArray[np.float32], low: np.float32, high: np.float32) -> None:
        assert self._histogram is not None
        self._histogram = self._histogram.merge(histogram(values, float(max(abs(low), abs(high)))))

    def _count_waiting(self) -> None:
        if self._waiting:
            values = np.concatenate(self._waiting)
            self._waiting = []
            self._count(values, values.min(), values.max())

    def result(self) -> TensorStatistics:
        """What was counted so far."""
        self._count_waiting()
        lows, highs = (np.array(values, dtype=np.float32) for values in (self._lows, self._highs))
        return TensorStatistics(lows, highs, self._histogram)


def extremes(values: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Least and greatest value, NaN if there is one; read once, in pieces that stay in the caches."""
    if values.size <= _BLOCK or not values.flags.c_contiguous:
        return values.min(), values.max()
    flat = values.reshape(-1)
    blocks = [flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK)]
    ends = np.array([(block.min(), block.max()) for block in blocks])
    return ends[:, 0].min(), ends[:, 1].max()


def refuse_non_finite(name: str, values: NDArray[np.float32]) -> None:
    """Raises DataError if some of a tensor's extremes, and with them some value, are NaN or infinite."""
    if not np.isfinite(values).all():
        refuse(name)


def refuse(name: str) -> NoReturn:
    """Raises DataError for a tensor with values that have no range."""
    raise DataError(
        f"tensor {name!r}: NaN or infinite values in the float model on the calibration data; look at"
        " the samples, or exclude the nodes that make them"
    )
