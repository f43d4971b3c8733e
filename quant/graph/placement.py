"""Which tensors of a graph get QuantizeLinear/DequantizeLinear, and where their parameters come from.

The conventions are those of onnxruntime's static QDQ quantizer, as a table: a row for each operator,
a named rule for what it does. Adding an operator is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx_ir as ir

from quant.config import QuantConfig
from quant.errors import ConfigError, nearest
from quant.transforms.skip import Skip
from quant.types import PowerOfTwoMethod

FLOAT_TYPES = (ir.DataType.FLOAT,)
"""Element types that are quantized; tensors of others stay as they are."""


@dataclass(frozen=True)
class PlacementOptions:
    """The part of a configuration that decides on placement; two equal ones place alike.

    Attributes:
        float_nodes: Nodes that a transform put in front of others, which compute in float: what
            they alone read stays float, and of a quantized tensor they read the float value. The
            output of a pass-through operator is the exception: its values are rounded already, and
            onnxruntime fails on models with a QDQ pair on one side of such an operator.
    """

    per_channel: bool
    op_types_to_quantize: tuple[str, ...]
    nodes_to_quantize: tuple[str, ...]
    nodes_to_exclude: tuple[str, ...]
    kept_activations: tuple[str, ...]
    excluded_outputs: tuple[str, ...]
    channel_axes: tuple[tuple[str, int], ...]
    force_passthrough: bool
    constant_matmul_only: bool
    quantize_bias: bool
    dedicated_pairs: bool
    float_weights: bool
    float_nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: QuantConfig, float_nodes: tuple[str, ...] = ()) -> PlacementOptions:
        options = config.extra_options
        return cls(
            per_channel=config.per_channel,
            op_types_to_quantize=config.op_types_to_quantize,
            nodes_to_quantize=config.nodes_to_quantize,
            nodes_to_exclude=config.nodes_to_exclude,
            kept_activations=_kept_activations(config),
            excluded_outputs=options.OpTypesToExcludeOutputQuantization,
            channel_axes=tuple(sorted(options.QDQOpTypePerChannelSupportToAxis.items())),
            force_passthrough=options.ForceQuantizeNoInputCheck,
            constant_matmul_only=options.MatMulConstBOnly,
            quantize_bias=options.QuantizeBias,
            dedicated_pairs=options.DedicatedQDQPair,
            float_weights=options.AddQDQPairToWeight,
            float_nodes=float_nodes,
        )


def _kept_activations(config: QuantConfig) -> tuple[str, ...]:
    """Of Relu and Clip those that the range of a quantized output does not stand for.

    Symmetric ranges reach below a Relu's zero, power-of-two scales beyond a Clip's bounds.
    """
    options = config.extra_options
    symmetric = options.ActivationSymmetric or options.CalibTensorRangeSymmetric
    kept = ("Clip", "Relu") if symmetric or options.QDQKeepRemovableActivations else ()
    if not kept and isinstance(config.calibrate_method, PowerOfTwoMethod):
        return ("Clip",)
    return (*kept, *options.OpTypesToExcludeOutputQuantization)


@dataclass(frozen=True)
class Weight:
    """A constant operand.

    Attributes:
        name: Its initializer.
        axis: Channel axis; None = one scale for all.
        typed_as_weight: False for constants of elementwise operators, which take the type and the
            symmetry of activations.
    """

    name: str
    axis: int | None
    typed_as_weight: bool


@dataclass(frozen=True)
class Bias:
    """A bias that becomes int32 with scale = input scale x weight scale.

    Attributes:
        node: Name of its reader; every reader has a quantized bias of its own.
        name: Its float initializer.
        quantized: Base name of the tensors made from it.
        input, weight: The tensors whose scales make its scale.
        multiplier: What the operator multiplies the bias by (Gemm's beta).
    """

    node: str
    name: str
    quantized: str
    input: str
    weight: str
    multiplier: float = 1.0


Range = tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """The answer: what to quantize in one graph.

    Attributes:
        activations: Tensor name -> the tensor whose scale and zero point it uses: itself, or the
            activation or weight that it takes them from; in the order of insertion.
        weights: By initializer name.
        biases: In graph order.
        removed: Names of Relu and Clip nodes that the quantization of their output makes redundant.
        range_source: For tensors whose range is not their own: the tensor that has it, or the
            fixed range.
        skipped: Nodes left in float that a user may ask about, with the reason.
    """

    activations: dict[str, str]
    weights: dict[str, Weight]
    biases: tuple[Bias, ...]
    removed: tuple[str, ...]
    range_source: dict[str, str | Range]
    skipped: tuple[Skip, ...]

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Tensors whose statistics are read, without duplicates, in graph order."""
        sources = (
            self.range_source.get(name, name)
            for name, provider in self.activations.items()
            if provider == name
        )
        return tuple(dict.fromkeys(source for source in sources if isinstance(source, str)))


def place(graph: ir.Graph, options: PlacementOptions) -> Placement:
    """Decides what to quantize.

    Args:
        graph: A prepared graph: nodes named and sorted, types known, constants as initializers.
        options: What the configuration says on placement.

    Raises:
        ConfigError: If a named node or operator type does not exist.
    """
    _check_names(graph, options)
    placer = _Placer(graph, options)
    for node in graph:
        if placer.wanted(node):
            TABLE[node.op_type](placer, node)
    return placer.result()


def known_op_types() -> tuple[str, ...]:
    """Operator types that have a placement rule."""
    return tuple(sorted(TABLE))


def _check_names(graph: ir.Graph, options: PlacementOptions) -> None:
    names = {node.name or "" for node in graph}
    for key in ("nodes_to_quantize", "nodes_to_exclude"):
        for name in getattr(options, key):
            if name not in names:
                raise ConfigError(f"{key}: the model has no node {name!r}{nearest(name, names)}")
    for op_type in options.op_types_to_quantize:
        if op_type not in TABLE:
            raise ConfigError(f"op_types_to_quantize: no rule for {op_type!r}{nearest(op_type, TABLE)}")


@dataclass
class _Placer:
    """Collects the answer while the nodes are visited in graph order."""

    graph: ir.Graph
    options: PlacementOptions
    activations: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    biases: list[Bias] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    range_source: dict[str, str | Range] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.channel_axes = dict(self.options.channel_axes)
        self.op_types = frozenset(self.options.op_types_to_quantize or TABLE)
        self.only = frozenset(self.options.nodes_to_quantize)
        self.float_nodes = frozenset(self.options.float_nodes)
        self.excluded = self.float_nodes | frozenset(self.options.nodes_to_exclude)

    def wanted(self, node: ir.Node) -> bool:
        named = not self.only or node.name in self.only
        standard = node.domain in ("", "ai.onnx")
        return standard and named and node.op_type in self.op_types and node.name not in self.excluded

    def result(self) -> Placement:
        return Placement(
            {name: self._root(name) for name in self.activations},
            self.weights,
            tuple(self.biases),
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
            or (TABLE.get(reader.op_type) in _FOLLOWERS and self.stays_float(reader.outputs[0]))
            for reader in readers
        )

    def activation(self, value: ir.Value | None) -> None:
        """Marks a tensor; a constant is quantized once and for all with the activations' type."""
        if not _is_float(value) or self.is_quantized(value):
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
        if source is None or node.op_type in self.options.excluded_outputs or not _is_float(source):
            return
        assert source.name is not None
        for value in node.outputs:
            if _is_float(value) and value.name is not None:
                self.activations[value.name] = source.name

    def weight(self, value: ir.Value | None, axis: int | None, op_type: str) -> None:
        """Marks a constant operand, with its channel axis; one that is computed is an activation."""
        if value is None or not _is_float(value):
            return
        if not is_constant(value):
            self.activation(value)
            return
        assert value.name is not None
        channel_axis = self._channel_axis(value, axis, op_type)
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
        if not is_constant(bias) or not _is_float(bias):
            self.skipped.append(Skip(node.name or "", f"bias {bias.name!r} is not a constant"))
            return
        data, weight = node.inputs[0], node.inputs[1]
        if not (self.is_quantized(data) and self.is_quantized(weight)):
            return
        assert bias.name and data is not None and data.name and weight is not None and weight.name
        if not self._matches_channels(bias, weight):
            self.skipped.append(Skip(node.name or "", f"bias {bias.name!r} has not one value for each scale"))
            return
        quantized = self._own_bias_name(bias.name)
        self.biases.append(Bias(node.name or "", bias.name, quantized, data.name, weight.name, multiplier))

    def _own_bias_name(self, name: str) -> str:
        """The bias's own name for its first reader, then the first numbered one that is free."""
        taken = {other.quantized for other in self.biases}
        if name not in taken:
            return name
        numbered = (f"{name}{index}" for index in count())
        return next(name for name in numbered if name not in taken and name not in self.graph.initializers)

    def _matches_channels(self, bias: ir.Value, weight: ir.Value) -> bool:
        site = self.weights.get(weight.name or "")
        if site is None or site.axis is None:
            return True
        assert bias.const_value is not None and weight.const_value is not None
        channels = weight.const_value.shape[site.axis]
        return bias.const_value.size == channels and bias.const_value.shape[-1] == channels


Rule = Callable[[_Placer, ir.Node], None]


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer with data."""
    return value is not None and value.const_value is not None and value.producer() is None


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in FLOAT_TYPES


def _every_tensor(placer: _Placer, node: ir.Node) -> None:
    placer.activations_of(node)
    placer.outputs_of(node)


def _convolution(channel_axis: int) -> Rule:
    def rule(placer: _Placer, node: ir.Node) -> None:
        placer.activation(node.inputs[0])
        placer.outputs_of(node)
        placer.weight(node.inputs[1], channel_axis, node.op_type)
        placer.bias(node, 2)

    return rule


def _gemm(placer: _Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.outputs_of(node)
    transposed = node.attributes.get_int("transB", 0)
    placer.weight(node.inputs[1], 0 if transposed else 1, node.op_type)
    placer.bias(node, 2, node.attributes.get_float("beta", 1.0))


def _matmul(placer: _Placer, node: ir.Node) -> None:
    if placer.options.constant_matmul_only and not is_constant(node.inputs[1]):
        placer.skipped.append(Skip(node.name or "", "both operands are computed (MatMulConstBOnly)"))
        return
    for value in node.inputs:
        is_matrix = value is not None and value.shape is not None and len(value.shape) == 2
        placer.weight(value, 1 if is_matrix else None, node.op_type)  # as onnxruntime's kernels can
    placer.outputs_of(node)


def _removable_activation(placer: _Placer, node: ir.Node) -> None:
    """Relu and Clip: quantizing to the output's range clips by itself, if the zero point is free."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.name is not None and output.name is not None
    if not placer.is_quantized(source):
        return
    only_reader = len(source.uses()) == 1 and not source.is_graph_output()
    if only_reader:  # the range before the clipping is of no use to anybody
        placer.range_source[source.name] = placer.range_source.get(output.name, output.name)
    removable = only_reader and source.producer() is not None and source.name in placer.activations
    removable = removable and not (placer.has_float_reader(output) or placer.stays_float(output))
    if removable and node.op_type not in placer.options.kept_activations and _clips_by_range(node):
        del placer.activations[source.name]
        placer.removed.append(node.name or "")
    placer.outputs_of(node)


def _clips_by_range(node: ir.Node) -> bool:
    """Zero stays representable in every range, so bounds on the wrong side of it must stay."""
    if node.op_type == "Relu":
        return True
    bounds = [_scalar(value) for value in (*node.inputs[1:], None, None)[:2]]
    computed = any(value is not None and not is_constant(value) for value in node.inputs[1:])
    low, high = bounds
    return not computed and (low is None or low <= 0) and (high is None or high >= 0)


def _scalar(value: ir.Value | None) -> float | None:
    if value is None or value.const_value is None:
        return None
    return float(np.asarray(value.const_value.numpy()).reshape(-1)[0])


def _passthrough(placer: _Placer, node: ir.Node) -> None:
    """The values are the input's own, or between them: nothing is quantized unless the input is."""
    if placer.options.force_passthrough:
        placer.activation(node.inputs[0])
    if placer.is_quantized(node.inputs[0]):
        placer.shared_output(node)


_FOLLOWERS = (_passthrough, _removable_activation)
"""Rules by which nothing is quantized unless the input is."""


def _split(placer: _Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.shared_output(node)


def _gather(placer: _Placer, node: ir.Node) -> None:
    if is_constant(node.inputs[0]) or placer.options.force_passthrough:
        placer.activation(node.inputs[0])
    if placer.is_quantized(node.inputs[0]):
        placer.shared_output(node)


def _pad(placer: _Placer, node: ir.Node) -> None:
    placer.activations_of(node)
    mode = node.attributes.get_string("mode", "constant")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    pads_with_zero = given is None or _scalar(given) == 0
    if mode != "constant" or pads_with_zero:
        placer.shared_output(node)
    else:
        placer.outputs_of(node)


def _where(placer: _Placer, node: ir.Node) -> None:
    branches = node.inputs[1:3]
    if placer.options.force_passthrough:
        for value in branches:
            placer.activation(value)
    if all(placer.is_quantized(value) for value in branches):
        placer.outputs_of(node)


def _normalization(placer: _Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.weight(node.inputs[1], 1, node.op_type)
    placer.bias(node, 2)
    placer.outputs_of(node)


def _softmax(placer: _Placer, node: ir.Node) -> None:
    _every_tensor(placer, node)
    if node.outputs[0].name is not None:
        placer.range_source[node.outputs[0].name] = (0.0, 1.0)


TABLE: Mapping[str, Rule] = {
    "Conv": _convolution(channel_axis=0),
    "ConvTranspose": _convolution(channel_axis=1),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _removable_activation,
    "Clip": _removable_activation,
    "LeakyRelu": _every_tensor,
    "Sigmoid": _every_tensor,
    "Softmax": _softmax,
    "Add": _every_tensor,
    "Mul": _every_tensor,
    "Concat": _every_tensor,
    "CumSum": _every_tensor,
    "ArgMax": _every_tensor,
    "GlobalAveragePool": _every_tensor,
    "AveragePool": _passthrough,
    "MaxPool": _passthrough,
    "Resize": _passthrough,
    "Reshape": _passthrough,
    "Flatten": _passthrough,
    "Squeeze": _passthrough,
    "Unsqueeze": _passthrough,
    "Transpose": _passthrough,
    "Slice": _passthrough,
    "TopK": _passthrough,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather,
    "Pad": _pad,
    "Where": _where,
    "InstanceNormalization": _normalization,
    "LayerNormalization": _normalization,
    "BatchNormalization": _normalization,
}
"""Operator type -> what its rule marks."""
