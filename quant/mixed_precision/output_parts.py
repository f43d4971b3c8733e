"""Which elements of a model's outputs belong together: those that one tensor brought into a Concat.

The float model runs with a second copy of the operators behind such tensors, through which not values
but the tensors' numbers travel. What arrives at an output says of every element where it came from,
whatever Transposes and Reshapes there were on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

_MOVERS = frozenset(
    {"Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose outputs are elements of their inputs, each where its position alone puts it."""


def label_outputs(
    graph: ir.Graph, outputs: Iterable[ir.Value]
) -> tuple[list[ir.Value | int], tuple[str, ...]]:
    """Adds what computes the parts of outputs to a graph, in place.

    Args:
        graph: Of the float model.
        outputs: Some of its outputs.

    Returns:
        For each output a value of its shape with the number of every element's part, or the number of its
        only part; and the names of the parts: of the tensors that they came from, or of the outputs.
    """
    labeller = _Labeller(graph)
    labelled = [labeller.label(output) for output in outputs]
    return labelled, tuple(labeller.parts)


class _Labeller:
    """Adds the second copies to a graph, in place."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.parts: list[str] = []
        self.copies: dict[ir.Value, ir.Value] = {}

    def label(self, output: ir.Value) -> ir.Value | int:
        """The value with the numbers of an output's parts, or the number of the only one."""
        leaves = list(dict.fromkeys(_leaves(output)))
        if len(leaves) < 2:
            self.parts.append(output.name or "")
            return len(self.parts) - 1
        for leaf in leaves:
            if leaf not in self.copies:
                self.copies[leaf] = self._numbered(leaf, len(self.parts))
                self.parts.append(leaf.name or "")
        return self._copy(output)

    def _numbered(self, leaf: ir.Value, number: int) -> ir.Value:
        """A tensor of the leaf's shape that is full of its number."""
        shape = self._add("Shape", [leaf], f"{leaf.name}_part_shape", ir.DataType.INT64)
        fill = {"value": ir.tensor(np.array([number], np.float32))}
        return self._add("ConstantOfShape", [shape], f"{leaf.name}_part", ir.DataType.FLOAT, fill)

    def _copy(self, value: ir.Value) -> ir.Value:
        if value in self.copies:
            return self.copies[value]
        node = value.producer()
        assert node is not None
        moved = len(node.inputs) if node.op_type == "Concat" else 1
        inputs = [
            self._copy(given) if index < moved and given else given for index, given in enumerate(node.inputs)
        ]
        outputs = [ir.Value(name=f"{output.name}_part") for output in node.outputs]
        for output in outputs:
            output.dtype = ir.DataType.FLOAT
        name = f"{node.name}_part"
        copied = ir.Node("", node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=name)
        self.graph.append(copied)
        self.copies |= dict(zip(node.outputs, outputs, strict=True))
        return self.copies[value]

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType,
        attributes: dict[str, ir.TensorProtocol] | None = None,
    ) -> ir.Value:
        output = ir.Value(name=name)
        output.dtype = dtype
        self.graph.append(ir.node(op_type, inputs, attributes=attributes or {}, outputs=[output], name=name))
        return output


def _leaves(value: ir.Value) -> Iterator[ir.Value]:
    """The tensors behind an output's Concats; the output's source if there is no Concat."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _MOVERS:
        yield value
        return
    for source in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
        assert source is not None
        yield from _leaves(source)
