"""SmoothQuant (Xiao et al., 2022, arXiv:2211.10438, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.config import ExtraOptions
from quant.transforms.constants import read_constant, replace_constant
from quant.transforms.skip import Skip

SMALLEST_SCALE, LARGEST_SCALE = 1e-5, 1e5
"""Bounds of s: a channel that is next to nothing on one side must not overflow the other."""

_LAYERS = ("MatMul", "Gemm")
_HOMOGENEOUS = ("Relu", "LeakyRelu")

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothOptions:
    """The part of a configuration that this transform reads.

    Attributes:
        alpha: How much of the outliers goes over to the weights: 0 = the weights' channels become
            equally wide, 1 = the activations'.
    """

    alpha: float

    @classmethod
    def of(cls, options: ExtraOptions) -> SmoothOptions:
        return cls(options.SmoothAlpha)


def smooth(
    model: ir.Model, maxima: Mapping[str, NDArray[np.float32]], options: SmoothOptions
) -> tuple[ir.Model, tuple[Skip, ...]]:
    """Moves outlier channels of activations into the weights that multiply them.

    For a layer y = x W with a constant W, shape (in, out), and any s > 0,

        y = (x diag(s)^-1) (diag(s) W)

    The s of `smoothing_scales` makes the ranges of x's channels more alike. Layers that read the same
    activation share one s, of the largest |w_j| among them. 1/s is folded into the constants in
    front: scale and bias of a LayerNormalization, a factor, the weights of a MatMul or Gemm, through
    Add of a constant and Relu; where something else reads the activation, or nothing in front can
    take it, one Mul is inserted for all layers that share it.

    MatMul and Gemm alone are smoothed, as in the paper. Conv is left to cross-layer equalization,
    which does the same between two of them from their weights.

    Args:
        model: A prepared model.
        maxima: max |x_j| of the tensors of `smoothed_tensors`.
        options: The parameters.

    Returns:
        A copy with equal outputs to rounding, and the layers that were left with the reason.
    """
    model = model.clone()
    groups, skipped = _find_groups(model.graph)
    scales = [_group_scale(group, maxima, options.alpha) for group in groups]  # of the weights as given
    for group, scale in zip(groups, scales, strict=True):
        if isinstance(scale, str):
            skipped += [Skip(layer.name or "", scale) for layer in group.layers]
        else:
            _divide_activation(model.graph, group, scale)
            _multiply_weights(group, scale)
    return model, tuple(skipped)


def smoothed_tensors(model: ir.Model) -> tuple[str, ...]:
    """Names of the activations whose channels' maxima `smooth` reads, in graph order."""
    groups, _ = _find_groups(model.graph)
    return tuple(group.activation.name or "" for group in groups)


def smoothing_scales(activation_max: Vector, weight_max: Vector, alpha: float) -> Vector:
    """The factor s of each input channel (eq. 4).

        s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

    clipped to [1e-5, 1e5] (not in the paper); 1 where either range is zero.

    Args:
        activation_max: max |x_j|, shape (in,).
        weight_max: max |w_j| over the weights that multiply x_j, shape (in,).
        alpha: In [0, 1].
    """
    usable = (activation_max > 0) & (weight_max > 0)
    activation_max, weight_max = np.where(usable, activation_max, 1), np.where(usable, weight_max, 1)
    scale = activation_max**alpha / weight_max ** (1 - alpha)
    return np.where(usable, np.clip(scale, SMALLEST_SCALE, LARGEST_SCALE), 1.0)


@dataclass(frozen=True)
class _Group:
    """Layers that read the same activation."""

    activation: ir.Value
    layers: list[ir.Node]


def _find_groups(graph: ir.Graph) -> tuple[list[_Group], list[Skip]]:
    groups: dict[ir.Value, _Group] = {}
    skipped = []
    for node in graph:
        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        reason = _obstacle(node)
        if reason is not None:
            skipped.append(Skip(node.name or "", reason))
            continue
        activation = node.inputs[0]
        assert activation is not None
        groups.setdefault(activation, _Group(activation, [])).layers.append(node)
    return list(groups.values()), skipped


def _obstacle(layer: ir.Node) -> str | None:
    """Why the layer cannot be smoothed, or None."""
    activation, weight = layer.inputs[:2]
    assert activation is not None and weight is not None
    if weight.const_value is None:
        computed = layer.op_type == "MatMul" and activation.const_value is None
        return "both operands are computed" if computed else f"weight {weight.name!r} is not a constant"
    if activation.const_value is not None:
        return "both operands are constants"
    if layer.attributes.get_int("transA", 0):
        return f"activation {activation.name!r} is transposed"
    if len(weight.const_value.shape) != 2:
        return f"weight {weight.name!r} has {len(weight.const_value.shape)} axes"
    if weight.dtype != ir.DataType.FLOAT:
        return f"weight {weight.name!r} is {weight.dtype}"
    if weight.is_graph_output() or not all(_multiplies_alike(*use, layer) for use in weight.uses()):
        return f"weight {weight.name!r} has other readers than layers of {activation.name!r}"
    return None


def _multiplies_alike(reader: ir.Node, position: int, layer: ir.Node) -> bool:
    """Whether a reader of a layer's weight is in the same group and multiplies alike."""
    return (
        position == 1
        and reader.graph is layer.graph
        and reader.op_type == layer.op_type
        and reader.inputs[0] is layer.inputs[0]
        and not reader.attributes.get_int("transA", 0)
        and _input_axis(reader) == _input_axis(layer)
    )


def _input_axis(layer: ir.Node) -> int:
    """The axis of a layer's weight along which its input channels lie."""
    return 1 if layer.attributes.get_int("transB", 0) else 0


def _group_scale(group: _Group, maxima: Mapping[str, NDArray[np.float32]], alpha: float) -> Vector | str:
    """The s of a group, or why it has none."""
    activation_max = maxima.get(group.activation.name or "")
    if activation_max is None:
        return f"activation {group.activation.name!r} has no values in the calibration data"
    weight_max = np.max(
        [
            np.abs(read_constant(layer.inputs[1])).max(axis=1 - _input_axis(layer), initial=0)
            for layer in group.layers
        ],
        axis=0,
    )
    scale = smoothing_scales(activation_max.astype(np.float64), weight_max, alpha)
    if (scale == 1).all():
        return f"every channel of {group.activation.name!r} stays as it is"
    return scale


def _multiply_weights(group: _Group, scale: Vector) -> None:
    """Makes diag(s) W of every weight W, in place; one that several layers share is multiplied once."""
    for value, axis in {layer.inputs[1]: _input_axis(layer) for layer in group.layers}.items():
        assert value is not None and value.const_value is not None
        weight = read_constant(value) * (scale if axis == 1 else scale[:, None])
        value.const_value = ir.tensor(weight.astype(np.float32), name=value.name)


def _divide_activation(graph: ir.Graph, group: _Group, scale: Vector) -> None:
    """Divides x by s, in place: in the constants in front, or by a Mul."""
    sites = _sites(group.activation, [(layer, 0) for layer in group.layers], len(scale))
    if sites is None:
        _insert_mul(graph, group, scale)
        return
    for node, position, axis in sites:
        constant = read_constant(node.inputs[position])
        divided = constant / (scale if axis == -1 else scale[:, None])
        replace_constant(graph, node, position, divided.astype(np.float32))


_Site = tuple[ir.Node, int, int]
"""A node, the position of a constant among its inputs, and the constant's axis of channels: -1, or
-2 of a matrix."""


def _sites(value: ir.Value, readers: Iterable[tuple[ir.Node, int]], channels: int) -> list[_Site] | None:
    """The constants that make the value x / s when they are divided by s, or None.

    Args:
        value: x.
        readers: Its only readers, if it may change: nodes and positions among their inputs.
        channels: Length of its last axis.
    """
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or value.is_graph_output():
        return None
    if value is not node.outputs[0] or {tuple(use) for use in value.uses()} - set(readers):
        return None
    if node.op_type in _HOMOGENEOUS:
        return _sites_in_front(node, 0, channels)
    if node.op_type == "LayerNormalization":
        return _all_of([_site(node, 1, channels), *_optional(node, 2, channels)])
    if node.op_type in _LAYERS:
        return _layer_sites(node, channels)
    if node.op_type in ("Mul", "Add"):
        constants = [p for p in (0, 1) if _is_constant(node.inputs[p])]
        if len(constants) != 1:
            return None
        own = _all_of([_site(node, constants[0], channels)])
        if node.op_type == "Mul" or own is None:
            return own
        rest = _sites_in_front(node, 1 - constants[0], channels)
        return None if rest is None else [*rest, *own]
    return None


def _sites_in_front(node: ir.Node, position: int, channels: int) -> list[_Site] | None:
    """The sites that divide one input of the node, if the node is its only reader."""
    source = node.inputs[position]
    return None if source is None else _sites(source, [(node, position)], channels)


def _layer_sites(layer: ir.Node, channels: int) -> list[_Site] | None:
    """Of a MatMul or Gemm: the output channels of its weight, and the bias."""
    weight = layer.inputs[1]
    if weight is None or not _is_constant(weight) or len(weight.uses()) > 1:
        return None
    if len(_shape(weight)) != 2:
        return None
    if layer.attributes.get_int("transB", 0):
        own = (layer, 1, -2) if _shape(weight)[0] == channels else None
    else:
        own = _site(layer, 1, channels)
    return _all_of([own, *_optional(layer, 2, channels)])


def _site(node: ir.Node, position: int, channels: int) -> _Site | None:
    """The input as a site, if it is a constant with the channels along its last axis."""
    value = node.inputs[position]
    if value is None or not _is_constant(value) or _shape(value)[-1:] != (channels,):
        return None
    return node, position, -1


def _optional(node: ir.Node, position: int, channels: int) -> list[_Site | None]:
    """The site of an input that may be absent."""
    present = len(node.inputs) > position and node.inputs[position] is not None
    return [_site(node, position, channels)] if present else []


def _all_of(sites: list[_Site | None]) -> list[_Site] | None:
    found = [site for site in sites if site is not None]
    return found if len(found) == len(sites) else None


def _insert_mul(graph: ir.Graph, group: _Group, scale: Vector) -> None:
    """One Mul behind the activation, for the layers of the group alone."""
    taken = set(ir.convenience.create_value_mapping(graph)) | {node.name or "" for node in graph}
    factor = _new_name(f"{group.activation.name}_smoothing", taken)
    reciprocal = ir.Value(
        name=factor,
        const_value=ir.tensor((1 / scale).astype(np.float32), name=factor),
        shape=ir.Shape(scale.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.register_initializer(reciprocal)
    output = ir.Value(
        name=_new_name(f"{group.activation.name}_smoothed", taken),
        shape=group.activation.shape,
        type=group.activation.type,
    )
    name = _new_name(f"{group.activation.name}_smooth", taken)
    mul = ir.node("Mul", [group.activation, reciprocal], outputs=[output], name=name)
    for layer in group.layers:
        layer.replace_input_with(0, output)
    producer = group.activation.producer()
    if producer is None:
        graph.insert_before(graph[0], mul)
    else:
        graph.insert_after(producer, mul)


def _new_name(wanted: str, taken: set[str]) -> str:
    while wanted in taken:
        wanted += "_"
    return wanted


def _shape(constant: ir.Value) -> tuple[int, ...]:
    assert constant.const_value is not None
    return tuple(constant.const_value.shape.numpy())


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
