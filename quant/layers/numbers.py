"""What finetuning asks of a model with formats for its layers (`quant.finetune.numbers.Numbers`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.constant_params import Constants
from quant.errors import QuantizationError
from quant.finetune.columns import layer_columns
from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.layers import Layer
from quant.finetune.weights import from_matrix, weight_matrix
from quant.graph.placement import Weight
from quant.layers.arrangement import Arrangement
from quant.layers.assignment import BIAS, Assignment, Constant
from quant.layers.constants import RoundedConstant, constant_codes, renamed
from quant.layers.layer import QuantizableLayer
from quant.transforms.skip import Skip


@dataclass(frozen=True)
class LayerNumbers:
    """The numbers of a model with formats for its layers.

    Attributes:
        assignment: What is in which format.
        rounded: The constants with one, by layer and role.
        names: Their initializers in the model, the same way.
        roundings: Name of the node that gives a tensor rounded, by the tensor's name.
        constants: Float initializers.
    """

    assignment: Assignment
    rounded: Mapping[tuple[str, str], RoundedConstant]
    names: Mapping[tuple[str, str], str]
    roundings: Mapping[str, str]
    constants: Constants

    def layers(
        self, graph: ir.Graph, quantized: ir.Graph, op_types: Collection[str]
    ) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
        del graph  # the assignment's layers are its nodes
        nodes = {node.name: node for node in quantized}
        layers, skipped = [], []
        for own in self.assignment.layers:
            if own.op_type in op_types and (own.name, "weight") in self.rounded:
                try:
                    layers.append(_layer(own, nodes[own.name]))
                except QuantizationError as error:
                    skipped.append(Skip(own.name, f"not finetuned: {error}"))
        return tuple(layers), tuple(skipped)

    def grid(self, layer: Layer) -> RoundingGrid:
        rounded, values = self.rounded[layer.name, "weight"], self.constants[layer.site.name]
        arranged = np.asarray(rounded.arrangement.arrange(values), np.float32)
        grid = rounded.format.grid(arranged, layer.columns.groups)
        return grid.columns(_order(layer.node, rounded.arrangement, arranged))

    def weight_tensor(self, layer: Layer, rounded: Array) -> onnx.TensorProto:
        own = self.rounded[layer.name, "weight"]
        values = from_matrix(layer.node, np.asarray(rounded, np.float32))
        if own.is_float:  # rounded already; an exponent that a block shares must stay the same
            return onnx.numpy_helper.from_array(values, self.names[layer.name, "weight"])
        arranged = own.arrangement.arrange(values)
        codes = constant_codes(arranged, own.format, own.arrangement, packed=True)
        return renamed([(codes, self.names[layer.name, "weight"])])[0]

    def bias_tensor(self, name: str, biases: Constants) -> onnx.TensorProto:
        """In its format, with the scale that it has; or float."""
        found = next((own for own in self.assignment.constants if _is_bias(own, name)), None)
        if found is None:
            return onnx.numpy_helper.from_array(biases[name], name)
        key = (found.layer, found.role)
        own, values = self.rounded[key], np.asarray(biases[name], np.float32)
        codes = constant_codes(values, own.format, BIAS, packed=not own.is_float)
        return renamed([(codes, self.names[key])])[0]

    def rounding(self, tensor: str) -> tuple[str, ...]:
        return (self.roundings[tensor],) if tensor in self.roundings else ()


def _is_bias(own: Constant, name: str) -> bool:
    return own.role == "bias" and own.name == name


def _layer(own: QuantizableLayer, quantized: ir.Node) -> Layer:
    """A layer as finetuning sees it.

    Raises:
        QuantizationError: With the reason why it cannot be finetuned.
    """
    assert own.weight is not None
    value = own.node.inputs[own.weight.position]
    source = quantized.inputs[own.data_inputs[0]]
    assert value is not None and source is not None and source.name is not None
    if len(value.uses()) > 1:
        raise QuantizationError("its weight has other readers")
    columns = layer_columns(own.node)
    bias, multiplier = _bias(own)
    site = Weight(own.weight.name, None, typed_as_weight=True)
    return Layer(own.node, columns, site, own.tensors[0], source.name, bias, multiplier)


def _bias(own: QuantizableLayer) -> tuple[str | None, float]:
    """A bias that is the layer's alone, one number for each output, and its factor."""
    if own.bias is None or own.weight is None:
        return None, 1.0
    value, weight = own.bias.node.inputs[own.bias.position], own.node.inputs[own.weight.position]
    multiplier = own.node.attributes.get_float("beta", 1.0) if own.op_type == "Gemm" else 1.0
    assert value is not None and weight is not None and weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    outputs = int(np.prod(weight_matrix(own.node, np.empty(shape, np.bool)).shape[:2]))
    if len(value.uses()) > 1 or not multiplier or own.bias.size != outputs:
        return None, 1.0
    return own.bias.name, multiplier


def _order(node: ir.Node, arrangement: Arrangement, arranged: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each column of the layer's matrix, the column of the arranged weight."""
    inputs = int(np.prod(arranged.shape[1:]))
    index = np.broadcast_to(np.arange(inputs).reshape(1, *arranged.shape[1:]), arranged.shape)
    order: NDArray[np.int64] = weight_matrix(node, arrangement.restore(index))[0, 0]
    return order
