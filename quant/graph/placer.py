"""Marking tensors while a graph's nodes are visited, for the rules of `quant.graph.operators`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

import onnx_ir as ir

from quant.errors import ConfigError
from quant.graph.exposure import hidden_tensors
from quant.graph.insert import converted_name
from quant.graph.placement import Bias, Placement, PlacementOptions, Range, Weight
from quant.graph.selection import select
from quant.transforms.skip import Skip
from quant.types import Encoding

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""Element types that are quantized; tensors of others stay as they are."""


@dataclass
class Placer:
    """Collects the answer while the nodes are visited in graph order.

    Attributes:
        graph: The graph that is visited.
        nodes: Its nodes and, where bodies are quantized, those in them, in the order of their visits.
        options: What the configuration says on placement.
        outside: Nodes beyond the bounds of what is quantized.
        known: Operator types that have a rule.
        standard: Those that are quantized without being named.
        followers: Those whose rule quantizes nothing unless their input is.
        kernel_axes: Axes that the kernels of a constant's readers take its scales to lie along.
    """

    graph: ir.Graph
    nodes: tuple[ir.Node, ...]
    options: PlacementOptions
    outside: frozenset[str]
    known: frozenset[str]
    standard: frozenset[str]
    followers: frozenset[str]
    activations: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    biases: list[Bias] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    range_source: dict[str, str | Range] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)
    kernel_axes: dict[str, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options, names = self.options, frozenset(node.name or "" for node in self.nodes)
        self.hidden = hidden_tensors(self.graph) if options.subgraphs else {}
        self.unseen = frozenset(options.unseen)
        self.channel_axes = dict(options.channel_axes)
        self.overrides = dict(options.overrides)
        types = select(options.op_types_to_quantize, self.known, "op_types_to_quantize", "no rule for")
        unwanted = select(options.op_types_to_exclude, self.known, "op_types_to_exclude", "no rule for")
        self.op_types = (types or self.standard) - unwanted
        self.only = select(options.nodes_to_quantize, names, "nodes_to_quantize", "the model has no node")
        self.float_nodes = frozenset(options.float_nodes)
        excluded = select(options.nodes_to_exclude, names, "nodes_to_exclude", "the model has no node")
        self.excluded = self.float_nodes | self.outside | excluded

    def wanted(self, node: ir.Node) -> bool:
        named = not self.only or node.name in self.only
        known = is_standard(node) and node.op_type in self.op_types
        return known and named and node.name not in self.excluded

    def result(self) -> Placement:
        for name, site in self.weights.items():
            channels = None if site.block_size is not None else site.axis
            if channels is not None and self.kernel_axes.get(name, set()) - {channels}:
                self.weights[name] = replace(site, axis=None)
                self.skipped.append(
                    Skip(name, "one scale: the operators that read it have different channel axes")
                )
        self.biases = [bias for bias in self.biases if self._matches_channels(bias)]
        activations = {name: self._root(name) for name in self.activations}
        own = (*(name for name, root in activations.items() if name == root), *self.weights)
        conversions = {
            name: override.conversion
            for name, override in self.overrides.items()
            if name in own and override.conversion is not None
        }
        converted = {converted_name(name): second.encoding for name, second in conversions.items()}
        values = ir.convenience.create_value_mapping(self.graph)
        quantized = (*activations, *self.weights)
        return Placement(
            activations,
            self.weights,
            self._named_biases(),
            tuple(self.removed),
            self.range_source,
            tuple(self.skipped),
            {name: self._encoding(name) for name in own} | converted,
            conversions,
            frozenset(name for name in quantized if values[name].dtype == ir.DataType.FLOAT16),
        )

    def _encoding(self, name: str) -> Encoding:
        """How a tensor with parameters of its own stands in the graph."""
        override, weight = self.overrides.get(name), self.weights.get(name)
        if override is not None and override.encoding is not None:
            return override.encoding
        typed_as_weight = weight is not None and weight.typed_as_weight
        return self.options.weight_encoding if typed_as_weight else self.options.activation_encoding

    def clips_by_range(self, value: ir.Value) -> bool:
        """Whether quantizing to the value's range stops what a Relu or Clip in front of it would."""
        override = self.overrides.get(value.name or "")
        free = override is None or not override.keeps_clipping
        integer = self._encoding(value.name or "") is Encoding.INTEGER
        return free and integer and value.dtype == ir.DataType.FLOAT  # float16 may need a symmetric grid

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
        if self.stays_float(value) or not self._is_calibrated(value):
            return
        if is_constant(value):
            self.weights[value.name] = Weight(value.name, None, typed_as_weight=False)
        else:
            self.activations[value.name] = value.name

    def _is_calibrated(self, value: ir.Value) -> bool:
        """Whether there is, as far as known, a range to quantize the tensor to."""
        reason = self.hidden.get(value)
        if value.name in self.unseen:
            reason = "no sample of the calibration data computes it"
        if reason is None:
            return True
        skip = Skip(value.name or "", f"stays float: {reason}")
        if skip not in self.skipped:
            self.skipped.append(skip)
        return False

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
                own = value.name in self.overrides or self._is_converted(source.name)
                self.activations[value.name] = value.name if own else source.name

    def _is_converted(self, name: str) -> bool:
        override = self.overrides.get(name)
        return override is not None and override.conversion is not None

    def close_pair(self, node: ir.Node) -> None:
        """A pair behind a node that moves quantized values, if nothing has put one there yet."""
        source, output = node.inputs[0], node.outputs[0]
        if source is None or source.name not in self.activations or self.is_quantized(output):
            return
        if not any(reader.name in self.removed for reader in output.consumers()):  # it ends there
            self.activations[output.name or ""] = source.name

    def weight(
        self,
        value: ir.Value | None,
        axis: int | None,
        node: ir.Node,
        *,
        kernel_axis: int | None = None,
        summed: int | None = None,
    ) -> None:
        """Marks a constant operand, with its channel axis; one that is computed is an activation.

        Args:
            value: The operand.
            axis: Where its channels are; None = one scale.
            node: Its reader.
            kernel_axis: The axis that onnxruntime's integer kernel takes scales to lie along, without a
                check: with those of another one it fails or computes wrong values.
            summed: The axis that the operator sums over, along which blocks lie; None = no blocks.

        Raises:
            ConfigError: If the configuration names an axis that the kernel does not take.
        """
        if value is None or not is_float(value):
            return
        if not is_constant(value):
            self.activation(value)
            return
        assert value.name is not None
        if self._in_blocks(value, summed):
            self.weights[value.name] = Weight(value.name, summed, True, self.options.block_size)
            return
        channel_axis = self._channel_axis(value, axis, node.op_type)
        if channel_axis is not None and kernel_axis is not None:
            if channel_axis != kernel_axis:
                named = value.name in self.overrides
                key = "TensorQuantOverrides" if named else "QDQOpTypePerChannelSupportToAxis"
                raise ConfigError(
                    f"extra_options.{key}: {node.op_type!r}: axis {channel_axis} is not the output"
                    f" channels of {value.name!r} at node {node.name!r}, and onnxruntime would"
                    f" compute wrong values; use {kernel_axis} or leave {node.op_type!r} out"
                )
            self.kernel_axes.setdefault(value.name, set()).add(kernel_axis)
        if channel_axis is not None or value.name not in self.weights:
            self.weights[value.name] = Weight(value.name, channel_axis, True)

    def _in_blocks(self, value: ir.Value, summed: int | None) -> bool:
        """Matrices only: a block of a kernel with more positions would not be of consecutive weights."""
        if self.options.block_size is None or summed is None or value.name in self.overrides:
            return False
        assert value.const_value is not None
        shape = value.const_value.shape
        return len(shape) >= 2 and all(size == 1 for size in shape[2:])

    def _channel_axis(self, value: ir.Value, axis: int | None, op_type: str) -> int | None:
        """The axis, normalised; None where one scale serves all."""
        override = self.overrides.get(value.name or "")
        wanted = self.options.per_channel if override is None else override.axis is not None
        axis = self.channel_axes.get(op_type, axis) if override is None else override.axis
        assert value.const_value is not None
        rank = len(value.const_value.shape)
        if not wanted or axis is None or not -rank <= axis < rank:
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
        source, encoding = self._format_read(data.name, node)
        if encoding is not Encoding.INTEGER or not self._scales_biases(weight.name, bias):
            self.skipped.append(Skip(node.name or "", f"bias {bias.name!r} has no integer scales to follow"))
            return
        self.biases.append(Bias(node.name or "", bias.name, bias.name, source, weight.name, multiplier))

    def _format_read(self, name: str, node: ir.Node) -> tuple[str, Encoding]:
        """The name of the parameters with which a node reads a tensor, and how they stand in the graph."""
        override = self.overrides.get(name)
        second = override.conversion if override is not None else None
        if second is not None and second.reaches(node.name):
            return converted_name(name), second.encoding
        return name, self._encoding(self._root(name))

    def _scales_biases(self, weight: str, bias: ir.Value) -> bool:
        """Whether input scale x weight scale can be a bias's scale; in float16 it would lose its digits."""
        site = self.weights.get(weight)
        blocked = site is not None and site.block_size is not None
        integer = self._encoding(self._root(weight)) is Encoding.INTEGER
        return integer and not blocked and bias.dtype == ir.DataType.FLOAT

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
