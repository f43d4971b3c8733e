"""The widths that a placement gives a layer."""

from __future__ import annotations

from quant.graph.placement import Placement
from quant.grids import Grids
from quant.layers.cost import FLOAT_BITS, LayerBits, mean_bits
from quant.layers.layer import Operand, QuantizableLayer

_SCALE_BITS = 32


def placed_bits(layer: QuantizableLayer, placement: Placement, grids: Grids) -> LayerBits:
    """Widths of a layer's tensors with Q/DQ; scales of blocks count, those of channels and tensors do not.

    A tensor that stays float has 32 bits, as has an int32 bias. A Relu or Clip that the quantization made
    redundant reads what it writes.
    """
    tensors = layer.tensors
    if layer.name in placement.removed:
        tensors = (layer.node.outputs[0].name or "",)
    widths = [_activation_bits(name, layer.name, placement, grids) for name in tensors]
    weight, bias = (_constant_bits(operand, placement, grids) for operand in (layer.weight, layer.bias))
    searched = layer.weight is not None and layer.weight.name in placement.weights
    searched |= any(name in placement.activations for name in tensors)
    return LayerBits(weight, bias, mean_bits((width, 1) for width in widths), searched)


def _constant_bits(operand: Operand | None, placement: Placement, grids: Grids) -> float:
    site = None if operand is None else placement.weights.get(operand.name)
    if site is None:
        return FLOAT_BITS
    shared = 0.0 if site.block_size is None else _SCALE_BITS / site.block_size
    return grids.weight(site).type.bits + shared


def _activation_bits(name: str, reader: str, placement: Placement, grids: Grids) -> int:
    provider = placement.activations.get(name)
    if provider is None:
        return FLOAT_BITS
    conversion = placement.conversions.get(name)
    if conversion is not None and conversion.reaches(reader):
        return grids.conversion(name).type.bits
    site = placement.weights.get(provider)
    return (grids.weight(site) if site is not None else grids.activation(provider)).type.bits
