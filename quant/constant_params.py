"""Scales, zero points and codes of constants, from their own values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.calibration.distribution import float8_params
from quant.calibration.mse import mse_weight_params, weight_bounds
from quant.calibration.power_of_two import min_mse_weight_params
from quant.config import QuantConfig
from quant.errors import ConfigError
from quant.graph.insert import quantized_name
from quant.graph.placement import Placement, Weight
from quant.grids import Grids, fixed_params, overridden_range
from quant.qparams import (
    Grid,
    QuantParams,
    quant_params,
    quantize,
    weight_extremes,
    weight_params,
)
from quant.types import CalibrationMethod, ElementType, Encoding, PowerOfTwoMethod

Constants = Mapping[str, NDArray[Any]]
"""Float initializers by name."""


class Initializers(dict[str, NDArray[Any]]):
    """Initializers by name, as arrays, each read when it is first asked for."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self._initializers = model.graph.initializers

    def __missing__(self, name: str) -> NDArray[Any]:
        tensor = self._initializers[name].const_value
        assert tensor is not None
        array: NDArray[Any] = tensor.numpy()
        self[name] = array
        return array


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
        return derived_params(site, values, grid, grids.config)
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


def derived_params(site: Weight, values: NDArray[Any], grid: Grid, config: QuantConfig) -> QuantParams:
    """Parameters of a constant by the configuration's rule: its extremes, or the least squared error."""
    if grid.type.encoding is Encoding.FLOAT8 and config.calibrate_method is CalibrationMethod.Distribution:
        others = None if site.axis is None else tuple(i for i in range(values.ndim) if i != site.axis)
        if site.block_size is None:
            return float8_params(values.std(axis=others), grid, site.axis)
    rule = _least_error_rule(grid, config)
    if rule is None:
        return weight_params(values, grid, site.axis, site.block_size)
    return rule(values, grid, site.axis) if site.block_size is None else _in_blocks(site, values, grid, rule)


def _least_error_rule(grid: Grid, config: QuantConfig) -> WeightRule | None:
    """The search for the scale of a constant, if one is asked for; float8 has none."""
    wanted = config.extra_options.WeightCalibrateMethod == "MSE"
    wanted |= config.calibrate_method is PowerOfTwoMethod.MinMSE
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
    """Where codes of a constant saturate; scales of least error clip to a reduced range, if there is one."""
    if _least_error_rule(grid, config) is mse_weight_params:
        return weight_bounds(grid)
    return grid.type.qmin, grid.type.qmax


def code_tensor(codes: NDArray[Any], element: ElementType, name: str) -> onnx.TensorProto:
    """Codes as ONNX stores them: types below 8 bits are packed."""
    return onnx.numpy_helper.from_array(codes.astype(element.ir.numpy(), copy=False), name)
