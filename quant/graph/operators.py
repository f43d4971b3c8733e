"""Which tensors of a graph get QuantizeLinear/DequantizeLinear, and where their parameters come from.

The conventions are those of onnxruntime's static QDQ quantizer, as a table: a row for each operator,
a named rule for what it does. Adding an operator is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quant.errors import ConfigError, nearest
from quant.graph.bodies import bodies_of
from quant.graph.placement import Placement, PlacementOptions
from quant.graph.placer import Placer, is_constant, is_standard
from quant.transforms.skip import Skip


def place(graph: ir.Graph, options: PlacementOptions) -> Placement:
    """Decides what to quantize.

    Args:
        graph: A prepared graph: nodes named and sorted, types known, constants as initializers.
        options: What the configuration says on placement. With `subgraphs` the bodies of If, Loop and
            Scan are part of the answer; their scopes must be joined.

    Raises:
        ConfigError: If a named node or operator type does not exist.
    """
    nodes = tuple(graph.all_nodes() if options.subgraphs else graph)
    _check_names(graph, nodes, options)
    followers = frozenset(op_type for op_type, rule in TABLE.items() if rule in _FOLLOWERS)
    known, standard = frozenset(_RULES), frozenset(TABLE)
    placer = Placer(graph, nodes, options, _outside(graph, options), known, standard, followers)
    for node in nodes:
        if placer.wanted(node):
            _RULES[node.op_type](placer, node)
    for node in nodes:
        if node.op_type in _MOVERS and is_standard(node):
            placer.close_pair(node)
    return placer.result()


def _check_names(graph: ir.Graph, nodes: Sequence[ir.Node], options: PlacementOptions) -> None:
    names = {node.name or "" for node in graph}
    for key in ("input_nodes", "output_nodes"):
        for name in getattr(options, key):
            if name not in names:
                raise ConfigError(f"{key}: the model has no node {name!r}{nearest(name, names)}")
    names = {node.name or "" for node in nodes}
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=options.subgraphs)
    for name, override in options.overrides:
        place = f"extra_options.TensorQuantOverrides.{name}"
        if name not in values:
            raise ConfigError(f"{place}: the model has no such tensor{nearest(name, values)}")
        for reader in (override.conversion and override.conversion.readers) or ():
            if reader not in names:
                raise ConfigError(f"{place}.convert: no node {reader!r}{nearest(reader, names)}")


def _outside(graph: ir.Graph, options: PlacementOptions) -> frozenset[str]:
    """Names of the nodes before the input nodes and behind the output nodes, and of those inside them."""
    nodes = {node.name: node for node in graph}
    before = _closure([nodes[name] for name in options.input_nodes], ir.Node.predecessors)
    behind = _closure([nodes[name] for name in options.output_nodes], ir.Node.successors)
    outside = (before | behind) - {*options.input_nodes, *options.output_nodes}
    bodies = [body for node in graph if node.name in outside for _, body in bodies_of(node)]
    return outside | {node.name or "" for body in bodies for node in body.all_nodes()}


def _closure(start: Iterable[ir.Node], neighbours: Callable[[ir.Node], Sequence[ir.Node]]) -> frozenset[str]:
    """Names of all nodes that are reached from some, these included."""
    reached, waiting = set[ir.Node](), list(start)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += neighbours(node)
    return frozenset(node.name or "" for node in reached)


Rule = Callable[[Placer, ir.Node], None]


def _every_tensor(placer: Placer, node: ir.Node) -> None:
    placer.activations_of(node)
    placer.outputs_of(node)


def _convolution(channel_axis: int) -> Rule:
    def rule(placer: Placer, node: ir.Node) -> None:
        placer.activation(node.inputs[0])
        placer.outputs_of(node)
        kernel_axis = channel_axis if node.op_type == "Conv" else None  # ConvTranspose computes in float
        summed = 1 - channel_axis
        placer.weight(node.inputs[1], channel_axis, node, kernel_axis=kernel_axis, summed=summed)
        placer.bias(node, 2)

    return rule


def _gemm(placer: Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.outputs_of(node)
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    placer.weight(node.inputs[1], axis, node, kernel_axis=axis, summed=1 - axis)
    placer.bias(node, 2, node.attributes.get_float("beta", 1.0))


def _matmul(placer: Placer, node: ir.Node) -> None:
    if placer.options.constant_matmul_only and not is_constant(node.inputs[1]):
        placer.skipped.append(Skip(node.name or "", "both operands are computed (MatMulConstBOnly)"))
        return
    for value, kernel_axis, summed in zip(node.inputs, (None, 1), (1, 0), strict=True):
        if value is not None and value.shape is not None and len(value.shape) == 2:
            placer.weight(value, 1, node, kernel_axis=kernel_axis, summed=summed)
        else:
            placer.weight(value, None, node)  # as onnxruntime's kernels can
    placer.outputs_of(node)


def _removable_activation(placer: Placer, node: ir.Node) -> None:
    """Relu and Clip: quantizing to the output's range clips by itself, if the zero point is free."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.name is not None and output.name is not None
    if not placer.is_quantized(source):
        return
    only_reader = len(source.uses()) == 1 and not source.is_graph_output() and source.graph is node.graph
    if only_reader:  # the range before the clipping is of no use to anybody
        placer.range_source[source.name] = placer.range_source.get(output.name, output.name)
    removable = only_reader and source.producer() is not None and source.name in placer.activations
    removable = removable and not (placer.has_float_reader(output) or placer.stays_float(output))
    removable = removable and placer.clips_by_range(output)
    if removable and node.op_type not in placer.options.kept_activations and _zero_lies_between(node):
        del placer.activations[source.name]
        placer.removed.append(node.name or "")
    placer.outputs_of(node)


def _zero_lies_between(node: ir.Node) -> bool:
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


def _passthrough(placer: Placer, node: ir.Node) -> None:
    """The values are the input's own, or between them: nothing is quantized unless the input is."""
    if placer.options.force_passthrough:
        placer.activation(node.inputs[0])
    if placer.is_quantized(node.inputs[0]):
        placer.shared_output(node)


_FOLLOWERS = (_passthrough, _removable_activation)
"""Rules by which nothing is quantized unless the input is."""


_MOVERS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What onnxruntime moves a DequantizeLinear behind, when it optimises, where no QuantizeLinear follows.

From opset 21 on its QDQPropagationTransformer then writes a QuantizeLinear with output_dtype INT8, which
QDQS8ToU8Transformer leaves when it makes the zero point uint8: the session fails to build. A pair
with the input's scale changes no value, because all of them are on its grid already.
"""


def _split(placer: Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.shared_output(node)


def _gather(placer: Placer, node: ir.Node) -> None:
    if is_constant(node.inputs[0]) or placer.options.force_passthrough:
        placer.activation(node.inputs[0])
    if placer.is_quantized(node.inputs[0]):
        placer.shared_output(node)


def _pad(placer: Placer, node: ir.Node) -> None:
    placer.activations_of(node)
    mode = node.attributes.get_string("mode", "constant")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    pads_with_zero = given is None or _scalar(given) == 0
    if mode != "constant" or pads_with_zero:
        placer.shared_output(node)
    else:
        placer.outputs_of(node)


def _where(placer: Placer, node: ir.Node) -> None:
    branches = node.inputs[1:3]
    if placer.options.force_passthrough:
        for value in branches:
            placer.activation(value)
    if all(placer.is_quantized(value) for value in branches):
        placer.outputs_of(node)


def _normalization(placer: Placer, node: ir.Node) -> None:
    placer.activation(node.inputs[0])
    placer.weight(node.inputs[1], 1, node)
    placer.bias(node, 2)
    placer.outputs_of(node)


def _softmax(placer: Placer, node: ir.Node) -> None:
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
"""Operator type -> what its rule marks: what is quantized by default, all that onnxruntime's registry has."""

NAMED: Mapping[str, Rule] = dict.fromkeys(
    (
        "Abs",
        "Celu",
        "DepthToSpace",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Expand",
        "Gelu",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "LogSoftmax",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Neg",
        "PRelu",
        "Pow",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceSum",
        "Selu",
        "Softplus",
        "Softsign",
        "SpaceToDepth",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
    ),
    _every_tensor,
)
"""Operators that are quantized only where `op_types_to_quantize` names them, as onnxruntime does then.

It has no integer kernels for them, so between quantized neighbours they only lose accuracy on a CPU; a
target that computes everything in integers needs them.
"""

_RULES: Mapping[str, Rule] = {**TABLE, **NAMED}
