"""What the layers of a quantized model cost: how many values of which width they read and multiply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from quant.graph.macs import Shapes, graph_macs, operands
from quant.layers.layer import QuantizableLayer, layers_of

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


@dataclass(frozen=True)
class LayerSizes:
    """What decides on a layer's cost beside its formats.

    Attributes:
        name, op_type, macs: As in `LayerCost`.
        inputs: Name and shape of every data input, in one batch.
        samples: In the batch.
        weight, bias: Name and number of elements, None and 0 where there is none.
    """

    name: str
    op_type: str
    macs: int
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    samples: int
    weight: tuple[str | None, int]
    bias: tuple[str | None, int]


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a float model.

    Attributes:
        layers: In graph order.
        constants: Number of elements of every float constant.
    """

    layers: tuple[LayerSizes, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True)
class LayerBits:
    """Widths that one configuration gives a layer: as in `LayerCost`."""

    weight: float = FLOAT_BITS
    bias: float = FLOAT_BITS
    activations: float = FLOAT_BITS
    searched: bool = False


def tensors_sized(graph: ir.Graph) -> tuple[str, ...]:
    """Names of the tensors whose shapes `model_sizes` looks at."""
    names: dict[str, None] = {}
    for layer in layers_of(graph):
        names |= dict.fromkeys(_inputs(layer))
        if operands(layer.node):
            names |= dict.fromkeys((*operands(layer.node), layer.node.outputs[0].name or ""))
    return tuple(names)


def model_sizes(graph: ir.Graph, shapes: Shapes, samples: int) -> ModelSizes:
    """The sizes of all layers and constants.

    Args:
        graph: A prepared graph.
        shapes: Of `tensors_sized`, in one batch.
        samples: In that batch.
    """
    layers = layers_of(graph)
    macs = graph_macs((layer.node for layer in layers), shapes)
    sized = tuple(
        LayerSizes(
            layer.name,
            layer.op_type,
            round(macs.get(layer.name, 0) / samples),
            tuple((name, tuple(shapes[name])) for name in _inputs(layer)),
            samples,
            (None, 0) if layer.weight is None else (layer.weight.name, layer.weight.size),
            (None, 0) if layer.bias is None else (layer.bias.name, layer.bias.size),
        )
        for layer in layers
    )
    constants = {
        name: int(value.const_value.size)
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype in _FLOATING
    }
    return ModelSizes(sized, constants)


def model_cost(sizes: ModelSizes, bits: Sequence[LayerBits], *, emulated: bool) -> ModelCost:
    """Sizes and widths together.

    Args:
        sizes: Of the model.
        bits: Of each layer, in the same order.
        emulated: As in `ModelCost`.
    """
    counted, layers = set[tuple[str, float]](), []
    for layer, own in zip(sizes.layers, bits, strict=True):
        stored = []
        for (name, count), width in ((layer.weight, own.weight), (layer.bias, own.bias)):
            seen = name is not None and (name, width) in counted
            stored.append(0 if seen else count)
            counted |= set() if name is None else {(name, width)}
        elements = round(sum(prod(shape) for _, shape in layer.inputs) / layer.samples)
        layers.append(
            LayerCost(
                layer.name,
                layer.op_type,
                stored[0],
                own.weight,
                stored[1],
                own.bias,
                elements,
                own.activations,
                layer.macs,
                own.searched,
            )
        )
    of_layers = {name for name, _ in counted}
    others = sum(count for name, count in sizes.constants.items() if name not in of_layers)
    return ModelCost(tuple(layers), others, emulated)


def mean_bits(widths: Iterable[tuple[float, int]]) -> float:
    """Bits of an element, over tensors with widths and numbers of elements; 32 if there are none."""
    pairs = tuple(widths)
    total = sum(count for _, count in pairs)
    return sum(width * count for width, count in pairs) / total if total else float(FLOAT_BITS)


def _inputs(layer: QuantizableLayer) -> tuple[str, ...]:
    values = (layer.node.inputs[position] for position in layer.data_inputs)
    return tuple(value.name or "" for value in values if value is not None)
