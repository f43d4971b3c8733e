"""Making tensors outputs of a model, those inside If, Loop and Scan too.

What a body computes ends with it, so each operator around it has to hand the tensor on:

- If: the branch gives the values in a row; the other branch gives none;
- Loop: a sequence takes the values of each iteration, in a row, and is joined behind the loop, so that
  the tensor may have another shape each time, and a loop that never runs gives none;
- Scan: one more scan output, which asks for the same shape at each step.

So an exposed tensor has all values that it took in one run, in order, but in general not its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from quant.graph.bodies import Owner, owners

_SEQUENCE_POSITION_IN_BODY = 1
"""A Loop's body gives the condition first, then what the next iteration reads."""


def expose(model: ir.Model, names: Iterable[str]) -> None:
    """Makes tensors outputs of the model under their names, in place.

    Args:
        model: With names that are unique over all bodies, as far as tensors inside them are asked for.
        names: None of them `hidden_tensors`.
    """
    values = ir.convenience.create_value_mapping(model.graph)
    present = {value.name for value in model.graph.outputs}
    inside = owners(model.graph)
    for name in names:
        if name in present:
            continue
        value = values[name]
        if value.graph in inside:
            value.name = f"{name}_inner"
            while value.graph in inside:
                value = _hand_on(value, inside[value.graph])
            value.name = name
        model.graph.outputs.append(value)


def hidden_tensors(graph: ir.Graph) -> Mapping[ir.Value, str]:
    """The tensors that cannot be exposed, with the reason."""
    inside = owners(graph)
    fixed = {
        str(dimension.value)
        for value in graph.inputs
        for dimension in value.shape or ()
        if isinstance(dimension, ir.SymbolicDim) and dimension.value is not None
    }
    hidden = {}
    for body in inside:
        for value in (*body.inputs, *(value for node in body for value in node.outputs)):
            reason = _reason(value, body, inside, fixed)
            if reason is not None:
                hidden[value] = reason
    return hidden


def _reason(value: ir.Value, body: ir.Graph, inside: Mapping[ir.Graph, Owner], fixed: set[str]) -> str | None:
    owner = inside[body]
    if owner.node.op_type not in _HANDED_ON:
        return f"the body of {owner.node.op_type} {owner.node.name!r} shows no tensors"
    if owner.node.op_type == "Scan" and not _is_fixed(value, fixed):
        return f"its shape may change from step to step of Scan {owner.node.name!r}"
    if owner.node.op_type != "Scan" and any(outer.node.op_type == "Scan" for outer in _around(owner, inside)):
        return f"it is inside {owner.node.op_type} {owner.node.name!r} within a Scan"
    return None


def _around(owner: Owner, inside: Mapping[ir.Graph, Owner]) -> Iterator[Owner]:
    """The owners of the bodies that a body is in."""
    body = owner.node.graph
    while isinstance(body, ir.Graph) and body in inside:
        yield inside[body]
        body = inside[body].node.graph


def _is_fixed(value: ir.Value, fixed: set[str]) -> bool:
    """Whether the shape is known, up to sizes that the graph's inputs have."""
    return value.shape is not None and all(
        isinstance(dimension, int) or str(dimension.value) in fixed for dimension in value.shape
    )


def _hand_on(value: ir.Value, owner: Owner) -> ir.Value:
    """An output of the body's node with the values, in place."""
    return _HANDED_ON[owner.node.op_type](value, owner)


def _from_branch(value: ir.Value, owner: Owner) -> ir.Value:
    for attribute in ("then_branch", "else_branch"):
        branch = owner.node.attributes[attribute].as_graph()
        result = _in_a_row(value, branch) if attribute == owner.attribute else _nothing(value, branch)
        branch.outputs.append(result)
    return _new_output(owner.node, value)


def _from_scan(value: ir.Value, owner: Owner) -> ir.Value:
    body = owner.node.attributes["body"].as_graph()
    copy = ir.node("Identity", [value], outputs=[_named(value, "copy")])
    copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
    body.append(copy)
    body.outputs.append(copy.outputs[0])
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in owner.node.attributes:
            given = owner.node.attributes[name].as_ints()
            owner.node.attributes[name] = ir.AttrInt64s(name, [*given, 0])
    return _new_output(owner.node, value)


def _from_loop(value: ir.Value, owner: Owner) -> ir.Value:
    node, body = owner.node, owner.node.attributes["body"].as_graph()
    outer = node.graph
    assert outer is not None and value.dtype is not None
    carried = len(node.inputs) - 2  # behind the trip count and the condition
    sequence = ir.SequenceType(ir.TensorType(value.dtype))

    before = ir.Value(name=f"{value.name}_before", type=sequence)
    body.inputs.append(before)
    insert = ir.node("SequenceInsert", [before, _in_a_row(value, body)], outputs=[_named(value, "after")])
    insert.outputs[0].type = sequence
    body.append(insert)
    body.outputs.insert(_SEQUENCE_POSITION_IN_BODY + carried, insert.outputs[0])

    start = ir.node("SequenceConstruct", [_nothing(value, outer, node)], outputs=[_named(value, "start")])
    outer.insert_before(node, start)
    node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(len(node.inputs) - 1, start.outputs[0])
    collected = _insert_output(node, carried, f"{value.name}_collected")
    join = ir.node(
        "ConcatFromSequence", [collected], attributes={"axis": 0}, outputs=[_named(value, "joined")]
    )
    join.outputs[0].type = value.type
    outer.insert_after(node, join)
    return join.outputs[0]


_HANDED_ON = {"If": _from_branch, "Loop": _from_loop, "Scan": _from_scan}


def _insert_output(node: ir.Node, position: int, name: str) -> ir.Value:
    """A new output of a node among those that it has, which move up by one."""
    node.resize_outputs(len(node.outputs) + 1)
    for index in range(len(node.outputs) - 1, position, -1):
        source, target = node.outputs[index - 1], node.outputs[index]
        source.replace_all_uses_with(target, replace_graph_outputs=True)
        target.shape, target.type = source.shape, source.type
        source.name, target.name = None, source.name
    node.outputs[position].name = name
    node.outputs[position].shape = node.outputs[position].type = None
    return node.outputs[position]


def _new_output(node: ir.Node, value: ir.Value) -> ir.Value:
    node.resize_outputs(len(node.outputs) + 1)
    node.outputs[-1].name, node.outputs[-1].type = f"{value.name}_out", value.type
    return node.outputs[-1]


def _in_a_row(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """The values as one axis, whatever the shape, at the end of a graph."""
    shape = ir.node("Constant", [], attributes={"value_ints": [-1]}, outputs=[_named(value, "all")])
    reshape = ir.node("Reshape", [value, shape.outputs[0]], outputs=[_named(value, "row")])
    reshape.outputs[0].type, reshape.outputs[0].shape = value.type, ir.Shape([None])
    graph.extend([shape, reshape])
    return reshape.outputs[0]


def _nothing(value: ir.Value, graph: ir.Graph, before: ir.Node | None = None) -> ir.Value:
    """An empty tensor of the value's type, in a graph."""
    assert value.dtype is not None
    empty = ir.tensor(np.zeros(0, value.dtype.numpy()))
    constant = ir.node("Constant", [], attributes={"value": empty}, outputs=[_named(value, "nothing")])
    constant.outputs[0].type, constant.outputs[0].shape = value.type, ir.Shape([0])
    if before is None:
        graph.append(constant)
    else:
        graph.insert_before(before, constant)
    return constant.outputs[0]


def _named(value: ir.Value, what: str) -> ir.Value:
    return ir.Value(name=f"{value.name}_{what}")
