"""Folding of BatchNormalization into the layer in front of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.transforms.constants import read_constant, replace_constant
from quant.transforms.skip import Skip

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


def fold_batch_norms(model: ir.Model) -> tuple[ir.Model, tuple[Skip, ...]]:
    """Multiplies BatchNormalization into the weights of the Conv, ConvTranspose or Gemm before it.

    With gamma, beta, mu, var the node's constants and g = gamma / sqrt(var + epsilon),

        W' = g W (for each output channel),    b' = g (b - mu) + beta

    in float64, rounded to the weight's type at the end.

    Returns:
        A copy with the nodes folded, and those that were left with the reason.
    """
    model = model.clone()
    skipped = []
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        reason = _obstacle(node)
        if reason is None:
            _fold(model.graph, node)
        else:
            skipped.append(Skip(node.name or "", reason))
    return model, tuple(skipped)


def _obstacle(batch_norm: ir.Node) -> str | None:
    """Why the node cannot be folded, or None."""
    source = batch_norm.inputs[0]
    layer = source.producer() if source is not None else None
    if source is None or layer is None or layer.op_type not in _LAYERS:
        return f"not after {', '.join(_LAYERS)}"
    if batch_norm.attributes.get_int("training_mode", 0) or len(batch_norm.outputs) > 1:
        return "in training mode"
    if len(source.uses()) > 1 or source.is_graph_output():
        return f"output {source.name!r} of {layer.name!r} has other readers"
    constants = (*batch_norm.inputs[1:], *layer.inputs[1:])
    if any(value is not None and value.const_value is None for value in constants):
        return "weights or statistics are not constants"
    if layer.op_type == "Gemm" and not _gemm_bias_is_a_row(layer):
        return f"the bias of {layer.name!r} is not one number for each column"
    return None


def _gemm_bias_is_a_row(gemm: ir.Node) -> bool:
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    return bias is None or read_constant(bias).ndim <= 1 or read_constant(bias).shape[0] == 1


def _fold(graph: ir.Graph, batch_norm: ir.Node) -> None:
    """Edits the graph in place."""
    source = batch_norm.inputs[0]
    assert source is not None
    layer = source.producer()
    assert layer is not None
    gamma, beta, mean, variance = (read_constant(value) for value in batch_norm.inputs[1:5])
    gain = gamma / np.sqrt(variance + batch_norm.attributes.get_float("epsilon", 1e-5))
    weight = layer.inputs[1]
    assert weight is not None and weight.const_value is not None
    dtype = weight.const_value.dtype.numpy()
    given = layer.inputs[2] if len(layer.inputs) > 2 else None
    bias = (
        np.zeros_like(mean)
        if given is None
        else np.broadcast_to(read_constant(given).reshape(-1), mean.shape)
    )
    if layer.op_type == "Gemm":
        bias = bias * layer.attributes.get_float("beta", 1.0)
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    replace_constant(graph, layer, 1, (read_constant(weight) * _along_outputs(gain, layer)).astype(dtype))
    replace_constant(graph, layer, 2, ((bias - mean) * gain + beta).astype(dtype))
    output = batch_norm.outputs[0]
    name = output.name
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    graph.remove(batch_norm, safe=True)
    source.name = name
    source.type, source.shape = source.type or output.type, source.shape or output.shape


def _along_outputs(gain: NDArray[np.float64], layer: ir.Node) -> NDArray[np.float64]:
    """The gain in a shape that multiplies the layer's weight for each output channel."""
    weight = layer.inputs[1]
    assert weight is not None
    shape = read_constant(weight).shape
    if layer.op_type == "Gemm":
        return gain[:, None] if layer.attributes.get_int("transB", 0) else gain[None, :]
    if layer.op_type == "Conv":  # (out, in / groups, ...)
        return gain.reshape(-1, *[1] * (len(shape) - 1))
    groups = layer.attributes.get_int("group", 1)  # ConvTranspose: (in, out / groups, ...)
    per_input = np.repeat(gain.reshape(groups, -1), shape[0] // groups, axis=0)
    return per_input.reshape(*shape[:2], *[1] * (len(shape) - 2))
