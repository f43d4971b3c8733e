"""The graphs inside If, Loop and Scan, and names that are unique over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Owner:
    """The node that runs a body, and the attribute that holds it."""

    node: ir.Node
    attribute: str

    @property
    def place(self) -> str:
        """A name for the body, unique as those of nodes are: ``If_3_then_branch``."""
        return f"{self.node.name}_{self.attribute}"


def bodies_of(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs among a node's attributes, by attribute, without those within them."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from ((attribute.name, body) for body in attribute.as_graphs())


def owners(graph: ir.Graph) -> dict[ir.Graph, Owner]:
    """Every body inside a graph, at any depth, with the node that runs it; outer ones first."""
    return {
        body: Owner(node, attribute)
        for node in graph.all_nodes()
        for attribute, body in bodies_of(node)
    }  # fmt: skip


def join_scopes(model: ir.Model) -> None:
    """Makes the bodies fit for what works on one graph by names, in place.

    Their nodes and values get names that no other scope has; those of the main graph stay. Their
    constants become initializers of the main graph, which the bodies read from there, as they may.
    """
    main = model.graph
    nodes = {node.name or "" for node in main}
    values = {value.name or "" for value in _values(main)}
    for body, owner in owners(main).items():
        for index, node in enumerate(body):
            node.name = _free(node.name or f"{node.op_type}_{index}", owner, nodes)
        for value in _values(body):
            name = _free(value.name or "value", owner, values)
            if name != value.name:
                _rename(value, name)
        _lift_constants(body, main, owner, values)


def _values(graph: ir.Graph) -> list[ir.Value]:
    """What a graph itself defines; absent outputs, which have no name, are left out."""
    computed = (value for node in graph for value in node.outputs if value.name)
    defined = (*graph.inputs, *graph.initializers.values(), *computed)
    return list(dict.fromkeys(defined))


def _free(name: str, owner: Owner, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_in_{owner.place}"
    taken.add(name)
    return name


def _rename(value: ir.Value, name: str) -> None:
    if value.const_value is not None:  # its tensor, which would be renamed too, is shared
        value.const_value = ir.tensor(value.const_value.numpy(), name=name)
    value.name = name


def _lift_constants(body: ir.Graph, main: ir.Graph, owner: Owner, taken: set[str]) -> None:
    """Moves the initializers of a body; one that is an output is read by an Identity."""
    for name, value in list(body.initializers.items()):
        if value.is_graph_input():  # its value is but a default
            continue
        for index, output in enumerate(body.outputs):
            if output is value:
                copied = _free(f"{name}_Identity", owner, taken)
                copy = ir.node("Identity", [value], name=copied, outputs=[ir.Value(name=copied)])
                copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
                body.append(copy)
                body.outputs[index] = copy.outputs[0]
        del body.initializers[name]
        main.register_initializer(value)
