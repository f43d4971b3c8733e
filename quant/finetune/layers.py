"""The layers of a model that can be finetuned, and their problems as arrays."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.constant_params import Constants
from quant.errors import QuantizationError
from quant.finetune.block import Columns
from quant.finetune.columns import layer_columns, weight_position
from quant.finetune.grid import UniformGrid
from quant.finetune.weights import from_matrix, weight_matrix
from quant.graph.placement import Placement, Weight
from quant.qparams import QuantParams, spread
from quant.transforms.skip import Skip
from quant.types import ElementType, Encoding


@dataclass(frozen=True)
class Layer:
    """A node with a quantized constant weight, in both graphs.

    Attributes:
        node: In the float graph.
        columns: What its weight multiplies.
        site: Its weight.
        input: Tensor of the float graph that it reads.
        quantized_input: The same in the quantized graph, behind DequantizeLinear.
        bias: Float initializer with one value for each output, read by this node alone, or None.
        multiplier: What the operator multiplies the bias by (Gemm's beta).
        cut_at: Where a Relu (infinity) or Clip from 0, the only reader of its output, cuts off above;
            None = there is none such.
    """

    node: ir.Node
    columns: Columns
    site: Weight
    input: str
    quantized_input: str
    bias: str | None
    multiplier: float
    cut_at: float | None = None

    @property
    def name(self) -> str:
        """Of the node."""
        return self.node.name or ""

    def matrix(self, constants: Constants) -> NDArray[np.float32]:
        """The float weight, shape (groups, out, in)."""
        return np.ascontiguousarray(weight_matrix(self.node, constants[self.site.name]), np.float32)

    def grid(self, params: QuantParams, bounds: tuple[int, int], shape: tuple[int, ...]) -> UniformGrid:
        """The values that each of its weights may take.

        Args:
            params: Of the weight.
            bounds: Least and greatest integer.
            shape: Of the weight, as it is stored.
        """
        if params.axis is None:
            return UniformGrid(_real(params.scale), params.zero_point.astype(np.int32), *bounds)
        full = (np.broadcast_to(spread(part, params, shape, ...), shape) for part in _parts(params))
        scale, zero_point = (weight_matrix(self.node, part) for part in full)
        if (scale == scale[..., :1]).all() and (zero_point == zero_point[..., :1]).all():
            scale, zero_point = scale[..., :1], zero_point[..., :1]
        return UniformGrid(_real(scale), zero_point.astype(np.int32), *bounds)

    def codes(self, integers: NDArray[Any], element: ElementType) -> NDArray[Any]:
        """Integers of shape (groups, out, in) in the weight's own layout."""
        return from_matrix(self.node, integers).astype(element.numpy)

    def bias_vector(self, constants: Constants) -> NDArray[np.float32] | None:
        """What is added to the outputs, shape (groups, out)."""
        if self.bias is None:
            return None
        return (constants[self.bias].astype(np.float32) * np.float32(self.multiplier)).reshape(
            self.columns.groups, -1
        )

    def bias_initializer(self, vector: NDArray[np.float32], constants: Constants) -> NDArray[Any]:
        """The inverse of `bias_vector`."""
        assert self.bias is not None
        own = constants[self.bias]
        return (vector.reshape(own.shape) / np.float32(self.multiplier)).astype(own.dtype)


def _parts(params: QuantParams) -> tuple[NDArray[Any], NDArray[Any]]:
    return params.scale, params.zero_point


def _real(scale: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(scale, np.float32)


def target_layers(
    graph: ir.Graph, quantized: ir.Graph, placement: Placement, op_types: Collection[str]
) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """The layers of some operator types whose weights are integers, in topological order.

    Args:
        graph: The prepared float graph.
        quantized: The graph with Q/DQ that was made from it.
        placement: What is quantized there.
        op_types: `TargetOpType`.
    """
    nodes = {node.name: node for node in quantized}
    layers, skipped = [], []
    for node in graph:
        if node.op_type not in op_types or node.name not in nodes:
            continue
        try:
            layer = _layer(node, nodes[node.name], placement)
        except QuantizationError as error:
            skipped.append(Skip(node.name or "", f"not finetuned: {error}"))
            continue
        if layer is not None:
            layers.append(layer)
    return tuple(layers), tuple(skipped)


def _layer(node: ir.Node, quantized: ir.Node, placement: Placement) -> Layer | None:
    """A node as a layer; None if its weight is no constant that is quantized.

    Raises:
        QuantizationError: With the reason why it cannot be finetuned.
    """
    position = weight_position(node)
    weight, data, other = node.inputs[position], node.inputs[1 - position], quantized.inputs[1 - position]
    site = placement.weights.get(weight.name or "") if weight is not None else None
    if weight is None or site is None or data is None or data.name is None:
        return None
    if placement.encoding(site.name) is not Encoding.INTEGER:
        raise QuantizationError("its weight is not of an integer type")
    if len(weight.uses()) > 1:
        raise QuantizationError("its weight has other readers")
    if data.const_value is not None:
        raise QuantizationError("its input is constant")
    assert other is not None and other.name is not None
    columns = layer_columns(node)
    bias, multiplier = _bias(node, weight.const_value)
    known = bias is not None or len(node.inputs) < 3  # what the outputs are
    cut_at = cut_off_at(node) if known else None
    return Layer(node, columns, site, data.name, other.name, bias, multiplier, cut_at)


def cut_off_at(node: ir.Node) -> float | None:
    """Where the Relu or Clip from 0 that alone reads a node's output cuts it off; None without one."""
    output = node.outputs[0]
    readers = output.consumers()
    if len(readers) != 1 or output.is_graph_output():
        return None
    if readers[0].op_type == "Relu":
        return np.inf
    if readers[0].op_type != "Clip":
        return None
    low, high = (*readers[0].inputs[1:], None, None)[:2]
    if low is None or low.const_value is None or low.const_value.numpy() != 0:
        return None
    if high is None:
        return np.inf
    return None if high.const_value is None else float(high.const_value.numpy())


def _bias(node: ir.Node, weight: ir.TensorProtocol | None) -> tuple[str | None, float]:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    multiplier = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if value is None or value.const_value is None or len(value.uses()) > 1 or not multiplier:
        return None, 1.0
    assert weight is not None
    outputs = int(np.prod(weight_matrix(node, np.empty(weight.shape.numpy(), np.bool)).shape[:2]))
    return (value.name, multiplier) if value.const_value.size == outputs else (None, 1.0)
