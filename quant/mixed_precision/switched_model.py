"""One model for all choices of types: every quantized tensor passes a switch that inputs of the model set.

A session costs far more to build than to run. So what each choice would need a session of its own for
is computed in one: behind every tensor stands an If, which leaves it in float or rounds it to the one
grid or the other, and only what is chosen is computed.

               value
                 |
        If quantized ---------- no: Identity
                 | yes
        If wide ---------- no: Q, DQ of the narrow grid
                 | yes: Q, DQ of the wide grid
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.constant_params import code_tensor
from quant.qparams import QuantParams, dequantize, quantize
from quant.types import ElementType

_EXACT_FOLLOWERS = frozenset(
    {"Flatten", "Gather", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose outputs lie on their input's grid: rounding to it again changes nothing."""


class Precision(Enum):
    """What a switch is set to."""

    FLOAT = 0
    NARROW = 1
    WIDE = 2


@dataclass(frozen=True)
class TensorFormat:
    """One of a tensor's two grids.

    Attributes:
        type: Of its codes.
        params: Scale and zero point; None for types that are cast to.
        codes: Of a constant; None for activations.
    """

    type: ElementType
    params: QuantParams | None
    codes: onnx.TensorProto | None = None

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values on the grid that are nearest to these; of a constant, those that its codes stand for."""
        if self.params is None:
            return values.astype(self.type.ir.numpy()).astype(values.dtype)
        codes = quantize(values, self.params, self.type)
        if self.codes is not None:
            codes = onnx.numpy_helper.to_array(self.codes).astype(codes.dtype)
        return dequantize(codes, self.params)


@dataclass(frozen=True)
class Switch:
    """A tensor that is rounded.

    Attributes:
        tensor: Its name.
        source: The tensor whose precision and grids it has: itself, or the one that it follows.
        formats: The narrow and the wide grid, the same twice where there is no choice.
    """

    tensor: str
    source: str
    formats: tuple[TensorFormat, TensorFormat]


def switched_model(
    model: ir.Model, switches: Mapping[str, Switch], float_nodes: frozenset[str] = frozenset()
) -> ir.Model:
    """The model with a switch behind every tensor.

    For each source there are two more inputs, truth values named by `quantized_input` and `wide_input`.

    Args:
        model: The float model; left as it is.
        switches: By tensor name.
        float_nodes: Nodes that read the float values.
    """
    model = model.clone()
    builder = _Builder(model.graph)
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for name, switch in switches.items():
        producer = values[name].producer()
        follows = switch.source != name
        if not (follows and producer is not None and producer.op_type in _EXACT_FOLLOWERS):
            builder.insert(values[name], switch, frozenset() if follows else float_nodes)
    return model


def quantized_input(source: str) -> str:
    """Name of the input that says whether a tensor is rounded at all."""
    return f"{source}_is_quantized"


def wide_input(source: str) -> str:
    """Name of the input that says which of its grids a tensor is rounded to."""
    return f"{source}_is_wide"


def settings(precisions: Mapping[str, Precision]) -> dict[str, NDArray[np.bool_]]:
    """What to feed to the switches, by the precision of every source."""
    feed = {}
    for source, precision in precisions.items():
        feed[quantized_input(source)] = np.asarray(precision is not Precision.FLOAT)
        feed[wide_input(source)] = np.asarray(precision is Precision.WIDE)
    return feed


class _Builder:
    """Edits one graph in place."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.inputs: dict[str, ir.Value] = {}
        self.order = {node: index for index, node in enumerate(graph)}
        self.nodes = tuple(graph)

    def insert(self, value: ir.Value, switch: Switch, float_nodes: frozenset[str]) -> None:
        """Puts a switch between a tensor and its readers."""
        readers = [(use.node, use.idx) for use in value.uses() if use.node.name not in float_nodes]
        is_output = value.is_graph_output() and value.producer() is not None
        if not readers and not is_output:
            return
        rounded = self._rounded(value, switch)
        kept = _branch(
            [ir.node("Identity", [value], outputs=[_like(value, "kept")], name=f"{value.name}_kept")]
        )
        condition = self._input(quantized_input(switch.source))
        chosen = self._if(condition, rounded, kept, value, "switched")
        self._place(chosen, value, readers)
        for reader, position in readers:
            reader.replace_input_with(position, chosen.outputs[0])
        for index, output in enumerate(self.graph.outputs):
            if is_output and output is value:
                self.graph.outputs[index] = chosen.outputs[0]

    def _rounded(self, value: ir.Value, switch: Switch) -> ir.Graph:
        """The branch that rounds, to the one grid or the other."""
        narrow_format, wide_format = switch.formats
        narrow = _branch(self._rounding(value, narrow_format, "narrow"))
        if wide_format is narrow_format:
            return narrow
        wide = _branch(self._rounding(value, wide_format, "wide"))
        return _branch([self._if(self._input(wide_input(switch.source)), wide, narrow, value, "rounded")])

    def _place(self, node: ir.Node, value: ir.Value, readers: list[tuple[ir.Node, int]]) -> None:
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
            return
        first = min((self.order[reader] for reader, _ in readers if reader in self.order), default=0)
        self.graph.insert_before(self.nodes[first], node)

    def _rounding(self, value: ir.Value, own: TensorFormat, what: str) -> list[ir.Node]:
        """Nodes from a tensor, or from its codes, to rounded values of its type."""
        base, result = f"{value.name}_{what}", _like(value, what)
        real = value.dtype or ir.DataType.FLOAT
        codes = (
            ir.Value(name=f"{base}_codes")
            if own.codes is None
            else self._initializer(f"{base}_codes", own.codes)
        )
        if own.params is None:
            narrow = [] if own.codes is not None else [_cast(value, own.type.ir, codes)]
            return [*narrow, _cast(codes, real, result)]
        params = own.params
        scale = self._initializer(f"{base}_scale", onnx.numpy_helper.from_array(params.scale))
        zero_point = self._initializer(f"{base}_zero_point", code_tensor(params.zero_point, own.type, ""))
        attributes = {"axis": params.axis, "block_size": params.block_size}
        given = {name: number for name, number in attributes.items() if number is not None}
        widen = _node("DequantizeLinear", [codes, scale, zero_point], given, result)
        if own.codes is not None:
            return [widen]
        return [_node("QuantizeLinear", [value, scale, zero_point], given, codes), widen]

    def _initializer(self, name: str, proto: onnx.TensorProto) -> ir.Value:
        if name not in self.graph.initializers:
            own = onnx.TensorProto()
            own.CopyFrom(proto)  # the value would give its name to what others hold as well
            tensor = ir.serde.deserialize_tensor(own)
            value = ir.Value(
                name=name,
                const_value=tensor,
                shape=ir.Shape(list(proto.dims)),
                type=ir.TensorType(tensor.dtype),
            )
            self.graph.initializers[name] = value
        return self.graph.initializers[name]

    def _input(self, name: str) -> ir.Value:
        if name not in self.inputs:
            self.inputs[name] = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
            self.graph.inputs.append(self.inputs[name])
        return self.inputs[name]

    @staticmethod
    def _if(condition: ir.Value, then: ir.Graph, otherwise: ir.Graph, like: ir.Value, what: str) -> ir.Node:
        attributes = [ir.AttrGraph("then_branch", then), ir.AttrGraph("else_branch", otherwise)]
        return ir.Node(
            "", "If", [condition], attributes, outputs=[_like(like, what)], name=f"{like.name}_{what}"
        )


def _branch(nodes: list[ir.Node]) -> ir.Graph:
    """A graph whose result is its last node's."""
    return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name=f"{nodes[-1].name}_branch")


def _node(op_type: str, inputs: list[ir.Value], attributes: dict[str, int], output: ir.Value) -> ir.Node:
    return ir.node(op_type, inputs, attributes=attributes, outputs=[output], name=f"{output.name}_{op_type}")


def _cast(value: ir.Value, to: ir.DataType, output: ir.Value) -> ir.Node:
    return ir.node("Cast", [value], attributes={"to": int(to)}, outputs=[output], name=f"{output.name}_Cast")


def _like(value: ir.Value, what: str) -> ir.Value:
    """A value with another's type and shape."""
    return ir.Value(
        name=f"{value.name}_{what}", type=ir.TensorType(value.dtype or ir.DataType.FLOAT), shape=value.shape
    )
