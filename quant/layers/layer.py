"""The nodes of a graph that can have number formats of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from quant.layers.types import DATA_INPUTS, OP_TYPES, WEIGHTED, other_words, weighted_words

_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Operand:
    """A constant input of a node.

    Attributes:
        node: Its reader: of the bias of a MatMul the Add behind it.
        position: Among the node's inputs.
        name: Its initializer.
    """

    node: ir.Node
    position: int
    name: str

    @property
    def size(self) -> int:
        """Number of elements."""
        value = self.node.inputs[self.position]
        assert value is not None and value.const_value is not None
        return int(value.const_value.size)


@dataclass(frozen=True)
class QuantizableLayer:
    """A node that can have number formats of its own, with the constants that belong to it.

    Attributes:
        node: The node; for a MatMul whose product goes into an Add of a constant vector, the MatMul.
        words: What its type is called, MASE's words first, the most specific of them at the
            beginning, and ONNX's operator type at the end.
        data_inputs: Positions of its data inputs, which are computed float32 tensors.
        weight: Its constant weight, or None.
        bias: Its constant bias, or None.
        module: Path of the module of PyTorch that it computes; empty where that is not known.
    """

    node: ir.Node
    words: tuple[str, ...]
    data_inputs: tuple[int, ...]
    weight: Operand | None = None
    bias: Operand | None = None
    module: str = ""

    @property
    def name(self) -> str:
        """Of the node."""
        return self.node.name or ""

    @property
    def has_weight(self) -> bool:
        """Whether it multiplies by constants."""
        return self.weight is not None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its data inputs, in order; one that is read twice stands there twice."""
        values = (self.node.inputs[position] for position in self.data_inputs)
        return tuple(value.name or "" for value in values if value is not None)

    @property
    def op_type(self) -> str:
        """ONNX's operator type."""
        return self.node.op_type

    @property
    def type(self) -> str:
        """The first of its words."""
        return self.words[0]


def layers_of(graph: ir.Graph, modules: Mapping[str, str] | None = None) -> tuple[QuantizableLayer, ...]:
    """The layers of a graph, in its order.

    They are products (Conv, ConvTranspose, Gemm, MatMul), sums, activation functions and normalisations of
    `quant.layers.types`, each with at least one computed float32 input. A MatMul with a constant whose only
    reader is an Add of a constant vector is one layer with it; that vector is its bias. Nodes inside the
    bodies of If, Loop and Scan are none, and constants of elementwise operators and normalisations
    belong to no layer.

    Args:
        graph: A prepared graph: nodes named and sorted, types known, constants as initializers.
        modules: Of the float model's nodes: `module_paths`.
    """
    layers, merged = list[QuantizableLayer](), set[ir.Node]()
    for node in graph:
        if node.op_type not in OP_TYPES or node.domain not in ("", "ai.onnx") or node in merged:
            continue
        layer = _product(node) if node.op_type in WEIGHTED else _other(node)
        if layer is not None:
            layers.append(replace(layer, module=(modules or {}).get(layer.name, "")))
            merged |= {layer.bias.node} if layer.bias is not None else set()
    return tuple(layers)


def _product(node: ir.Node) -> QuantizableLayer | None:
    """A node that multiplies float32 tensors; None if both are constant, or one is a constant vector."""
    operands = node.inputs[:2]
    if not all(value is not None and value.dtype == _FLOAT for value in operands):
        return None
    constant = [position for position, value in enumerate(operands) if _is_constant(value)]
    if len(constant) == 2 or any((_rank(operands[position]) or 0) < 2 for position in constant):
        return None
    data = tuple(position for position in (0, 1) if position not in constant)
    weight = None
    if constant and (node.op_type == "MatMul" or constant == [1]):
        weight = Operand(node, constant[0], _name(node.inputs[constant[0]]))
    words = (*weighted_words(node.op_type, _rank(operands[1]), constant=weight is not None), node.op_type)
    return QuantizableLayer(node, words, data, weight, None if weight is None else _bias(node))


def _bias(node: ir.Node) -> Operand | None:
    """A constant third input, or of a MatMul the constant vector of an Add that alone reads it."""
    if node.op_type != "MatMul":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        return Operand(node, 2, _name(value)) if _is_constant(value) else None
    output = node.outputs[0]
    readers = tuple(output.uses())
    if len(readers) != 1 or output.is_graph_output():
        return None
    reader, position = readers[0]
    if reader.op_type != "Add" or reader.domain not in ("", "ai.onnx") or reader.graph is not node.graph:
        return None
    value = reader.inputs[1 - position]
    alone = _is_constant(value) and value is not None and len(value.uses()) == 1
    if not alone or _rank(value) != 1 or value is None or value.dtype != _FLOAT:
        return None
    return Operand(reader, 1 - position, _name(value))


def _other(node: ir.Node) -> QuantizableLayer | None:
    """A node without weights; None if it computes nothing of float32 tensors."""
    values = node.inputs[: DATA_INPUTS.get(node.op_type, 1)]
    data = tuple(
        position
        for position, value in enumerate(values)
        if value is not None and value.dtype == _FLOAT and not _is_constant(value)
    )
    if not data:
        return None
    words = (*other_words(node.op_type, _rank(node.inputs[0])), node.op_type)
    return QuantizableLayer(node, words, data)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.producer() is None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""
