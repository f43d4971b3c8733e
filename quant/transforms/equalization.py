"""Cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.config import ExtraOptions
from quant.transforms.skip import Skip

_LAYERS = ("Conv", "Gemm")
_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_MOST_STEPS = 100

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class EqualizationOptions:
    """The part of a configuration that this transform reads.

    Attributes:
        steps: Rounds over all groups; -1 = until the scales stay as they are.
        append_bias: A channel's range includes its bias.
        use_threshold: Leave channels alone whose range is below `weight_threshold` on both sides.
        weight_threshold: That bound.
        difference_threshold: Mean change of the scales below which -1 steps end.
    """

    steps: int
    append_bias: bool
    use_threshold: bool
    weight_threshold: float
    difference_threshold: float

    @classmethod
    def of(cls, options: ExtraOptions) -> EqualizationOptions:
        return cls(
            options.CLESteps,
            options.CLEScaleAppendBias,
            options.CLEScaleUseThreshold,
            options.CLEWeightThreshold,
            options.CLETotalLayerDiffThreshold,
        )


def equalize(model: ir.Model, options: EqualizationOptions) -> tuple[ir.Model, tuple[Skip, ...]]:
    """Rescales channels between consecutive layers so that their weights' ranges agree.

    Relu(s x) = s Relu(x) for s > 0, so output channel i of one layer may be divided by s_i and input
    channel i of the next multiplied by it. With r_1 and r_2 the channel's largest magnitudes in both,

        s_i = sqrt(r_1 r_2) / r_2

    makes them equal. A depthwise convolution between two layers is one of a triple: with three
    ranges, all become the cube root of their product.

    Args:
        model: A prepared model with BatchNormalization folded.
        options: The parameters.

    Returns:
        A copy with equal outputs to rounding, and the layers that were left with the reason.
    """
    model = model.clone()
    groups, skipped = _find_groups(model.graph)
    weights = {layer.name: _Layer(layer) for group in groups for layer in group}
    steps = _MOST_STEPS if options.steps < 0 else options.steps
    for _ in range(steps):
        change = [_equalize_group([weights[layer.name] for layer in group], options) for group in groups]
        if options.steps < 0 and (not change or np.mean(change) < options.difference_threshold):
            break
    for layer in weights.values():
        layer.store(model.graph)
    return model, skipped


class _Layer:
    """Weight and bias of one layer in float64, and the views that equalization needs."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.weight = _array(node.inputs[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        self.bias = None if bias is None else _array(bias)
        self.gemm_rows_are_outputs = node.op_type != "Gemm" or bool(node.attributes.get_int("transB", 0))

    @property
    def by_output(self) -> NDArray[np.float64]:
        """A view of shape (out, ...)."""
        return self.weight if self.gemm_rows_are_outputs else self.weight.T

    @property
    def by_input(self) -> NDArray[np.float64]:
        """A view of shape (in, ...); of a depthwise layer, whose channels are both, by_output."""
        return self.by_output if is_depthwise(self.node) else np.swapaxes(self.by_output, 0, 1)

    def output_range(self, with_bias: bool) -> Vector:
        largest: Vector = np.abs(self.by_output.reshape(self.by_output.shape[0], -1)).max(axis=1)
        if with_bias and self.bias is not None:
            largest = np.maximum(largest, np.abs(self.bias.reshape(-1)))
        return largest

    def input_range(self) -> Vector:
        view = self.by_input
        largest: Vector = np.abs(view.reshape(view.shape[0], -1)).max(axis=1)
        return largest

    def scale_outputs(self, factor: Vector) -> None:
        self.by_output[...] *= factor.reshape(-1, *[1] * (self.by_output.ndim - 1))
        if self.bias is not None:
            self.bias *= factor.reshape(self.bias.shape)

    def scale_inputs(self, factor: Vector) -> None:
        self.by_input[...] *= factor.reshape(-1, *[1] * (self.by_input.ndim - 1))

    def store(self, graph: ir.Graph) -> None:
        for position, array in ((1, self.weight), (2, self.bias)):
            value = self.node.inputs[position] if array is not None else None
            if value is None or array is None:
                continue
            assert value.const_value is not None
            rounded = array.astype(value.const_value.dtype.numpy())
            value.const_value = ir.tensor(rounded, name=value.name)


def _equalize_group(layers: list[_Layer], options: EqualizationOptions) -> float:
    """One round on a pair or triple, in place; returns the mean change of its factors."""
    first, last, middle = layers[0], layers[-1], layers[1:-1]
    ranges = [first.output_range(options.append_bias), *(layer.output_range(False) for layer in middle)]
    ranges.append(last.input_range())
    product = np.prod(ranges, axis=0)
    common = product ** (1 / len(ranges))
    usable = product > 0  # a dead channel has nothing to balance
    if options.use_threshold:
        usable &= np.max(ranges, axis=0) >= options.weight_threshold
    into = np.where(usable, common / np.where(usable, ranges[0], 1), 1.0)
    out_of = np.where(usable, common / np.where(usable, ranges[-1], 1), 1.0)
    first.scale_outputs(into)
    for layer in middle:  # input grows by `into`, output by 1 / `out_of`
        layer.scale_inputs(1 / (into * out_of))
        if layer.bias is not None:
            layer.bias /= out_of.reshape(layer.bias.shape)
    last.scale_inputs(out_of)
    return float(np.abs(into - 1).mean())


Group = tuple[ir.Node, ...]


def _find_groups(graph: ir.Graph) -> tuple[list[Group], tuple[Skip, ...]]:
    """Pairs and Conv-depthwise-Conv triples, each boundary between two layers in one of them."""
    groups: list[Group] = []
    skipped: list[Skip] = []
    inside: set[ir.Node] = set()  # depthwise layers in the middle of a triple
    for node in graph:
        if node.op_type not in _LAYERS or node in inside:
            continue
        following = _next_layer(node)
        if isinstance(following, str):
            skipped.append(Skip(node.name or "", following))
            continue
        third = _next_layer(following) if is_depthwise(following) else ""
        if isinstance(third, ir.Node):
            groups.append((node, following, third))
            inside.add(following)
        else:
            groups.append((node, following))
    return groups, tuple(skipped)


def _next_layer(layer: ir.Node) -> ir.Node | str:
    """The layer that reads this one's channels alone, or why there is none."""
    reason = _unusable(layer)
    if reason:
        return reason
    for value in _through_activation(layer.outputs[0]):
        if value.is_graph_output() or len(value.uses()) != 1:
            return f"output {value.name!r} has other readers"
        reader, position = next(iter(value.uses()))
        if reader.op_type in _HOMOGENEOUS and position == 0:
            continue
        if reader.op_type not in _LAYERS or position != 0:
            return f"followed by {reader.op_type}"
        return _unusable(reader) or _unmatched(layer, reader) or reader
    return "followed by two activations"


def _through_activation(value: ir.Value) -> Iterator[ir.Value]:
    """The value, then the output of its reader."""
    yield value
    reader, _ = next(iter(value.uses()))
    yield reader.outputs[0]


def _unusable(layer: ir.Node) -> str | None:
    for value in layer.inputs[1:3]:
        if value is not None and value.const_value is None:
            return "weights are not constants"
        if value is not None and len(value.uses()) > 1:
            return f"weight {value.name!r} is shared"
    return None


def _unmatched(first: ir.Node, second: ir.Node) -> str | None:
    """Why the channels of two layers do not correspond one to one, or None."""
    if first.op_type != second.op_type:
        return f"{first.op_type} followed by {second.op_type}"
    if second.op_type == "Gemm":
        plain = not first.attributes.get_int("transA", 0) and not second.attributes.get_int("transA", 0)
        return None if plain and _bias_is_a_row(first) else "transposed input, or a bias that is not a row"
    grouped = second.attributes.get_int("group", 1) > 1
    return f"{second.name!r} is grouped" if grouped and not is_depthwise(second) else None


def _bias_is_a_row(gemm: ir.Node) -> bool:
    """Whether a Gemm's bias, if any, has one number for each output channel."""
    if len(gemm.inputs) < 3 or gemm.inputs[2] is None:
        return True
    bias, channels = _array(gemm.inputs[2]), _Layer(gemm).by_output.shape[0]
    return bias.size == channels and bias.shape[-1:] == (channels,)


def is_depthwise(node: ir.Node) -> bool:
    """Whether a Conv has one filter for each of its input channels."""
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) == 1:
        return False
    shape = _array(node.inputs[1]).shape
    return bool(shape[1] == 1 and shape[0] == node.attributes.get_int("group", 1))


def _array(value: ir.Value | None) -> NDArray[np.float64]:
    assert value is not None and value.const_value is not None
    return np.array(value.const_value.numpy(), dtype=np.float64)
