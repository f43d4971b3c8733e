"""Walking a float model and its quantized twin from layer to layer, over all of the data at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import onnx_ir as ir

from quant.calibration.data import CalibrationData
from quant.finetune.accumulator import MomentsAccumulator
from quant.finetune.layers import Layer
from quant.finetune.moments import InputMoments
from quant.graph.segment_runner import SegmentRunner, Values
from quant.graph.session import Provider


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
    """

    quantized_inputs: bool = True
    float_gram: bool = False
    products: bool = True


def groups_of(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Layers that read the same tensors, together; in the order of the first of each group."""
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.input, layer.quantized_input), []).append(layer)
    return [tuple(group) for group in groups.values()]


def walk(
    twins: Twins, groups: Sequence[tuple[Layer, ...]], wanted: Wanted
) -> Iterator[list[tuple[Layer, InputMoments]]]:
    """The moments of one group of layers after another, at the cost of one pass over the data in all.

    Whoever takes a group's moments may change initializers of the quantized model, which all that
    lies behind then sees, before asking for the next.

    Yields:
        Each layer of the group with its moments; equal layers share one object.
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
            yield _moments(group, batches, wanted)


def _moments(
    group: tuple[Layer, ...], batches: Iterator[tuple[Values, Values]], wanted: Wanted
) -> list[tuple[Layer, InputMoments]]:
    accumulators = [
        MomentsAccumulator(layer.columns, float_gram=wanted.float_gram, products=wanted.products)
        for layer in group
    ]
    first = [next(i for i, other in enumerate(group) if other.columns == layer.columns) for layer in group]
    source, twin = group[0].input, group[0].quantized_input
    for values, other in batches:
        x = values[source]
        x_quantized = other[twin] if wanted.quantized_inputs else x
        for index in sorted(set(first)):
            accumulators[index].add(x, x_quantized)
    results = {index: accumulators[index].result() for index in set(first)}
    return [(layer, results[index]) for layer, index in zip(group, first, strict=True)]
