"""Scales for the formats that need a range: from statistics, or from a constant's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.activation_params import format_params
from quant.calibration.ranges import calibrated_range
from quant.calibration.statistics import TensorStatistics
from quant.config import QuantConfig
from quant.constant_params import derived_params
from quant.formats import Format
from quant.formats.affine import BLOCK, CHANNEL, Affine
from quant.graph.placement import Weight
from quant.layers.arrangement import Arrangement
from quant.qparams import Grid, QuantParams
from quant.types import PowerOfTwoMethod

_LEVELS = 255
"""Steps that methods which simulate a grid assume for formats that are none of ONNX's types."""


def bind_activation(
    own: Format, tensor: str, statistics: Mapping[str, TensorStatistics], config: QuantConfig
) -> Format:
    """A format of an activation with its scale, by the configuration's calibration method.

    Args:
        own: The format.
        tensor: Its name.
        statistics: Of it, if the format needs a range.
        config: How ranges follow from statistics.
    """
    if not own.calibrated:
        return own
    if not isinstance(own, Affine):
        low, high = calibrated_range(
            statistics[tensor], config.calibrate_method, config.extra_options, _LEVELS
        )
        return own.bound(np.asarray(low), np.asarray(high))
    options = config.extra_options.replace(ActivationSymmetric=own.symmetric)
    config = config.replace(layers=None, extra_options=options)
    return _with_params(own, format_params(tensor, statistics, {}, _grid(own, config), config=config))


def bind_constant(own: Format, values: NDArray[Any], arrangement: Arrangement, config: QuantConfig) -> Format:
    """A format of a weight or bias with its scales, by the configuration's rule for weights.

    Args:
        own: The format.
        values: The constant as it is stored.
        arrangement: How formats see it.
        config: How ranges of weights are found.
    """
    if not own.calibrated:
        return own
    arranged = np.asarray(arrangement.arrange(values), np.float32)
    if not isinstance(own, Affine):
        return own.fit(arranged)
    axis = {CHANNEL: 0, BLOCK: arranged.ndim - 1}.get(own.granularity)
    site = Weight("", axis, True, own.block_size or None)
    params = derived_params(site, arranged, _grid(own, config), config)
    return _with_params(own, params)


def _grid(own: Affine, config: QuantConfig) -> Grid:
    power_of_two = isinstance(config.calibrate_method, PowerOfTwoMethod)
    return Grid(
        own.element,
        own.symmetric,
        power_of_two=power_of_two,
        minimum_real_range=config.extra_options.MinimumRealRange,
    )


def _with_params(own: Affine, params: QuantParams) -> Format:
    """The format with these parameters; as formats count axes, blocks lie along the last."""
    if params.block_size is not None:
        params = replace(params, axis=-1)
    empty = np.zeros((), np.float32)
    return replace(own.bound(empty, empty), params=params)  # type: ignore[type-var]
