"""Ratio of signal to quantization noise of single tensors, without running a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.calibration.histogram import Histogram
from quant.qparams import QuantParams, dequantize, quantize
from quant.types import ElementType


def histogram_sqnr_db(histogram: Histogram, params: QuantParams, element: ElementType) -> float:
    """Of an activation: 10 log10(sum x^2 / sum (x - round(x))^2) over the values that were counted.

    Values stand at the centre of their bin, and those of bins narrower than a step as spread over it, which
    adds width^2 / 12 to the mean squared error.

    Returns:
        Decibels; infinite for a tensor that is always zero.
    """
    used = np.flatnonzero(histogram.counts)
    counts, centers = histogram.counts[used], histogram.centers[used]
    rounded = dequantize(quantize(centers.astype(np.float32), params, element), params)
    within = histogram.width**2 / 12 if histogram.width < float(params.scale) else 0.0
    noise = float(counts @ ((centers - rounded) ** 2 + within))
    return _decibels(float(counts @ centers**2), noise)


def constant_sqnr_db(values: NDArray[Any], rounded: NDArray[Any]) -> float:
    """Of a constant, from its values before and after, of one shape."""
    signal = values.astype(np.float64)
    return _decibels(float(np.sum(signal**2)), float(np.sum((signal - rounded) ** 2)))


def _decibels(signal: float, noise: float) -> float:
    if signal <= 0 or noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise)
