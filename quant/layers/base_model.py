"""A float graph taken apart, to be put together with number formats, quickly and many times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from quant.formats import KnownShape
from quant.graph.insert import PRODUCER
from quant.graph.shared_weights import SharedWeights, share_weights
from quant.layers.layer import QuantizableLayer


@dataclass(frozen=True)
class BaseModel:
    """What all models with formats for the layers of one graph have in common.

    Attributes:
        head: The model without its nodes and without the constants that belong to layers.
        nodes: In topological order.
        own: Names of those constants, which nothing but layers reads.
        names: Of all values and nodes.
        shapes: Of the values that nodes compute or the model reads, as far as they are known before it runs.
        weights: What large constants of `head` refer to, or None.
    """

    head: onnx.ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    own: frozenset[str]
    names: frozenset[str]
    shapes: Mapping[str, KnownShape]
    weights: SharedWeights | None


def base_model(model: ir.Model, layers: Sequence[QuantizableLayer]) -> BaseModel:
    """Takes a prepared model apart; it is left as it is."""
    own = _own_constants(model.graph, layers)
    model = model.clone()
    model.producer_name = PRODUCER
    for name, value in list(model.graph.initializers.items()):
        if name in own or not (value.uses() or value.is_graph_output()):
            del model.graph.initializers[name]
        elif isinstance(value.const_value, ir.ExternalTensor):  # the result stands for itself
            value.const_value = ir.tensor(value.const_value.numpy(), name=name)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    names = {value.name or "" for value in values} | {node.name or "" for node in model.graph}
    names |= own | set(model.graph.initializers)
    weights = share_weights(model.graph)
    head = ir.to_proto(model)
    nodes = tuple(head.graph.node)
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del head.graph.node[:]
    return BaseModel(head, tuple(copies), own, frozenset(names), _known_shapes(values), weights)


def _known_shapes(values: Iterable[ir.Value]) -> dict[str, KnownShape]:
    """Of those whose rank is known, by name."""
    return {
        value.name or "": tuple(length if isinstance(length, int) else None for length in value.shape)
        for value in values
        if value.shape is not None
    }


def _own_constants(graph: ir.Graph, layers: Sequence[QuantizableLayer]) -> frozenset[str]:
    """Constants that layers read as weights or biases and nothing reads otherwise."""
    uses: dict[str, set[tuple[ir.Node, int]]] = {}
    for layer in layers:
        for operand in (layer.weight, layer.bias):
            if operand is not None:
                uses.setdefault(operand.name, set()).add((operand.node, operand.position))
    return frozenset(name for name, known in uses.items() if _only(graph.initializers[name], known))


def _only(value: ir.Value, known: Collection[tuple[ir.Node, int]]) -> bool:
    return not value.is_graph_output() and all(tuple(use) in known for use in value.uses())
