"""Scales, zero points and integers of every tensor of one placement, as initializers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.constant_params import Constants, code_tensor
from quant.graph.insert import converted_name, quantized_name, scale_name, zero_point_name
from quant.graph.placement import Bias, Placement
from quant.grids import Grids
from quant.qparams import QuantParams, next_power_of_two
from quant.types import ElementType, PowerOfTwoMethod

_INT32 = np.iinfo(np.int32)
_BIAS_BITS = 32
_BIAS_HEADROOM = 1.0001


def avoid_bias_overflow(
    placement: Placement, params: Mapping[str, QuantParams], constants: Constants, grids: Grids
) -> dict[str, QuantParams]:
    """Weights whose scale must grow so that the biases fit int32, as onnxruntime does.

    A bias's scale is input scale x weight scale. Where 2 |bias| / (2^32 - 2) exceeds it, the weight's
    scale is raised in proportion (to a power of two, where scales are). The zero point stays: the range
    grows about it. (onnxruntime leaves unsigned and asymmetric weights alone, and their biases saturate.)
    Scales given outright stay, and all do with QDQDisableWeightAdjustForInt32Bias.
    """
    config = grids.config
    if config.extra_options.QDQDisableWeightAdjustForInt32Bias:
        return {}
    raised: dict[str, QuantParams] = {}
    for bias in placement.biases:
        site = placement.weights.get(bias.weight)
        weight = raised.get(bias.weight) or (params[bias.weight] if site else None)
        if site is None or weight is None or any(given.scale for given in grids.overrides(site.name)):
            continue
        values = np.abs(constants[bias.name] * np.float32(bias.multiplier))
        # in float32 for each channel and in float64 for the whole, as onnxruntime's NumPy expressions are
        largest = values.reshape(-1) if weight.axis is not None else np.float64(values.max(initial=0))
        needed = _BIAS_HEADROOM * 2 * largest / np.float64(_INT32.max - (_INT32.min + 1))
        scale = _params_of(bias.input, placement, params).scale.astype(np.float64) * weight.scale
        small = (scale < needed) & (scale > 0)
        if small.any():
            ratio = np.where(small, needed / np.where(small, scale, 1), 1)
            grown = weight.scale.astype(np.float64) * ratio
            if isinstance(config.calibrate_method, PowerOfTwoMethod):
                grown = next_power_of_two(grown)
            raised[bias.weight] = replace(weight, scale=grown.astype(np.float32))
    return raised


def parameter_tensors(
    placement: Placement, params: Mapping[str, QuantParams], constants: Constants, grids: Grids
) -> Iterator[onnx.TensorProto]:
    """Scales and zero points of all tensors, and the integers of the biases."""
    for name, own in params.items():
        yield onnx.numpy_helper.from_array(own.scale, scale_name(name))
        yield code_tensor(own.zero_point, _element(name, placement, grids), zero_point_name(name))
    for bias in placement.biases:
        integers, scale = quantized_bias(bias, placement, params, constants)
        base = quantized_name(bias.quantized)
        yield onnx.numpy_helper.from_array(integers, base)
        yield onnx.numpy_helper.from_array(scale, scale_name(base))
        yield onnx.numpy_helper.from_array(np.zeros(scale.shape, np.int32), zero_point_name(base))


def _element(name: str, placement: Placement, grids: Grids) -> ElementType:
    """The type of a tensor's codes, by the name of its parameters."""
    if name in placement.weights:
        return grids.weight(placement.weights[name]).type
    if name in placement.activations:
        return grids.activation(name).type
    return grids.conversion(name.removesuffix(converted_name(""))).type


def quantized_bias(
    bias: Bias, placement: Placement, params: Mapping[str, QuantParams], constants: Constants
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Integers round(multiplier bias / scale), saturated, and scale = input scale x weight scale."""
    weight = _params_of(bias.weight, placement, params)
    scale = np.asarray(_params_of(bias.input, placement, params).scale * weight.scale, dtype=np.float32)
    scale = np.where(scale > 0, scale, np.finfo(np.float32).tiny).astype(np.float32)  # not to underflow
    values = constants[bias.name]
    integers = np.rint(values.astype(np.float64) * bias.multiplier / scale.astype(np.float64))
    return np.clip(integers, _INT32.min, _INT32.max).astype(np.int32).reshape(values.shape), scale


def tensor_bits(placement: Placement, grids: Grids) -> dict[str, int]:
    """Width of every quantized tensor by name; of a tensor in two formats that of the first."""
    bits = {}
    for name, provider in placement.activations.items():
        site = placement.weights.get(provider)
        bits[name] = (grids.weight(site) if site is not None else grids.activation(provider)).type.bits
    bits |= {site.name: grids.weight(site).type.bits for site in placement.weights.values()}
    return bits | {bias.name: _BIAS_BITS for bias in placement.biases}


def _params_of(name: str, placement: Placement, params: Mapping[str, QuantParams]) -> QuantParams:
    return params[placement.activations.get(name, name)]
