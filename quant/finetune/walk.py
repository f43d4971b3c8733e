"""Walking a float model and its quantized twin from layer to layer, over all of the data at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import chain

import numpy as np
import onnx_ir as ir

from quant.calibration.data import CalibrationData
from quant.finetune.accumulator import MomentsAccumulator
from quant.finetune.blas import one_thread
from quant.finetune.block import Array, Columns, Draw, drawn_columns
from quant.finetune.layers import Layer
from quant.finetune.moments import InputMoments
from quant.finetune.relu_aware import InputSample
from quant.graph.segment_runner import SegmentRunner, Values
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
        products: Whether anything beyond the means is.
        max_columns: About how many columns are enough, if a layer has not too many inputs; None = all.
        seed: Of the choice among them.
        samples: Whether some columns themselves are, of the layers with a Relu or Clip behind them.
    """

    quantized_inputs: bool = True
    float_gram: bool = False
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


def groups_of(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Layers that read the same tensors, together; in the order of the first of each group."""
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.input, layer.quantized_input), []).append(layer)
    return [tuple(group) for group in groups.values()]


def walk(
    twins: Twins, groups: Sequence[tuple[Layer, ...]], wanted: Wanted
) -> Iterator[list[tuple[Layer, InputMoments, InputSample | None]]]:
    """The moments of one group of layers after another, at the cost of one pass over the data in all.

    Whoever takes a group's moments may change initializers of the quantized model, which all that
    lies behind then sees, before asking for the next.

    Yields:
        Each layer of the group with its moments, and a sample where one is wanted; equal layers share.
    """
    float_cuts = [(group[0].input,) for group in groups]
    quantized_cuts = [(group[0].quantized_input,) for group in groups]
    feeds, providers, threads = twins.data.feeds, twins.providers, twins.threads
    with ExitStack() as stack:
        floats = stack.enter_context(
            SegmentRunner(twins.float_model, float_cuts, feeds, providers=providers, threads=threads)
        )
        quantized = floats
        if wanted.quantized_inputs:
            quantized = stack.enter_context(
                SegmentRunner(
                    twins.quantized,
                    quantized_cuts,
                    feeds,
                    providers=providers,
                    threads=threads,
                    config=twins.config,
                )
            )
        for group in groups:
            batches: Iterator[tuple[Values, Values]]
            if wanted.quantized_inputs:
                batches = zip(floats.advance(), quantized.advance(), strict=True)
            else:
                batches = ((values, values) for values in floats.advance())
            yield _moments(group, batches, wanted, threads, len(feeds))


def _moments(
    group: tuple[Layer, ...],
    batches: Iterator[tuple[Values, Values]],
    wanted: Wanted,
    threads: int,
    count: int,
) -> list[tuple[Layer, InputMoments, InputSample | None]]:
    """Adds up batches in several lanes at the same time; which one a batch takes depends on nothing else.

    So the sums, and with them the finetuned weights, are the same whatever the number of threads.
    """
    first = [next(i for i, other in enumerate(group) if other.columns == layer.columns) for layer in group]
    source, twin = group[0].input, group[0].quantized_input
    start = next(batches)
    shape = start[0][source].shape
    lanes = [
        [
            MomentsAccumulator(
                group[index].columns,
                float_gram=wanted.float_gram,
                products=wanted.products,
                share=wanted.share(group[index].columns, shape, count),
                seed=wanted.seed,
            )
            for index in sorted(set(first))
        ]
        for _ in range(_lanes(group))
    ]

    cut = {layer.columns for layer in group if wanted.samples and layer.cut_at is not None}
    sampled: dict[Columns, dict[int, tuple[Array, ...]]] = {columns: {} for columns in cut}
    shares = {
        columns: min(
            1.0, max(_SAMPLE, _LEAST_PER_INPUT * columns.inputs) / max(1, columns.count(shape) * count)
        )
        for columns in cut
    }

    def sample(layer: Layer) -> InputSample | None:
        if layer.columns not in sampled or layer.cut_at is None:
            return None
        parts = (sampled[layer.columns][batch] for batch in range(count))
        x, other = (np.concatenate(side, axis=2) for side in zip(*parts, strict=True))
        return InputSample(x, other, layer.cut_at)

    def add(lane: list[MomentsAccumulator], values: Values, other: Values, batch: int) -> None:
        x = values[source]
        for accumulator in lane:
            accumulator.add(x, other[twin] if wanted.quantized_inputs else x, batch)
        for columns, parts in sampled.items():
            draw = Draw(shares[columns], (wanted.seed, batch, 1))
            parts[batch] = tuple(
                drawn_columns(columns, part, draw)
                for part in (x, other[twin if wanted.quantized_inputs else source])
            )

    running: list[Future[None] | None] = [None] * len(lanes)
    with one_thread(), ThreadPoolExecutor(max_workers=threads or os.cpu_count()) as pool:
        for index, (values, other) in enumerate(chain([start], batches)):
            lane = index % len(lanes)
            _finish(running[lane])
            running[lane] = pool.submit(add, lanes[lane], values, other, index)
        for future in running:
            _finish(future)
    sums = [reduce(MomentsAccumulator.merge, column) for column in zip(*lanes, strict=True)]
    results = dict(zip(sorted(set(first)), (total.result() for total in sums), strict=True))
    return [(layer, results[index], sample(layer)) for layer, index in zip(group, first, strict=True)]


def _finish(future: Future[None] | None) -> None:
    """Waits, and raises what went wrong."""
    if future is not None:
        future.result()


def _lanes(group: tuple[Layer, ...]) -> int:
    """As many as fit into `_LANE_BYTES` with the sums that each has."""
    largest = max(3 * 8 * layer.columns.groups * layer.columns.inputs**2 for layer in group)
    return max(1, min(_MOST_LANES, _LANE_BYTES // largest))
