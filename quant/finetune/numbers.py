"""What finetuning asks of a quantized model: its layers, the grids of their weights, its initializers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.constant_params import Constants, code_bounds, code_tensor
from quant.finetune.grid import Array, RoundingGrid, UniformGrid
from quant.finetune.layers import Layer, target_layers
from quant.graph.insert import quantized_name
from quant.graph.placement import Placement
from quant.grids import Grids
from quant.parameters import quantized_bias
from quant.qparams import QuantParams, dequantize
from quant.transforms.skip import Skip


class Numbers(Protocol):
    """One configuration's numbers before finetuning.

    Attributes:
        constants: Float initializers of the float model.
    """

    @property
    def constants(self) -> Constants: ...

    def layers(
        self, graph: ir.Graph, quantized: ir.Graph, op_types: Collection[str]
    ) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
        """The layers of some operator types that can be finetuned, in topological order.

        Args:
            graph: The prepared float graph.
            quantized: The quantized graph that was made from it.
            op_types: `TargetOpType`.
        """

    def grid(self, layer: Layer) -> RoundingGrid:
        """The values that a layer's weights may take, in the shape of its matrix."""

    def weight_tensor(self, layer: Layer, rounded: Array) -> onnx.TensorProto:
        """A weight on that grid, shape (groups, out, in), as the quantized model has it."""

    def bias_tensor(self, name: str, biases: Constants) -> onnx.TensorProto:
        """A float bias, of the float initializer's name, as the quantized model has it."""

    def rounding(self, tensor: str) -> tuple[str, ...]:
        """What the node may be called that gives a tensor of the float graph rounded; empty if none does."""


@dataclass(frozen=True)
class Quantization:
    """The numbers of a model with a placement.

    Attributes:
        placement: What is quantized.
        params: Of every tensor.
        constants: Float initializers.
        grids: Of every tensor.
    """

    placement: Placement
    params: Mapping[str, QuantParams]
    constants: Constants
    grids: Grids

    def layers(
        self, graph: ir.Graph, quantized: ir.Graph, op_types: Collection[str]
    ) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
        return target_layers(graph, quantized, self.placement, op_types)

    def grid(self, layer: Layer) -> UniformGrid:
        own = self.grids.weight(layer.site)
        bounds = own.bounds if own.reduce_range else code_bounds(own, self.grids.config)
        return layer.grid(self.params[layer.site.name], bounds, self.constants[layer.site.name].shape)

    def weight_tensor(self, layer: Layer, rounded: Array) -> onnx.TensorProto:
        """Its codes, or the float number behind a Q/DQ pair."""
        name, element = layer.site.name, self.grids.weight(layer.site).type
        codes = layer.codes(self.grid(layer).integers(rounded), element)
        if not self.grids.config.extra_options.AddQDQPairToWeight:
            return code_tensor(codes, element, quantized_name(name))
        values = dequantize(codes, self.params[name]).astype(self.constants[name].dtype)
        return onnx.numpy_helper.from_array(values, name)

    def bias_tensor(self, name: str, biases: Mapping[str, NDArray[Any]]) -> onnx.TensorProto:
        """Int32 with the same scale, or float."""
        own = next((bias for bias in self.placement.biases if bias.name == name), None)
        if own is None:
            return onnx.numpy_helper.from_array(biases[name], name)
        integers, _ = quantized_bias(own, self.placement, self.params, biases)
        return onnx.numpy_helper.from_array(integers, quantized_name(own.quantized))

    def rounding(self, tensor: str) -> tuple[str, ...]:
        if tensor not in self.placement.activations:
            return ()
        return tuple(
            tensor + ending for ending in ("_DequantizeLinear", "_DequantizeLinear_1", "_Cast_Output")
        )
