"""Streaming passes of the float model over the calibration data, and the one for statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from quant.calibration.data import Feed
from quant.calibration.histogram import Histogram, histogram
from quant.calibration.statistics import Statistics, TensorStatistics
from quant.errors import DataError, ModelError
from quant.graph.session import float_session


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

    Memory: the values of one batch, and the bins. Batches may differ in shape; empty ones of a
    tensor count for nothing.

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
    accumulators = {name: _Accumulator() for name in tensors}

    def count(name: str, values: NDArray[Any]) -> None:
        accumulators[name].add(batch_statistics(name, values, histograms))

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
        feeds: Batches.
        visit: Called with a tensor's name and values: for several tensors at the same time, for
            one tensor in the order of the batches. The values are gone when it returns, and what it
            raises ends the pass.
        providers: onnxruntime's execution providers.
        threads: Of the session and of the visits; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    graph_inputs = {value.name for value in model.graph.inputs}
    computed = [name for name in tensors if name not in graph_inputs]
    with (
        float_session(model, computed, providers, threads) as session,
        ThreadPoolExecutor(max_workers=threads or os.cpu_count()) as pool,
    ):
        for feed in feeds:
            values = _run(session, computed, feed) if computed else {}
            values |= {name: feed[name] for name in tensors if name in graph_inputs}
            for _ in pool.map(visit, tensors, [values[name] for name in tensors]):  # raises what one did
                pass
            del values  # the next run writes to the same memory, which is still in the caches


def _run(session: ort.InferenceSession, names: Sequence[str], feed: Feed) -> dict[str, NDArray[Any]]:
    """The named tensors, in memory that the session uses again at the next run.

    Arrays of their own would have to be mapped and zeroed by the operating system for every batch,
    which takes longer than the model.
    """
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name)
    try:
        session.run_with_iobinding(binding)
    except RuntimeError as error:  # what a bound run raises, whatever the cause
        raise ModelError(f"model: onnxruntime cannot run it: {error}") from error
    return {name: value.numpy() for name, value in zip(names, binding.get_outputs(), strict=True)}


class _Accumulator:
    """Statistics of one tensor so far; its histogram is merged at once, to stay small."""

    def __init__(self) -> None:
        self.lows: list[np.float32] = []
        self.highs: list[np.float32] = []
        self.histogram: Histogram | None = None

    def add(self, batch: TensorStatistics | None) -> None:
        if batch is None:
            return
        self.lows.append(batch.low)
        self.highs.append(batch.high)
        if batch.histogram is not None:
            self.histogram = batch.histogram.merge(self.histogram) if self.histogram else batch.histogram

    def result(self) -> TensorStatistics:
        lows, highs = (np.array(values, dtype=np.float32) for values in (self.lows, self.highs))
        return TensorStatistics(lows, highs, self.histogram)


def batch_statistics(name: str, values: NDArray[Any], histograms: bool) -> TensorStatistics | None:
    """Statistics of one batch; None if it is empty.

    Raises:
        DataError: If a value is NaN or infinite.
    """
    if values.size == 0:
        return None
    values = values.astype(np.float32, copy=False)
    low, high = values.min(), values.max()
    refuse_non_finite(name, np.array([low, high]))
    counted = histogram(values, float(max(abs(low), abs(high)))) if histograms else None
    return TensorStatistics(np.array([low]), np.array([high]), counted)


def refuse_non_finite(name: str, extremes: NDArray[np.float32]) -> None:
    """Raises DataError if a tensor's extremes, and with them some value, are NaN or infinite."""
    if not np.isfinite(extremes).all():
        raise DataError(
            f"tensor {name!r}: NaN or infinite values in the float model on the calibration data; look at"
            " the samples, or exclude the nodes that make them"
        )
