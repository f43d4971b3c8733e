"""Marking tensors while a graph's nodes are visited, for the rules of `quant.graph.operators`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

import onnx_ir as ir

from quant.errors import ConfigError
from quant.graph.placement import Bias, Placement, PlacementOptions, Range, Weight
from quant.transforms.skip import Skip

FLOAT_TYPES = (ir.DataType.FLOAT,)
"""Element types that are quantized; tensors of others stay as they are."""


@dataclass
class Placer:
    """Collects the answer while the nodes are visited in graph order.

    Attributes:
        graph: The graph that is visited.
        options: What the configuration says on placement.
        outside: Nodes beyond the bounds of what is quantized.
        known: Operator types that have a rule.
        followers: Those whose rule quantizes nothing unless their input is.
        kernel_axes: Axes that the kernels of a constant's readers take its scales to lie along.
    """

    graph: ir.Graph
    options: PlacementOptions
    outside: frozenset[str]
    known: frozenset[str]
    followers: frozenset[str]
    activations: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    biases: list[Bias] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    range_source: dict[str, str | Range] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)
    kernel_axes: dict[str, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channel_axes = dict(self.options.channel_axes)
        self.op_types = frozenset(self.options.op_types_to_quantize) or self.known
        self.only = frozenset(self.options.nodes_to_quantize)
        self.float_nodes = frozenset(self.options.float_nodes)
        self.excluded = self.float_nodes | self.outside | frozenset(self.options.nodes_to_exclude)

    def wanted(self, node: ir.Node) -> bool:
        named = not self.only or node.name in self.only
        known = is_standard(node) and node.op_type in self.op_types
        return known and named and node.name not in self.excluded

    def result(self) -> Placement:
        for name, site in self.weights.items():
            if site.axis is not None and self.kernel_axes.get(name, set()) - {site.axis}:
                self.weights[name] = replace(site, axis=None)
                self.skipped.append(
                    Skip(name, "one scale: the operators that read it have different channel axes")
                )
        self.biases = [bias for bias in self.biases if self._matches_channels(bias)]
        return Placement(
            {name: self._root(name) for name in self.activations},
            self.weights,
            self._named_biases(),
            tuple(self.removed),
            self.range_source,
            tuple(self.skipped),
        )

    def _root(self, name: str) -> str:
        """The tensor at the end of a chain of shared parameters; a weight's are its own."""
        provider = self.activations.get(name, name)
        weight = self.weights.get(provider)
        return name if provider == name or (weight and weight.typed_as_weight) else self._root(provider)

    def is_quantized(self, value: ir.Value | None) -> bool:
        return value is not None and (value.name in self.activations or value.name in self.weights)

    def has_float_reader(self, value: ir.Value) -> bool:
        """Whether a node that computes in float reads the value."""
        return any(reader.name in self.float_nodes for reader in value.consumers())

    def stays_float(self, value: ir.Value) -> bool:
        """Whether nothing but such nodes reads the value, directly or through operators that follow it."""
        if not self.float_nodes or value.is_graph_output():
            return False
        readers = value.consumers()
        return bool(readers) and all(
            reader.name in self.float_nodes
            or (reader.op_type in self.followers and self.stays_float(reader.outputs[0]))
            for reader in readers
        )

    def activation(self, value: ir.Value | None) -> None:
        """Marks a tensor; a constant is quantized once and for all with the activations' type."""
        if not is_float(value) or self.is_quantized(value):
            return
        assert value is not None and value.name is not None
        if self.stays_float(value):
            return
        if is_constant(value):
            self.weights[value.name] = Weight(value.name, None, typed_as_weight=False)
        else:
            self.activations[value.name] = value.name

    def activations_of(self, node: ir.Node) -> None:
        for value in node.inputs:
            self.activation(value)

    def outputs_of(self, node: ir.Node) -> None:
        if node.op_type not in self.options.excluded_outputs:
            for value in node.outputs:
                self.activation(value)

    def shared_output(self, node: ir.Node) -> None:
        """The outputs use the scale and zero point of the first input."""
        source = node.inputs[0]
        if source is None or node.op_type in self.options.excluded_outputs or not is_float(source):
            return
        assert source.name is not None
        for value in node.outputs:
            if is_float(value) and value.name is not None:
                self.activations[value.name] = source.name

    def close_pair(self, node: ir.Node) -> None:
        """A pair behind a node that moves quantized values, if nothing has put one there yet."""
        source, output = node.inputs[0], node.outputs[0]
        if source is None or source.name not in self.activations or self.is_quantized(output):
            return
        if not any(reader.name in self.removed for reader in output.consumers()):  # it ends there
            self.activations[output.name or ""] = source.name

    def weight(
        self, value: ir.Value | None, axis: int | None, node: ir.Node, *, kernel_axis: int | None = None
    ) -> None:
        """Marks a constant operand, with its channel axis; one that is computed is an activation.

        Args:
            value: The operand.
            axis: Where its channels are; None = one scale.
            node: Its reader.
            kernel_axis: The axis that onnxruntime's integer kernel takes scales to lie along, without a
                check: with those of another one it fails or computes wrong values.

        Raises:
            ConfigError: If the configuration names an axis that the kernel does not take.
        """
        if value is None or not is_float(value):
            return
        if not is_constant(value):
            self.activation(value)
            return
        assert value.name is not None
        channel_axis = self._channel_axis(value, axis, node.op_type)
        if channel_axis is not None and kernel_axis is not None:
            if channel_axis != kernel_axis:
                raise ConfigError(
                    f"extra_options.QDQOpTypePerChannelSupportToAxis: {node.op_type!r}: axis {channel_axis}"
                    f" is not the output channels of {value.name!r} at node {node.name!r}, and onnxruntime"
                    f" would compute wrong values; use {kernel_axis} or leave {node.op_type!r} out"
                )
            self.kernel_axes.setdefault(value.name, set()).add(kernel_axis)
        if channel_axis is not None or value.name not in self.weights:
            self.weights[value.name] = Weight(value.name, channel_axis, True)

    def _channel_axis(self, value: ir.Value, axis: int | None, op_type: str) -> int | None:
        """The axis, normalised; None where one scale serves all."""
        axis = self.channel_axes.get(op_type, axis)
        assert value.const_value is not None
        rank = len(value.const_value.shape)
        if not self.options.per_channel or axis is None or not -rank <= axis < rank:
            return None
        return axis % rank

    def bias(self, node: ir.Node, position: int, multiplier: float = 1.0) -> None:
        """Marks a constant bias whose input and weight are quantized."""
        bias = node.inputs[position] if len(node.inputs) > position else None
        if bias is None or not self.options.quantize_bias:
            return
        if not is_constant(bias) or not is_float(bias):
            self.skipped.append(Skip(node.name or "", f"bias {bias.name!r} is not a constant"))
            return
        data, weight = node.inputs[0], node.inputs[1]
        if not (self.is_quantized(data) and self.is_quantized(weight)):
            return
        assert bias.name and data is not None and data.name and weight is not None and weight.name
        self.biases.append(Bias(node.name or "", bias.name, bias.name, data.name, weight.name, multiplier))

    def _named_biases(self) -> tuple[Bias, ...]:
        """Every bias with a name of its own: the tensor's, or the first numbered one that is free."""
        taken, named = set(self.weights), []
        for bias in self.biases:
            numbered = (f"{bias.name}{index}" for index in count())
            free = (name for name in numbered if name not in taken and name not in self.graph.initializers)
            name = next(free) if bias.name in taken else bias.name
            taken.add(name)
            named.append(replace(bias, quantized=name))
        return tuple(named)

    def _matches_channels(self, bias: Bias) -> bool:
        site = self.weights.get(bias.weight)
        if site is None or site.axis is None:
            return True
        values = self.graph.initializers[bias.name].const_value
        weight = self.graph.initializers[bias.weight].const_value
        assert values is not None and weight is not None
        channels = weight.shape[site.axis]
        matches = values.size == channels and values.shape[-1] == channels
        if not matches:
            self.skipped.append(Skip(bias.node, f"bias {bias.name!r} has not one value for each scale"))
        return matches


def is_standard(node: ir.Node) -> bool:
    """Whether the operator is one of ONNX's own."""
    return node.domain in ("", "ai.onnx")


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer with data."""
    return value is not None and value.const_value is not None and value.producer() is None


def is_float(value: ir.Value | None) -> bool:
    """Whether the value is of a type that is quantized."""
    return value is not None and value.dtype in FLOAT_TYPES
