"""What the layers of a quantized model cost: how many values of which width they read and multiply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from quant.graph.macs import Shapes, graph_macs, operands
from quant.layers.layer import Operand, QuantizableLayer

FLOAT_BITS = 32
"""Of a value that is not quantized."""

_FLOATING = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class LayerCost:
    """One layer of a quantized model. What several layers share is counted with the first of them.

    Attributes:
        name, op_type: Of the node.
        weights, biases: Numbers of elements.
        weight_bits, bias_bits: Bits of each, scales and exponents that a block shares included; 32 if
            it is not quantized.
        activations: Elements of its data inputs, for one sample.
        activation_bits: Bits of each, in the mean over them.
        macs: Multiply-accumulate operations, for one sample.
        searched: Whether the configuration gives it formats, or quantizes any of it.
    """

    name: str
    op_type: str
    weights: int
    weight_bits: float
    biases: int
    bias_bits: float
    activations: int
    activation_bits: float
    macs: int
    searched: bool


@dataclass(frozen=True)
class ModelCost:
    """A quantized model.

    Attributes:
        layers: In graph order.
        other_weights: Number of float constants that belong to no layer.
        emulated: Whether some format is computed by standard operators in place of a type of its own.
    """

    layers: tuple[LayerCost, ...]
    other_weights: int
    emulated: bool


NO_COST = ModelCost((), 0, emulated=False)
"""Of a model whose layers nobody looked at."""


@dataclass(frozen=True)
class LayerSizes:
    """What a layer reads and multiplies in one batch.

    Attributes:
        macs: Multiply-accumulate operations, 0 for operators that have none.
        inputs: Shape of every data input.
        samples: In the batch.
    """

    macs: int
    inputs: tuple[tuple[int, ...], ...]
    samples: int


def encode_sizes(sizes: Mapping[str, LayerSizes]) -> bytes:
    """JSON, for the stage cache: the run of the float model that finds them is shared by all processes."""
    return json.dumps({name: [each.macs, each.inputs, each.samples] for name, each in sizes.items()}).encode()


def decode_sizes(content: memoryview) -> dict[str, LayerSizes]:
    """The inverse."""
    return {
        name: LayerSizes(macs, tuple(map(tuple, inputs)), samples)
        for name, (macs, inputs, samples) in json.loads(bytes(content)).items()
    }


@dataclass(frozen=True)
class LayerBits:
    """Widths that one configuration gives a layer: as in `LayerCost`."""

    weight: float = FLOAT_BITS
    bias: float = FLOAT_BITS
    activations: float = FLOAT_BITS
    searched: bool = False


def tensors_sized(layers: Sequence[QuantizableLayer]) -> tuple[str, ...]:
    """Names of the tensors whose shapes `layer_sizes` looks at."""
    names: dict[str, None] = {}
    for layer in layers:
        names |= dict.fromkeys(layer.tensors)
        if operands(layer.node):
            names |= dict.fromkeys((*operands(layer.node), layer.node.outputs[0].name or ""))
    return tuple(names)


def layer_sizes(layers: Sequence[QuantizableLayer], shapes: Shapes, samples: int) -> dict[str, LayerSizes]:
    """The sizes of all layers, by name.

    Args:
        layers: Of a prepared graph.
        shapes: Of `tensors_sized`, in one batch.
        samples: In that batch.
    """
    macs = graph_macs((layer.node for layer in layers), shapes)
    return {
        layer.name: LayerSizes(
            macs.get(layer.name, 0), tuple(tuple(shapes[name]) for name in layer.tensors), samples
        )
        for layer in layers
    }


def model_cost(
    graph: ir.Graph,
    layers: Sequence[QuantizableLayer],
    sizes: Mapping[str, LayerSizes],
    bits: Mapping[str, LayerBits],
    *,
    emulated: bool,
) -> ModelCost:
    """Sizes and widths together.

    Args:
        graph: The float graph.
        layers: Its layers.
        sizes: Of each, by name.
        bits: Of each, by name.
        emulated: As in `ModelCost`.
    """
    counted, costs = set[tuple[str, float]](), []
    for layer in layers:
        own, size = bits[layer.name], sizes[layer.name]
        weights = _count(layer.weight, own.weight, counted)
        biases = _count(layer.bias, own.bias, counted)
        costs.append(
            LayerCost(
                layer.name,
                layer.op_type,
                weights,
                own.weight,
                biases,
                own.bias,
                round(sum(map(prod, size.inputs)) / size.samples),
                own.activations,
                round(size.macs / size.samples),
                own.searched,
            )
        )
    of_layers = {name for name, _ in counted}
    others = sum(
        int(value.const_value.size)
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.dtype in _FLOATING and name not in of_layers
    )
    return ModelCost(tuple(costs), others, emulated)


def _count(operand: Operand | None, width: float, counted: set[tuple[str, float]]) -> int:
    """Elements of a constant, unless it was counted with this width before."""
    if operand is None or (operand.name, width) in counted:
        return 0
    counted.add((operand.name, width))
    return operand.size


def mean_bits(widths: Iterable[tuple[float, int]]) -> float:
    """Bits of an element, over tensors with widths and numbers of elements; 32 if there are none."""
    pairs = tuple(widths)
    total = sum(count for _, count in pairs)
    return sum(width * count for width, count in pairs) / total if total else float(FLOAT_BITS)
