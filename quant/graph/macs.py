"""Multiply-accumulate operations of a graph's nodes, from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import onnx_ir as ir

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_Rule = Callable[[ir.Node, Sequence[Shape], Shape], int]


def _convolution(_: ir.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Every output value sums over a kernel: weights of shape (out, in / group, ...)."""
    return prod(output) * prod(inputs[1][1:])


def _transposed_convolution(_: ir.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Every input value is multiplied by a kernel: weights of shape (in, out / group, ...)."""
    return prod(inputs[0]) * prod(inputs[1][1:])


def _gemm(node: ir.Node, inputs: Sequence[Shape], output: Shape) -> int:
    summed = inputs[0][0 if node.attributes.get_int("transA", 0) else 1]
    return prod(output) * summed


def _matmul(_: ir.Node, inputs: Sequence[Shape], output: Shape) -> int:
    return prod(output) * inputs[0][-1]


def _recurrent(_: ir.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Every step of every sequence multiplies by W and R; X is (steps, batch, in), or (batch, steps, in)."""
    steps, batch = inputs[0][:2]
    return steps * batch * (prod(inputs[1]) + prod(inputs[2]))


_RULES: Mapping[str, _Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""By operator type of ONNX's own domain. Elementwise work, pooling and normalization are not counted."""

_OPERANDS = {"LSTM": 3, "GRU": 3, "RNN": 3}
_USUAL_OPERANDS = 2


def operands(node: ir.Node) -> tuple[str, ...]:
    """Names of the tensors that a node multiplies; none for operators without MACs."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _RULES:
        return ()
    count = _OPERANDS.get(node.op_type, _USUAL_OPERANDS)
    return tuple(value.name or "" for value in node.inputs[:count] if value is not None)


def shapes_read(graph: ir.Graph) -> tuple[str, ...]:
    """Names of the tensors whose shapes `graph_macs` looks at."""
    names = dict.fromkeys(
        name
        for node in graph
        if operands(node)
        for name in (*operands(node), node.outputs[0].name or "")
        if name
    )
    return tuple(names)


def graph_macs(nodes: Iterable[ir.Node], shapes: Shapes) -> dict[str, int]:
    """MACs of every node that has some, by its name.

        Conv: |Y| |W[0]|      ConvTranspose: |X| |W[0]|      Gemm, MatMul: |Y| K
        LSTM, GRU, RNN: steps x batch x (|W| + |R|)

    Args:
        nodes: Of a graph; those in subgraphs are not counted.
        shapes: By tensor name, without free dimensions (of one batch, say).

    Raises:
        KeyError: If the shape of a tensor of `shapes_read` is missing.
    """
    macs = {}
    for node in nodes:
        names = operands(node)
        if names:
            output = node.outputs[0].name or next(value.name or "" for value in node.outputs if value.name)
            known = shapes.get(output, ()) if node.op_type in _OPERANDS else shapes[output]
            macs[node.name or ""] = _RULES[node.op_type](node, [shapes[name] for name in names], known)
    return macs
