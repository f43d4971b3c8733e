"""Scales, zero points and integers of every tensor of one placement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.calibration.power_of_two import min_mse_params, min_mse_weight_params
from quant.calibration.ranges import Range, calibrated_range
from quant.calibration.statistics import TensorStatistics
from quant.config import QuantConfig
from quant.graph.insert import quantized_name, scale_name, zero_point_name
from quant.graph.placement import Bias, Placement, Weight
from quant.qparams import Grid, QuantParams, next_power_of_two, quant_params, quantize, weight_params
from quant.types import INTEGER_TYPES, IntegerType, PowerOfTwoMethod

Constants = Mapping[str, NDArray[Any]]
"""Float initializers by name."""

_INT32 = np.iinfo(np.int32)
_BIAS_BITS = 32
_BIAS_HEADROOM = 1.0001


def activation_grid(config: QuantConfig) -> Grid:
    """The integers that activations use."""
    return Grid(
        INTEGER_TYPES[config.activation_type],
        symmetric=config.extra_options.ActivationSymmetric,
        power_of_two=isinstance(config.calibrate_method, PowerOfTwoMethod),
        minimum_real_range=config.extra_options.MinimumRealRange,
    )


def weight_grid(config: QuantConfig, site: Weight) -> Grid:
    """The integers that a constant uses.

    Per-channel ones are always symmetric: onnxruntime's kernels need one zero point.
    """
    activations = activation_grid(config)
    if not site.typed_as_weight:
        return replace(activations, reduce_range=config.reduce_range)
    element = INTEGER_TYPES[config.weight_type]
    wanted = config.extra_options.WeightSymmetric
    symmetric = site.axis is not None or (element.signed if wanted is None else wanted)
    return replace(activations, type=element, symmetric=symmetric, reduce_range=config.reduce_range)


def tensor_ranges(
    statistics: Mapping[str, TensorStatistics], tensors: Iterable[str], config: QuantConfig
) -> dict[str, Range]:
    """Ranges of tensors by their statistics; none for MinMSE, which has no range but a scale."""
    if config.calibrate_method is PowerOfTwoMethod.MinMSE:
        return {}
    qmin, qmax = activation_grid(config).bounds
    method, options = config.calibrate_method, config.extra_options
    return {name: calibrated_range(statistics[name], method, options, qmax - qmin) for name in tensors}


def activation_params(
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Range],
    placement: Placement,
    config: QuantConfig,
) -> dict[str, QuantParams]:
    """Parameters of every activation that has its own, by its name."""
    grid = activation_grid(config)
    params = {}
    for name, provider in placement.activations.items():
        if provider != name:
            continue
        source = placement.range_source.get(name, name)
        if isinstance(source, str) and source not in ranges:
            params[name] = min_mse_params(statistics[source], grid)
            continue
        low, high = ranges[source] if isinstance(source, str) else map(np.float32, source)
        params[name] = quant_params(np.asarray(low), np.asarray(high), grid)
        if not grid.symmetric and low >= 0 >= high:  # a dead Relu, were it removed, still clips
            zero_point = np.asarray(grid.bounds[0], dtype=grid.type.numpy)
            params[name] = replace(params[name], zero_point=zero_point)
    return params


def constant_params(
    placement: Placement, constants: Constants, config: QuantConfig
) -> dict[str, QuantParams]:
    """Parameters of every quantized constant from its own values, by its name."""
    params = {}
    for site in placement.weights.values():
        grid = weight_grid(config, site)
        rule = min_mse_weight_params if config.calibrate_method is PowerOfTwoMethod.MinMSE else weight_params
        params[site.name] = rule(constants[site.name], grid, site.axis)
    return params


def avoid_bias_overflow(
    placement: Placement, params: Mapping[str, QuantParams], constants: Constants, config: QuantConfig
) -> dict[str, QuantParams]:
    """Weights whose scale must grow so that the biases fit int32, as onnxruntime does.

    A bias's scale is input scale x weight scale. Where 2 |bias| / (2^32 - 2) exceeds it, the weight's
    scale is raised in proportion (to a power of two, where scales are). The zero point stays: the range
    grows about it. (onnxruntime leaves unsigned and asymmetric weights alone, and their biases saturate.)
    """
    raised: dict[str, QuantParams] = {}
    for bias in placement.biases:
        site = placement.weights.get(bias.weight)
        weight = raised.get(bias.weight) or (params[bias.weight] if site else None)
        if site is None or weight is None:
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
    placement: Placement, params: Mapping[str, QuantParams], constants: Constants
) -> Iterator[onnx.TensorProto]:
    """Scales and zero points of all tensors, and the integers of the biases."""
    for name, own in params.items():
        yield onnx.numpy_helper.from_array(own.scale, scale_name(name))
        yield onnx.numpy_helper.from_array(own.zero_point, zero_point_name(name))
    for bias in placement.biases:
        integers, scale = quantized_bias(bias, placement, params, constants)
        base = quantized_name(bias.quantized)
        yield onnx.numpy_helper.from_array(integers, base)
        yield onnx.numpy_helper.from_array(scale, scale_name(base))
        yield onnx.numpy_helper.from_array(np.zeros(scale.shape, np.int32), zero_point_name(base))


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


def quantized_weight(
    site: Weight, params: QuantParams, constants: Constants, config: QuantConfig
) -> onnx.TensorProto:
    """Integers of a constant."""
    element: IntegerType = weight_grid(config, site).type
    return onnx.numpy_helper.from_array(
        quantize(constants[site.name], params, element), quantized_name(site.name)
    )


def tensor_bits(placement: Placement, config: QuantConfig) -> dict[str, int]:
    """Width of every quantized tensor by name."""
    activation = INTEGER_TYPES[config.activation_type].bits
    bits = dict.fromkeys(placement.activations, activation)
    bits |= {site.name: weight_grid(config, site).type.bits for site in placement.weights.values()}
    return bits | {bias.name: _BIAS_BITS for bias in placement.biases}


def _params_of(name: str, placement: Placement, params: Mapping[str, QuantParams]) -> QuantParams:
    return params[placement.activations.get(name, name)]
