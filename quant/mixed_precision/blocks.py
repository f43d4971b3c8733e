"""Blocks of a graph: what lies between two places that a single tensor passes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from quant.graph.macs import operands


def blocks(nodes: Sequence[ir.Node]) -> tuple[tuple[ir.Node, ...], ...]:
    """Runs of consecutive nodes, such as the residual blocks of a network.

    A run ends where one tensor alone is still to be read of all that came before, as behind the Add that
    closes a residual connection, and where the run multiplies by weights: an elementwise operator between
    two blocks belongs to the second. Constants and what is computed from them alone are not counted.

    Args:
        nodes: In topological order.
    """
    last_use = {
        value: index for index, node in enumerate(nodes) for value in node.inputs if value is not None
    }
    found: list[list[ir.Node]] = [[]]
    alive: set[ir.Value] = set()
    for index, node in enumerate(nodes):
        found[-1].append(node)
        alive |= {value for value in node.inputs if value is not None and _is_data(value)}
        alive |= {value for value in node.outputs if value in last_use and _computes_data(node)}
        alive = {value for value in alive if last_use[value] > index}
        if len(alive) == 1 and any(operands(inner) for inner in found[-1]):
            found.append([])
    if len(found) > 1 and not any(operands(inner) for inner in found[-1]):  # no block of its own
        tail = found.pop()
        found[-1] += tail
    return tuple(tuple(block) for block in found if block)


def _is_data(value: ir.Value) -> bool:
    """Whether a node's input is not a constant."""
    if value.const_value is not None:
        return False
    producer = value.producer()
    return producer is None or _computes_data(producer)


def _computes_data(node: ir.Node) -> bool:
    """Whether a node reads anything that is no constant and of which more than the shape counts."""
    return node.op_type not in ("Shape", "Constant") and any(
        value is not None and value.const_value is None for value in node.inputs
    )
