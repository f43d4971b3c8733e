"""Dividing a graph at tensors, so that each part runs after the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quant.errors import ModelError, nearest

_STORED_INTEGERS = tuple(ir.DataType[name] for name in ("INT8", "UINT8", "INT16", "UINT16", "INT32"))
"""Quantized types of which onnxruntime gives arrays."""


@dataclass(frozen=True)
class Segment:
    """The part of a graph between one cut and the next.

    Attributes:
        nodes: In the graph's order: the new ones, and those that this segment repeats.
        new_nodes: Those that belong to this segment alone.
        inputs: Names of the values that the nodes read from the data or from earlier segments.
        requested: Names of the cut's tensors.
        kept: Names of values computed here that later segments read or request.
        dropped: Names of values from earlier segments that no later one reads or requests.
    """

    nodes: tuple[ir.Node, ...]
    new_nodes: tuple[ir.Node, ...]
    inputs: tuple[str, ...]
    requested: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]


def plan_segments(graph: ir.Graph, cuts: Sequence[Sequence[str]]) -> tuple[Segment, ...]:
    """Divides what leads to the cuts into one segment for each.

    A node belongs to the first cut that it leads to. Two kinds are repeated in every segment that reads
    them instead: nodes of constants alone, which onnxruntime folds, and DequantizeLinear. So what
    crosses a cut of a QDQ model are integers, a quarter of the floats, and the pattern
    DequantizeLinear, operator, QuantizeLinear is whole on both sides: onnxruntime fuses it into the
    same integer kernel as in the whole model.

    Args:
        graph: Sorted topologically.
        cuts: Names of the tensors that are wanted, in the order in which they are.

    Raises:
        ModelError: If a tensor is not computed from the data.
    """
    planner = _Planner(graph)
    drafts = [planner.advance(cut) for cut in cuts]
    last_use = {name: step for step, draft in enumerate(drafts) for name in draft.used}
    segments, alive = [], set[str]()
    for step, draft in enumerate(drafts):
        computed = [value.name for node in draft.new_nodes for value in node.outputs if value.name]
        kept = tuple(name for name in computed if last_use.get(name, step) > step)
        dropped = tuple(name for name in draft.used if name in alive and last_use[name] == step)
        alive = alive.union(kept).difference(dropped)
        segments.append(Segment(draft.nodes, draft.new_nodes, draft.inputs, draft.requested, kept, dropped))
    return tuple(segments)


def segment_model(model: ir.Model, segment: Segment) -> ir.Model:
    """A model of the segment's nodes, with the constants that they read as these are now.

    Its outputs are the values that the segment computes of those requested and kept; the types of its
    inputs are those of `model`, as far as known there.
    """
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    computed = {value.name for node in segment.nodes for value in node.outputs}
    read = {value for node in segment.nodes for value in read_values(node)}
    names = dict.fromkeys((*segment.requested, *segment.kept))
    view = ir.GraphView(
        [values[name] for name in segment.inputs],
        [values[name] for name in names if name in computed],
        nodes=segment.nodes,
        initializers=[value for value in model.graph.initializers.values() if value in read],
        opset_imports=model.graph.opset_imports,
        name=model.graph.name,
    )
    return ir.Model(view.clone(), ir_version=model.ir_version, functions=tuple(model.functions.values()))


def read_values(node: ir.Node) -> Iterator[ir.Value]:
    """What the node reads, and its subgraphs; these read their own values too."""
    for value in node.inputs:
        if value is not None:
            yield value
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            subgraph = attribute.as_graph()
            yield from subgraph.outputs
            for inner in subgraph.all_nodes():
                yield from (value for value in inner.inputs if value is not None)


@dataclass(frozen=True)
class _Draft:
    """A segment of which is not known yet what later ones read."""

    nodes: tuple[ir.Node, ...]
    new_nodes: tuple[ir.Node, ...]
    inputs: tuple[str, ...]
    requested: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inputs, *self.requested)))


class _Planner:
    """Follows the graph backwards from cut after cut, each time as far as the cut before."""

    def __init__(self, graph: ir.Graph) -> None:
        self.values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
        self.order = {node: index for index, node in enumerate(graph)}
        self.constants = set(graph.initializers.values())
        known = set(self.values.values())
        self.reads = {node: [value for value in read_values(node) if value in known] for node in graph}
        self.repeated: set[ir.Node] = set()
        for node in graph:
            if self._is_constant(node):
                self.constants.update(node.outputs)
                self.repeated.add(node)
            elif _dequantizes_integers(node):
                self.repeated.add(node)
        self.done: set[ir.Node] = set()

    def advance(self, cut: Sequence[str]) -> _Draft:
        requested = [self._data_value(name) for name in cut]
        reached: set[ir.Node] = set()
        inputs: dict[str, None] = {}
        waiting = [value.producer() for value in requested if not self._is_available(value)]
        while waiting:
            node = waiting.pop()
            assert node is not None
            if node in reached:
                continue
            reached.add(node)
            for value in self.reads[node]:
                if not self._is_available(value):
                    waiting.append(value.producer())
                elif value not in self.constants:
                    inputs[value.name or ""] = None
        nodes = tuple(sorted(reached, key=self.order.__getitem__))
        new = tuple(node for node in nodes if node not in self.repeated)
        self.done.update(new)
        return _Draft(nodes, new, tuple(inputs), tuple(dict.fromkeys(cut)))

    def _is_available(self, value: ir.Value) -> bool:
        """Whether a value is there without running a node: from the data, the model or another segment."""
        node = value.producer()
        return node is None or node in self.done

    def _is_constant(self, node: ir.Node) -> bool:
        reads = self.reads[node]
        return node.op_type == "Constant" or (bool(reads) and all(value in self.constants for value in reads))

    def _data_value(self, name: str) -> ir.Value:
        if name not in self.values:
            raise ModelError(f"segments: the model has no tensor {name!r}{nearest(name, self.values)}")
        if self.values[name] in self.constants:
            raise ModelError(f"segments: tensor {name!r} is constant; name one that depends on the data")
        return self.values[name]


def _dequantizes_integers(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear":
        return False
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    source = zero_point if zero_point is not None else node.inputs[0]
    if source is None:
        return False
    return (source.const_value.dtype if source.const_value is not None else source.dtype) in _STORED_INTEGERS
