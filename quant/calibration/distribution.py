"""Ranges and float8 scales from the mean and the standard deviation of a tensor's values."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quant.calibration.statistics import TensorStatistics
from quant.qparams import Grid, QuantParams

Range = tuple[np.float32, np.float32]
Scenario = Literal["same", "p3"]

_POWERS: dict[Scenario, float] = {"same": 1.0, "p3": 1.0 / 3.0}


def moments(statistics: TensorStatistics, scenario: Scenario = "same") -> tuple[float, float]:
    """Mean and standard deviation (dividing by n) of the values, by their histogram; 0, 0 without values.

        x_i = |c_i|^p sign(c_i),    mean = sum n_i x_i / n,    std = sqrt(sum n_i (x_i - mean)^2 / n)

    over bin centres c_i (clipped to the extremes) and their counts n_i, as onnxruntime computes
    `avg` and `std` for `CalibrationMethod.Distribution`.

    Args:
        statistics: With a histogram.
        scenario: ``"same"``: p = 1; ``"p3"``: p = 1/3, for values that are cubes of Gaussian ones.
    """
    histogram = statistics.histogram
    if histogram is None or not histogram.total:
        return 0.0, 0.0
    used = np.flatnonzero(histogram.counts)
    counts = histogram.counts[used]
    centers = np.clip(histogram.centers[used], statistics.low, statistics.high)
    values = np.abs(centers) ** _POWERS[scenario] * np.sign(centers)
    mean = float((counts * values).sum() / histogram.total)
    variance = float((counts * (values - mean) ** 2).sum() / histogram.total)
    return mean, math.sqrt(variance)


def distribution_range(statistics: TensorStatistics, deviations: float) -> Range:
    """[mean - k std, mean + k std], never beyond the extremes.

    onnxruntime computes mean and deviation for float8 types alone: with integer types, its Distribution
    takes plus and minus the largest magnitude, which here is MinMax with `CalibTensorRangeSymmetric`.

    Args:
        statistics: With a histogram.
        deviations: k.
    """
    mean, std = moments(statistics)
    low, high = np.clip((mean - deviations * std, mean + deviations * std), statistics.low, statistics.high)
    return np.float32(low), np.float32(high)


def float8_scale(std: float, representable: NDArray[np.floating]) -> np.float32:
    """The scale that gives a tensor the standard deviation of a float8 type's own numbers.

        scale = std(tensor) / std(representable)

    (onnxruntime's `compute_scale_zp_float8`.) Where that is no normal float32 number, for a constant
    tensor for example, the scale is 1.

    Args:
        std: Of an activation, by `moments`, or of a weight's values.
        representable: The type's finite numbers, a value for each code: +0 and -0 both count.
    """
    scale = np.float32(std / float(np.std(representable.astype(np.float64))))
    return scale if np.finfo(np.float32).tiny <= scale < np.inf else np.float32(1)


def float8_params(deviation: NDArray[Any], grid: Grid, axis: int | None = None) -> QuantParams:
    """Parameters of `float8_scale` for one deviation, shape (), or that of each channel, (channels,)."""
    codes = np.arange(256, dtype=np.uint8).view(grid.type.numpy).astype(np.float32)
    numbers = codes[np.isfinite(codes)]
    scale = np.array([float8_scale(float(one), numbers) for one in deviation.flat], np.float32)
    scale = scale.reshape(deviation.shape)
    return QuantParams(scale, np.zeros(scale.shape, grid.type.numpy), axis)
