"""Walking a float model and its quantized twin from layer to layer, over all of the data at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, repeat

import numpy as np
import onnx_ir as ir

from quant.calibration.data import CalibrationData
from quant.constant_params import Constants, Initializers
from quant.finetune.accumulator import MomentsAccumulator
from quant.finetune.blas import one_thread
from quant.finetune.block import Array, Columns
from quant.finetune.float_side import BatchColumns, FloatSide, Keep, Sampling, Streamed, streamed
from quant.finetune.layers import Layer
from quant.finetune.moments import InputMoments
from quant.finetune.relu_aware import InputSample
from quant.graph.segment_runner import SegmentRunner
from quant.graph.session import Provider

_MOST_LANES = 4
_LANE_BYTES = 1 << 28
_SAMPLE = 6000
_LEAST_PER_INPUT = 4
"""Columns. Measured on a ResNet of up to 1152 inputs: no difference in error between 4 and 230 for each."""


@dataclass(frozen=True)
class Twins:
    """The two models that a layer's inputs come from.

    Attributes:
        float_model: Prepared.
        quantized: With Q/DQ and all of its initializers, which change as layers are finetuned.
        data: What to run them on.
        providers: onnxruntime's execution providers.
        threads: Of each session; 0 = all cores.
        config: Session config entries that the quantized model needs.
    """

    float_model: ir.Model
    quantized: ir.Model
    data: CalibrationData
    providers: tuple[Provider, ...]
    threads: int
    config: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Wanted:
    """Which moments.

    Attributes:
        quantized_inputs: Whether X̂ comes from the quantized model; else it is X.
        float_gram: Whether E[x xᵀ] is needed.
        shifts: Whether `OutputShift` will do in place of E[x x̂ᵀ], where it is cheaper.
        products: Whether anything beyond the means is.
        max_columns: About how many columns are enough, if a layer has not too many inputs; None = all.
        seed: Of the choice among them.
        samples: Whether some columns themselves are, of the layers with a Relu or Clip behind them.
    """

    quantized_inputs: bool = True
    float_gram: bool = False
    shifts: bool = False
    products: bool = True
    max_columns: int | None = None
    seed: int = 0
    samples: bool = False

    def share(self, columns: Columns, first: tuple[int, ...], batches: int) -> float:
        """Of a layer's columns, from the shape of the first of its batches.

        At least `_LEAST_PER_INPUT` for each input are taken, and all unless that saves a third: what is
        lost by fewer grows as inputs / columns, and what they cost as their number.
        """
        total = columns.count(first) * batches
        if self.max_columns is None or not self.products or not total:
            return 1.0
        share = max(self.max_columns, _LEAST_PER_INPUT * columns.inputs) / total
        return share if share < 2 / 3 else 1.0

    def sampling(self, kinds: Iterable[Columns], first: tuple[int, ...], batches: int) -> Sampling:
        """What is taken of a tensor, from the shape of the first of its batches."""
        shares, samples = {}, {}
        for columns in kinds:
            shares[columns] = self.share(columns, first, batches)
            total = max(1, columns.count(first) * batches)
            samples[columns] = min(1.0, max(_SAMPLE, _LEAST_PER_INPUT * columns.inputs) / total)
        return Sampling(shares, samples, self.seed)


def groups_of(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Layers that read the same tensors, together; in the order of the first of each group."""
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.input, layer.quantized_input), []).append(layer)
    return [tuple(group) for group in groups.values()]


def walk(
    twins: Twins, groups: Sequence[tuple[Layer, ...]], wanted: Wanted, keep: Keep | None = None
) -> Iterator[list[tuple[Layer, InputMoments, InputSample | None]]]:
    """The moments of one group of layers after another, at the cost of one pass over the data in all.

    Whoever takes a group's moments may change initializers of the quantized model, which all that
    lies behind then sees, before asking for the next.

    Args:
        twins: Both models.
        groups: Layers that read the same tensors, in topological order.
        wanted: Which moments.
        keep: How the float model's columns are kept from walk to walk; None = not at all.

    Yields:
        Each layer of the group with its moments, and a sample where one is wanted; equal layers share.
    """
    feeds, weights = twins.data.feeds, Initializers(twins.float_model)
    kinds = [(group[0].input, tuple(dict.fromkeys(layer.columns for layer in group))) for group in groups]
    sampling = partial(wanted.sampling, batches=len(feeds))
    runner = partial(SegmentRunner, feeds=feeds, providers=twins.providers, threads=twins.threads)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=twins.threads or os.cpu_count()))
        ahead = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        upcoming: Future[Iterator[BatchColumns]] | None = None
        float_runner = stack.enter_context(runner(twins.float_model, [(name,) for name, _ in kinds]))
        floats = FloatSide(float_runner, kinds, sampling, pool, None if wanted.samples else keep)
        cuts = [(group[0].quantized_input,) for group in groups] if wanted.quantized_inputs else []
        quantized = stack.enter_context(runner(twins.quantized, cuts, config=twins.config))
        for index, group in enumerate(groups):
            others: Iterable[Streamed | None] = repeat(None)
            if wanted.quantized_inputs:
                others = streamed(quantized.advance(), cuts[index][0], kinds[index][1], sampling)
            samples = _Samples(group, wanted)
            lanes = [_accumulators(group, wanted, weights) for _ in range(_lanes(group))]
            columns = floats.batches(index) if upcoming is None else upcoming.result()
            _add_all(lanes, samples, zip(columns, others, strict=wanted.quantized_inputs), pool)
            moments = [*zip(group, _results(group, lanes), strict=True)]
            if twins.threads != 1 and index + 1 < len(groups):  # while the group is being finetuned
                upcoming = ahead.submit(floats.batches, index + 1)
            yield [(layer, own, samples.of(layer)) for layer, own in moments]


class _Samples:
    """Some columns of the layers that are refined by the error behind their activation function."""

    def __init__(self, group: tuple[Layer, ...], wanted: Wanted) -> None:
        cut = {layer.columns for layer in group if wanted.samples and layer.cut_at is not None}
        self.parts: dict[Columns, dict[int, tuple[Array, Array]]] = {columns: {} for columns in cut}

    def add(self, one: Streamed, other: Streamed) -> None:
        """Takes its part of one batch."""
        for columns, parts in self.parts.items():
            parts[one.batch] = one.sample(columns), other.sample(columns)

    def of(self, layer: Layer) -> InputSample | None:
        """A layer's, if there is to be one."""
        if layer.columns not in self.parts or layer.cut_at is None:
            return None
        parts = [part for _, part in sorted(self.parts[layer.columns].items())]
        x, other = (np.concatenate(side, axis=2) for side in zip(*parts, strict=True))
        return InputSample(x, other, layer.cut_at)


Lane = dict[Columns, MomentsAccumulator]


def _accumulators(group: tuple[Layer, ...], wanted: Wanted, weights: Constants) -> Lane:
    """For each kind of columns in a group, with the weights of its layers where that takes fewer products."""
    lane = {}
    for columns in dict.fromkeys(layer.columns for layer in group):
        own = tuple(layer.matrix(weights) for layer in group if layer.columns == columns)
        outputs = sum(weight.shape[1] for weight in own)
        shifts = wanted.shifts and 2 * outputs <= columns.inputs
        lane[columns] = MomentsAccumulator(
            columns,
            weights=own if shifts else (),
            float_gram=wanted.float_gram,
            products=wanted.products,
        )
    return lane


def _add_all(
    lanes: list[Lane],
    samples: _Samples,
    batches: Iterable[tuple[BatchColumns, Streamed | None]],
    pool: ThreadPoolExecutor,
) -> None:
    """Adds up batches in several lanes at the same time; which one a batch takes depends on nothing else.

    So the sums, and with them the finetuned weights, are the same whatever the number of threads.
    """

    def add(lane: Lane, one: BatchColumns, other: Streamed | None) -> None:
        for columns, accumulator in lane.items():
            accumulator.add(one.blocks(columns), None if other is None else other.blocks(columns))
        if samples.parts:
            assert isinstance(one, Streamed)
            samples.add(one, other or one)

    running: list[Future[None] | None] = [None] * len(lanes)
    with one_thread():
        for index, (one, other) in enumerate(batches):
            lane = index % len(lanes)
            _finish(running[lane])
            running[lane] = pool.submit(add, lanes[lane], one, other)
        for future in running:
            _finish(future)


def _results(group: tuple[Layer, ...], lanes: list[Lane]) -> Iterator[InputMoments]:
    """The moments of each layer of a group."""
    total, *others = lanes
    for columns, accumulator in total.items():
        for other in others:
            accumulator.take(other[columns])
    results = {columns: cycle(accumulator.result()) for columns, accumulator in total.items()}
    for layer in group:
        yield next(results[layer.columns])


def _finish(future: Future[None] | None) -> None:
    """Waits, and raises what went wrong."""
    if future is not None:
        future.result()


def _lanes(group: tuple[Layer, ...]) -> int:
    """As many as fit into `_LANE_BYTES` with the sums that each has."""
    largest = max(3 * 8 * layer.columns.groups * layer.columns.inputs**2 for layer in group)
    return max(1, min(_MOST_LANES, _LANE_BYTES // largest))
