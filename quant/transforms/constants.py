"""Reading and replacing the constants of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def read_constant(value: ir.Value | None) -> NDArray[np.float64]:
    """A constant in float64; possibly the memory of the model itself, not to be written to."""
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy(), dtype=np.float64)


def replace_constant(graph: ir.Graph, node: ir.Node, position: int, array: NDArray[Any]) -> None:
    """A new initializer for one input; the old one may have other readers."""
    while len(node.inputs) <= position:
        node.resize_inputs(len(node.inputs) + 1)
    old = node.inputs[position]
    base = old.name if old is not None else f"{node.outputs[0].name}_bias"
    name = f"{base}_folded"
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype  # type: ignore[union-attr]
    graph.register_initializer(value)
    node.replace_input_with(position, value)
    if old is not None and old.name is not None and not (old.uses() or old.is_graph_output()):
        graph.initializers.pop(old.name, None)
