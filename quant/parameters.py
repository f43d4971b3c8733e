"""Scales, zero points and integers of every tensor of one placement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.calibration.distribution import float8_scale, moments
from quant.calibration.mse import mse_weight_params, weight_bounds
from quant.calibration.power_of_two import min_mse_params, min_mse_weight_params
from quant.calibration.ranges import Range, calibrated_range
from quant.calibration.statistics import TensorStatistics
from quant.config import QuantConfig, TensorOverride
from quant.errors import ConfigError
from quant.graph.insert import converted_name, quantized_name, scale_name, zero_point_name
from quant.graph.placement import Bias, Placement, Weight
from quant.grids import Grids, fixed_params, overridden_range
from quant.qparams import (
    Grid,
    QuantParams,
    next_power_of_two,
    quant_params,
    quantize,
    weight_extremes,
    weight_params,
)
from quant.types import CalibrationMethod, ElementType, Encoding, PowerOfTwoMethod

Constants = Mapping[str, NDArray[Any]]
"""Float initializers by name."""

_INT32 = np.iinfo(np.int32)
_BIAS_BITS = 32
_BIAS_HEADROOM = 1.0001


def tensor_ranges(
    statistics: Mapping[str, TensorStatistics], tensors: Iterable[str], grid: Grid, config: QuantConfig
) -> dict[str, Range]:
    """Ranges of tensors by their statistics; none for MinMSE, which has no range but a scale."""
    if _has_no_range(grid, config):
        return {}
    qmin, qmax = grid.bounds
    method, options = config.calibrate_method, config.extra_options
    return {name: calibrated_range(statistics[name], method, options, qmax - qmin) for name in tensors}


def _has_no_range(grid: Grid, config: QuantConfig) -> bool:
    least_error = config.calibrate_method is PowerOfTwoMethod.MinMSE
    return least_error and grid.type.encoding is Encoding.INTEGER


def activation_params(
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Range],
    placement: Placement,
    grids: Grids,
) -> dict[str, QuantParams]:
    """Parameters of every activation that has its own, and of its second format, by its name.

    Args:
        statistics: Of the calibrated tensors.
        ranges: Of the same, for the grid of activations without overrides.
        placement: What is quantized.
        grids: The grid of every tensor.
    """
    params = {}
    for name, provider in placement.activations.items():
        if provider != name:
            continue
        formats = [(name, grids.activation(name), next(iter(grids.overrides(name)), TensorOverride()))]
        if name in placement.conversions:
            convert = grids.overrides(name)[0].convert or TensorOverride()
            formats.append((converted_name(name), grids.conversion(name), convert))
        source = placement.range_source.get(name, name)
        for base, grid, override in formats:
            if grid.type.encoding.is_cast:
                continue
            known = ranges if grid == grids.default else {}
            real = np.dtype(np.float16 if name in placement.half else np.float32)
            own = _activation_params(source, statistics, known, grid.within(real), override, grids.config)
            params[base] = own.cast(real)
    return params


def _activation_params(
    source: str | tuple[float, float],
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Range],
    grid: Grid,
    override: TensorOverride,
    config: QuantConfig,
) -> QuantParams:
    """Parameters of one format of one activation.

    Args:
        source: The tensor whose range it is, or the range.
        statistics: Of that tensor.
        ranges: Those that are known already.
        grid: What to quantize to.
        override: What is said of this tensor.
        config: How ranges follow from statistics.
    """
    fixed = fixed_params(override, grid.type)
    if fixed is not None:
        return fixed
    given = override.rmin is not None or override.rmax is not None
    if isinstance(source, str) and _has_no_range(grid, config) and not given:
        return min_mse_params(statistics[source], grid)
    if (
        isinstance(source, str)
        and grid.type.encoding is Encoding.FLOAT8
        and config.calibrate_method is CalibrationMethod.Distribution
    ):
        return _float8_params(np.asarray(moments(statistics[source])[1]), grid)
    bounds = source if not isinstance(source, str) else _range(source, statistics, ranges, grid, config)
    low, high = overridden_range(override, *(np.asarray(bound, np.float32) for bound in bounds))
    params = quant_params(low, high, grid)
    if not grid.symmetric and grid.type.encoding is Encoding.INTEGER and low >= 0 >= high:
        # a dead Relu, were it removed, still clips
        params = replace(params, zero_point=np.asarray(grid.bounds[0], dtype=grid.type.numpy))
    return params


def _range(
    source: str,
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Range],
    grid: Grid,
    config: QuantConfig,
) -> Range:
    """A tensor's range, where it is not known already; one that covers everything if there is none."""
    if source not in ranges:
        if _has_no_range(grid, config):
            config = config.replace(calibrate_method=PowerOfTwoMethod.NonOverflow)
        ranges = tensor_ranges(statistics, [source], grid, config)
    return ranges[source]


def constant_params(placement: Placement, constants: Constants, grids: Grids) -> dict[str, QuantParams]:
    """Parameters of every quantized constant from its own values, by its name."""
    params = {}
    for site in placement.weights.values():
        grid, values = grids.weight(site), constants[site.name]
        if not grid.type.encoding.is_cast:
            own = _constant_params(site, values, grid.within(values.dtype), grids)
            params[site.name] = own.cast(values.dtype)
    return params


def _constant_params(site: Weight, values: NDArray[Any], grid: Grid, grids: Grids) -> QuantParams:
    overrides = grids.overrides(site.name)
    if not any(given.scale or given.rmin is not None or given.rmax is not None for given in overrides):
        return _derived_params(site, values, grid, grids.config)
    channels = 1 if site.axis is None else values.shape[site.axis]
    if len(overrides) not in (1, channels):
        raise ConfigError(
            f"extra_options.TensorQuantOverrides.{site.name}: {len(overrides)} entries for {channels}"
            " channels; give one, or one for each"
        )
    each = overrides * channels if len(overrides) == 1 else overrides
    low, high = (np.atleast_1d(bound) for bound in weight_extremes(values, site.axis))
    derived = [
        fixed_params(override, grid.type)
        or quant_params(*overridden_range(override, low[index], high[index]), grid)
        for index, override in enumerate(each)
    ]
    shape = () if site.axis is None else (channels,)
    scale = np.array([own.scale for own in derived], np.float32).reshape(shape)
    zero_point = np.array([own.zero_point for own in derived], grid.type.numpy).reshape(shape)
    return QuantParams(scale, zero_point, site.axis)


WeightRule = Callable[[NDArray[Any], Grid, int | None], QuantParams]


def _derived_params(site: Weight, values: NDArray[Any], grid: Grid, config: QuantConfig) -> QuantParams:
    """Parameters of a constant by the configuration's rule."""
    if grid.type.encoding is Encoding.FLOAT8 and config.calibrate_method is CalibrationMethod.Distribution:
        others = None if site.axis is None else tuple(i for i in range(values.ndim) if i != site.axis)
        if site.block_size is None:
            return _float8_params(values.std(axis=others), grid, site.axis)
    rule = _least_error_rule(grid, config)
    if rule is None:
        return weight_params(values, grid, site.axis, site.block_size)
    return rule(values, grid, site.axis) if site.block_size is None else _in_blocks(site, values, grid, rule)


def _least_error_rule(grid: Grid, config: QuantConfig) -> WeightRule | None:
    """The search for the scale of a constant, if one is asked for; float8 has none."""
    wanted = config.extra_options.WeightCalibrateMethod == "MSE" or _has_no_range(grid, config)
    if not wanted or grid.type.encoding is not Encoding.INTEGER:
        return None
    return min_mse_weight_params if grid.power_of_two else mse_weight_params


def _in_blocks(site: Weight, values: NDArray[Any], grid: Grid, rule: WeightRule) -> QuantParams:
    """A rule for channels, applied to blocks; zeros, which every grid has, fill the last block up."""
    assert site.axis is not None and site.block_size is not None
    moved = np.moveaxis(values, site.axis, -1)
    missing = -moved.shape[-1] % site.block_size
    filled = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)])
    blocks = filled.reshape(*moved.shape[:-1], -1, site.block_size)
    found = rule(blocks.reshape(-1, site.block_size), grid, 0)
    scale, zero_point = (
        np.ascontiguousarray(np.moveaxis(parameter.reshape(blocks.shape[:-1]), -1, site.axis))
        for parameter in (found.scale, found.zero_point)
    )
    return QuantParams(scale, zero_point, site.axis, site.block_size)


def _float8_params(deviation: NDArray[Any], grid: Grid, axis: int | None = None) -> QuantParams:
    """The scale at which the type's codes deviate as the values do (onnxruntime's rule)."""
    codes = np.arange(256, dtype=np.uint8).view(grid.type.numpy).astype(np.float32)
    numbers = codes[np.isfinite(codes)]
    scale = np.array([float8_scale(float(one), numbers) for one in deviation.flat], np.float32)
    scale = scale.reshape(deviation.shape)
    return QuantParams(scale, np.zeros(scale.shape, grid.type.numpy), axis)


def avoid_bias_overflow(
    placement: Placement, params: Mapping[str, QuantParams], constants: Constants, grids: Grids
) -> dict[str, QuantParams]:
    """Weights whose scale must grow so that the biases fit int32, as onnxruntime does.

    A bias's scale is input scale x weight scale. Where 2 |bias| / (2^32 - 2) exceeds it, the weight's
    scale is raised in proportion (to a power of two, where scales are). Weights with a zero point other
    than zero, unsigned ones and those with a scale given outright are left alone, and their biases
    saturate; so are all with QDQDisableWeightAdjustForInt32Bias.
    """
    config = grids.config
    if config.extra_options.QDQDisableWeightAdjustForInt32Bias:
        return {}
    raised: dict[str, QuantParams] = {}
    for bias in placement.biases:
        site = placement.weights.get(bias.weight)
        weight = raised.get(bias.weight) or (params[bias.weight] if site else None)
        if (
            site is None
            or weight is None
            or weight.zero_point.any()
            or not grids.weight(site).type.signed
            or any(override.scale is not None for override in grids.overrides(site.name))
        ):
            continue
        values = np.abs(constants[bias.name].astype(np.float64) * bias.multiplier)
        largest = values.reshape(-1) if weight.axis is not None else values.max(initial=0)
        needed = _BIAS_HEADROOM * 2 * largest / (_INT32.max - (_INT32.min + 1))
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


def code_tensor(codes: NDArray[Any], element: ElementType, name: str) -> onnx.TensorProto:
    """Codes as ONNX stores them: types below 8 bits are packed."""
    return onnx.numpy_helper.from_array(codes.astype(element.ir.numpy(), copy=False), name)


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
    site: Weight, params: QuantParams | None, constants: Constants, grids: Grids
) -> onnx.TensorProto:
    """Codes of a constant; those of a float16 or bfloat16 one need no parameters."""
    grid, values = grids.weight(site), constants[site.name]
    low, high = code_bounds(grid, grids.config)
    if params is None:
        codes = np.clip(values.astype(np.float32), float(low), float(high)).astype(grid.type.numpy)
    else:
        codes = quantize(values, params, grid.type)
        if (low, high) != (grid.type.qmin, grid.type.qmax):
            np.clip(codes, low, high, out=codes)
    return code_tensor(codes, grid.type, quantized_name(site.name))


def code_bounds(grid: Grid, config: QuantConfig) -> tuple[int, int]:
    """Where codes of a constant saturate: scales of least error clip to a reduced range where there is one."""
    if _least_error_rule(grid, config) is mse_weight_params:
        return weight_bounds(grid)
    return grid.type.qmin, grid.type.qmax


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
