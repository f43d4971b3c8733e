"""Computing once and for all what depends on constants alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quant.errors import ModelError
from quant.graph.session import float_session

_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}  # others read no input
)
_SMALL_BYTES = 1 << 16
"""Results up to this size are kept, larger ones if they are no larger than what they are made of."""


def fold_constants(model: ir.Model) -> ir.Model:
    """Replaces nodes whose inputs are all constants by initializers with their outputs.

    Weights that an exporter left behind a Transpose, Reshape or Mul thereby become weights, with
    channels and integers of their own. onnxruntime computes the values, node by node. Nodes that
    onnxruntime cannot run alone, draw random numbers, contain graphs, belong to other domains, make
    graph outputs, or whose result would take more memory (Expand, Tile) stay.

    Returns:
        A copy.
    """
    model = model.clone()
    for node in list(model.graph):
        tensors = _evaluate(node, model) if _depends_on_constants(node) else None
        if tensors is not None:
            _replace(model.graph, node, tensors)
    return model


def _replace(graph: ir.Graph, node: ir.Node, tensors: Sequence[ir.TensorProtocol]) -> None:
    sources = [value for value in node.inputs if value is not None]
    for output, tensor in zip(list(node.outputs), tensors, strict=True):
        constant = ir.Value(name=output.name, const_value=tensor, type=ir.TensorType(tensor.dtype))
        constant.shape = ir.Shape(tensor.numpy().shape)
        ir.convenience.replace_all_uses_with(output, constant)
        output.name = None
        graph.register_initializer(constant)
    graph.remove(node, safe=True)
    for source in sources:
        if source.name is not None and not (source.uses() or source.is_graph_output()):
            graph.initializers.pop(source.name, None)


def _depends_on_constants(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attributes.values()):
        return False
    given = [value for value in node.inputs if value is not None]
    constant = all(value.const_value is not None and value.producer() is None for value in given)
    return bool(given) and constant and not any(value.is_graph_output() for value in node.outputs)


def _evaluate(node: ir.Node, model: ir.Model) -> list[ir.TensorProtocol] | None:
    """The outputs, or None if the node is to stay."""
    inputs = {value.name: value for value in node.inputs if value is not None}
    constants = {
        name: ir.Value(name=name, const_value=value.const_value, shape=value.shape, type=value.type)
        for name, value in inputs.items()
    }
    outputs = [ir.Value(name=value.name) for value in node.outputs]
    alone = ir.Node(
        "",
        node.op_type,
        [None if value is None else constants[value.name] for value in node.inputs],
        attributes=node.attributes.values(),
        outputs=outputs,
    )
    graph = ir.Graph(
        [],
        [output for output in outputs if output.name],
        nodes=[alone],
        initializers=tuple(constants.values()),
        opset_imports=dict(model.opset_imports),
        name="constants",
    )
    try:
        with float_session(
            ir.Model(graph, ir_version=model.ir_version), (), ("CPUExecutionProvider",), threads=1
        ) as session:
            arrays = session.run(None, {})
    except ModelError:
        return None
    if len(arrays) < len(node.outputs) or not all(isinstance(array, np.ndarray) for array in arrays):
        return None
    read = sum(value.const_value.nbytes for value in inputs.values() if value.const_value is not None)
    if sum(array.nbytes for array in arrays) > max(read, _SMALL_BYTES):
        return None
    return [ir.tensor(array, name=value.name) for value, array in zip(node.outputs, arrays, strict=True)]
