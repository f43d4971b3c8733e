"""Taking Identity nodes out of a graph."""

from __future__ import annotations

import onnx_ir as ir


def drop_identities(graph: ir.Graph) -> None:
    """Lets the readers of an Identity read what it reads, in place.

    One stays where it joins an input or a constant of the graph to an output, or two outputs. Bodies of
    If, Loop and Scan keep theirs: a body may not give a value of an outer scope without an Identity.
    """
    for node in list(graph):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            continue
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        is_output = output.is_graph_output()
        if is_output and (source.is_graph_input() or source.is_initializer() or source.is_graph_output()):
            continue
        source.type, source.shape = source.type or output.type, source.shape or output.shape
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        if is_output:
            source.name, output.name = output.name, None
        graph.remove(node, safe=True)
