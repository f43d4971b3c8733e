"""What changes its type as one: a tensor, a node's output and weights, or a block of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from quant.config import QuantConfig
from quant.graph.placement import Placement
from quant.graph.selection import select
from quant.mixed_precision.blocks import blocks

Granularity = Literal["tensor", "node", "block"]


@dataclass(frozen=True)
class Group:
    """Some tensors that have one type together.

    Attributes:
        name: The tensor's, the node's, or of a block its first and last node's.
        op_type: Of the node that makes the tensor, or that reads it if it is a constant or an input; of a
            block "block".
        tensors: Names of activations and constants with scales of their own, in the order of insertion.
    """

    name: str
    op_type: str
    tensors: tuple[str, ...]


def groups(graph: ir.Graph, placement: Placement, config: QuantConfig) -> tuple[Group, ...]:
    """All groups that may change their type, in graph order; tensors with overrides keep what these say.

    Args:
        graph: What the placement was made for.
        placement: What is quantized.
        config: Its `AutoMixprecision` options.

    Raises:
        ConfigError: If `TargetOpType` names an operator type that the graph does not have.
    """
    options = config.extra_options.AutoMixprecision
    owners = _owners(graph)
    of_weights = {target.of_weights for target in config.precision_targets()}
    candidates = [
        name
        for name in own_tensors(placement)
        if is_weight(name, placement) in of_weights and name not in config.extra_options.TensorQuantOverrides
    ]
    present = {node.op_type for node in graph}
    place = "extra_options.AutoMixprecision.TargetOpType"
    op_types = select(options.TargetOpType, present, place, "the model has no operator")
    if op_types:
        candidates = [name for name in candidates if owners[name].op_type in op_types]
    return _grouped(graph, candidates, owners, options.Granularity)


def own_tensors(placement: Placement) -> Iterable[str]:
    """Names of the tensors that have scales of their own."""
    yield from (name for name, provider in placement.activations.items() if name == provider)
    yield from placement.weights


def is_weight(name: str, placement: Placement) -> bool:
    """Whether a tensor has the type of weights."""
    site = placement.weights.get(name)
    return site is not None and site.typed_as_weight


def _owners(graph: ir.Graph) -> dict[str, ir.Node]:
    """The node that makes a tensor; of constants and inputs the first that reads it."""
    owners: dict[str, ir.Node] = {}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.name and value.producer() is None:
                owners.setdefault(value.name, node)
        owners |= {value.name: node for value in node.outputs if value.name}
    return owners


def _grouped(
    graph: ir.Graph, candidates: Iterable[str], owners: Mapping[str, ir.Node], granularity: Granularity
) -> tuple[Group, ...]:
    position = {node: index for index, node in enumerate(graph)}
    ordered = sorted(candidates, key=lambda name: position[owners[name]])
    if granularity == "tensor":
        return tuple(Group(name, owners[name].op_type, (name,)) for name in ordered)
    parts = [(node,) for node in graph] if granularity == "node" else blocks(tuple(graph))
    part_of = {node: index for index, part in enumerate(parts) for node in part}
    members: dict[int, list[str]] = {}
    for name in ordered:
        members.setdefault(part_of[owners[name]], []).append(name)
    return tuple(Group(*_title(parts[index]), tuple(names)) for index, names in members.items())


def _title(part: tuple[ir.Node, ...]) -> tuple[str, str]:
    """Name and operator type."""
    first, last = part[0].name or "", part[-1].name or ""
    return (first, part[0].op_type) if len(part) == 1 else (f"{first} ... {last}", "block")
