"""From statistics to the range of every tensor: the calibration methods by name.

Each rule is a function of one tensor's statistics; the rules that need a histogram stand in files
of their own.
"""

from __future__ import annotations

import numpy as np

from quant.calibration.distribution import distribution_range
from quant.calibration.entropy import entropy_range
from quant.calibration.mse import mse_range
from quant.calibration.percentile import layer_wise_percentile, percentile_range
from quant.calibration.statistics import TensorStatistics
from quant.config import ExtraOptions
from quant.types import CalibrateMethod, CalibrationMethod, LayerWiseMethod, PowerOfTwoMethod

Range = tuple[np.float32, np.float32]

_WITHOUT_HISTOGRAM = (CalibrationMethod.MinMax, PowerOfTwoMethod.NonOverflow)


def needs_histogram(method: CalibrateMethod) -> bool:
    """Whether a method reads more than the extremes."""
    return method not in _WITHOUT_HISTOGRAM


def calibrated_range(
    statistics: TensorStatistics, method: CalibrateMethod, options: ExtraOptions, levels: int
) -> Range:
    """Least and greatest real number that a tensor's grid should cover.

    Args:
        statistics: Of the tensor.
        method: Calibration method; MinMSE's search is in `power_of_two`, here it has the extremes.
        options: Their parameters.
        levels: Steps of the grid, for rules that simulate it.
    """
    match method:
        case CalibrationMethod.Percentile:
            return percentile_range(statistics, options.Percentile, symmetric_percentile(options))
        case LayerWiseMethod.LayerWisePercentile:
            return layer_wise_percentile(
                statistics,
                options.PercentileCandidates,
                options.LWPMetric,
                symmetric_percentile(options),
                levels,
                symmetric_grid=options.ActivationSymmetric,
            )
        case LayerWiseMethod.MSE:
            symmetric = options.ActivationSymmetric or bool(options.CalibTensorRangeSymmetric)
            return mse_range(statistics, symmetric, levels)
        case CalibrationMethod.Entropy:
            return entropy_range(statistics)
        case CalibrationMethod.Distribution:
            low, high = distribution_range(statistics, options.DistributionDeviations)
        case CalibrationMethod.MinMax if options.CalibMovingAverage:
            low, high = moving_average(statistics, options.CalibMovingAverageConstant)
        case _:
            low, high = statistics.low, statistics.high
    if options.CalibTensorRangeSymmetric:
        largest = max(abs(low), abs(high))
        return np.float32(-largest), np.float32(largest)
    return low, high


def symmetric_percentile(options: ExtraOptions) -> bool:
    """Percentiles are of |x| unless that is switched off, as in onnxruntime."""
    return options.CalibTensorRangeSymmetric is not False


def moving_average(statistics: TensorStatistics, constant: float) -> Range:
    """Exponential moving average of the batches' extremes, starting at the first batch.

        a_1 = x_1,    a_t = a_(t-1) + constant (x_t - a_(t-1))

    (Jacob et al., 2018, arXiv:1712.05877, section 3.1.)
    """

    def average(extremes: np.ndarray) -> np.float32:
        if not extremes.size:
            return np.float32(0)
        state = float(extremes[0])
        for extreme in extremes[1:]:
            state += constant * (float(extreme) - state)
        return np.float32(state)

    return average(statistics.batch_min), average(statistics.batch_max)
