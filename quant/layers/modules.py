"""Which module of a PyTorch model a node computes, as torch.onnx has written it down."""

from __future__ import annotations

import ast

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_REWRITTEN = "pkg.onnxscript.rewriter.rule_name"
"""Of a node that took the place of several, with the scopes of the last of them."""

_PARAMETERS = (".weight", ".bias")


def module_paths(graph: ir.Graph) -> dict[str, str]:
    """The path of the module, such as ``seq_blocks.2``, by the name of the node; nodes of none are left out.

    torch.onnx's older exporter names a node ``/seq_blocks/seq_blocks.2/Gemm``, the newer one
    ``node_linear_1`` and keeps the path in the node's metadata. A node that says neither is of the module
    whose weight or bias it reads by name: ``seq_blocks.2.weight``.

    Args:
        graph: As it was exported: conversion to another opset loses the metadata, folding renames weights.
    """
    found: dict[str, str] = {}
    for node in graph:
        if node.name and node.name not in found:  # of nodes with one name the first will keep it
            found[node.name] = _module(node)
    return {name: module for name, module in found.items() if module}


def _module(node: ir.Node) -> str:
    name = node.name or ""
    if name.startswith("/"):
        return _joined(name.split("/")[1:-1])
    scopes = node.metadata_props.get(_SCOPES)
    if scopes is not None and _REWRITTEN not in node.metadata_props:
        return _innermost(scopes)
    return next((owner for value in node.inputs[1:] if (owner := _owner(value))), "")


def _joined(scopes: list[str]) -> str:
    """The path; a Sequential's part has the name of the Sequential in its own: ``/a/b/b.0/`` is a.b.0."""
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    return ".".join(path)


def _innermost(scopes: str) -> str:
    """Of a list such as ``['', 'seq_blocks', 'seq_blocks.2', 'linear']``: the last part is the node's."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    return str(names[-2]) if isinstance(names, list) and len(names) > 1 else ""


def _owner(value: ir.Value | None) -> str:
    name = (value.name or "") if value is not None and value.is_initializer() else ""
    return next((name.removesuffix(end) for end in _PARAMETERS if name.endswith(end)), "")
