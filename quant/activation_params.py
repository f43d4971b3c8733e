"""Scales and zero points of activations, from their statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from quant.calibration.distribution import float8_params, moments
from quant.calibration.power_of_two import min_mse_params
from quant.calibration.ranges import Range, calibrated_range
from quant.calibration.statistics import TensorStatistics
from quant.config import QuantConfig, TensorOverride
from quant.graph.insert import converted_name
from quant.graph.placement import Placement
from quant.grids import Grids, fixed_params, overridden_range
from quant.qparams import Grid, QuantParams, quant_params
from quant.types import CalibrationMethod, Encoding, PowerOfTwoMethod

_NO_OVERRIDE = TensorOverride()


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
            own = format_params(source, statistics, known, grid.within(real), override, config=grids.config)
            params[base] = own.cast(real)
    return params


def format_params(
    source: str | tuple[float, float],
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, Range],
    grid: Grid,
    override: TensorOverride = _NO_OVERRIDE,
    *,
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
        return float8_params(np.asarray(moments(statistics[source])[1]), grid)
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
