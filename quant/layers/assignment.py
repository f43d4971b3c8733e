"""Which format every tensor of a graph's layers is to have, by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quant.config import LayerEntry
from quant.formats import Format
from quant.layers.arrangement import Arrangement, arrangement_of
from quant.layers.layer import Operand, QuantizableLayer

BIAS = Arrangement((0,))
"""Of a vector."""


@dataclass(frozen=True)
class Edge:
    """A data input in a format.

    Attributes:
        reader: Name of the node.
        position: Among its inputs.
        tensor: Its name.
        format: What it is rounded to there.
    """

    reader: str
    position: int
    tensor: str
    format: Format


@dataclass(frozen=True)
class Constant:
    """A weight or bias in a format.

    Attributes:
        layer: Name of the layer.
        role: "weight" or "bias".
        reader: Name of the node that reads it.
        position: Among its inputs.
        name: Its initializer.
        format: What it is rounded to.
        arrangement: How formats see it.
    """

    layer: str
    role: str
    reader: str
    position: int
    name: str
    format: Format
    arrangement: Arrangement


@dataclass(frozen=True)
class Assignment:
    """The formats of one configuration.

    Attributes:
        layers: All layers of the graph.
        entries: What the configuration says, by the name of the layer.
        edges: Data inputs with a format, in graph order.
        constants: Weights and biases with one, in graph order.
        unrounded: Names of the weights and biases that some layer reads in float.
    """

    layers: tuple[QuantizableLayer, ...]
    entries: Mapping[str, LayerEntry]
    edges: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    unrounded: tuple[str, ...]


def assign(layers: Sequence[QuantizableLayer], entries: Mapping[str, LayerEntry]) -> Assignment:
    """Gives each layer its formats.

    Raises:
        ConfigError: If an entry does not say what the weight of its layer is to be.
    """
    edges, constants, unrounded = list[Edge](), list[Constant](), dict[str, None]()
    for layer in layers:
        entry = entries.get(layer.name)
        if entry is not None and layer.weight is not None:
            entry.check_weight(f"layers.{layer.name}")
        formats = None if entry is None else entry.formats
        if formats is not None and formats.data_in is not None:
            edges += _edges(layer, formats.data_in)
        for role, operand in (("weight", layer.weight), ("bias", layer.bias)):
            own = None if formats is None else getattr(formats, role)
            if operand is not None and own is not None:
                constants.append(_constant(layer, role, operand, own))
            elif operand is not None:
                unrounded[operand.name] = None
    return Assignment(tuple(layers), entries, tuple(edges), tuple(constants), tuple(unrounded))


def _edges(layer: QuantizableLayer, own: Format) -> list[Edge]:
    return [
        Edge(layer.name, position, tensor, own)
        for position, tensor in zip(layer.data_inputs, layer.tensors, strict=True)
    ]


def _constant(layer: QuantizableLayer, role: str, operand: Operand, own: Format) -> Constant:
    reader = operand.node.name or ""
    arrangement = arrangement_of(operand.node, operand.position) if role == "weight" else BIAS
    return Constant(layer.name, role, reader, operand.position, operand.name, own, arrangement)
