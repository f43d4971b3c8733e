"""The built-in distances of a candidate's outputs from the float model's, as formulas of sums.

For one output, x the float model's values, y the candidate's, n their number over *all* batches,
R = max(x) - min(x):

    L1       mean |x - y|
    L2       mean (x - y)^2
    cos      x.y / (|x| |y|), over the whole output flattened; 1 if both are zero, 0 if one is
    psnr     10 log10(R^2 / L2), in dB
    ssim     mean structural similarity with range R, see `evaluators.ssim`
    sqnr     10 log10(|x|^2 / |x - y|^2), in dB
    max_abs  max |x - y|

Over several outputs: the mean of each output's value; the largest for max_abs. In decibels the mean
is taken of the noise-to-signal ratios, before the logarithm, so that one output without any error
does not make the value infinite and hide the others.

psnr and sqnr of equal outputs are +inf; they are -inf where the candidate differs from a float
output that is constant (psnr) or zero (sqnr). Everything is computed and summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evaluators.errors import EvaluatorInputError
from evaluators.metric import Direction, Metric, hint

Block = NDArray[np.float64]


@dataclass(frozen=True)
class BlockSum:
    """A statistic that is gathered block by block.

    Attributes:
        of_block: x, y and x - y, each (elements,) float64 -> the statistic of the block.
        merge: The statistics of two sets of elements -> that of both.
    """

    of_block: Callable[[Block, Block, Block], float]
    merge: Callable[[float, float], float] = lambda a, b: a + b


BLOCK_SUMS: Mapping[str, BlockSum] = MappingProxyType(
    {
        "absolute_error": BlockSum(lambda x, y, error: float(np.abs(error).sum())),
        "squared_error": BlockSum(lambda x, y, error: float(error @ error)),
        "largest_error": BlockSum(lambda x, y, error: float(np.abs(error).max()), max),
        "float_energy": BlockSum(lambda x, y, error: float(x @ x)),
        "energy": BlockSum(lambda x, y, error: float(y @ y)),
        "product": BlockSum(lambda x, y, error: float(x @ y)),
    }
)

# One output's sums by name; besides those of BLOCK_SUMS "count" (n), "range" (R) and "ssim".
Statistics = Mapping[str, float]


@dataclass(frozen=True)
class Distance:
    """A metric's row in the registry: what it gathers of each output, and what it makes of that.

    Attributes:
        metric: Name, unit and direction.
        statistics: Names of the statistics it needs, besides "count" and "range".
        of_output: The statistics of one output -> that output's term.
        over_outputs: The terms of all outputs, at least one -> the metric's value.
    """

    metric: Metric
    statistics: tuple[str, ...]
    of_output: Callable[[Statistics], float]
    over_outputs: Callable[[Sequence[float]], float]


def distance_metric(name: str) -> Metric:
    """The built-in metric of a name, in upper or lower case.

    Raises:
        EvaluatorInputError: If there is none; the message has the nearest name.
    """
    by_lower_case = {known.lower(): row.metric for known, row in DISTANCES.items()}
    metric = by_lower_case.get(str(name).lower())
    if metric is None:
        raise EvaluatorInputError(f"unknown metric {name!r}; {hint(str(name), DISTANCES)}")
    return metric


def _cosine(statistics: Statistics) -> float:
    """x.y / |x|^2 times |x| / |y|, which is 1 to the last bit for equal x and y, within [-1, 1]."""
    float_energy, energy = statistics["float_energy"], statistics["energy"]
    if not (float_energy and energy):
        return 1.0 if float_energy == energy else 0.0
    cosine = statistics["product"] / float_energy * math.sqrt(float_energy / energy)
    return min(1.0, max(-1.0, cosine))


def _psnr_noise_ratio(statistics: Statistics) -> float:
    """L2 / R^2."""
    return _ratio(statistics["squared_error"] / statistics["count"], statistics["range"] ** 2)


def _sqnr_noise_ratio(statistics: Statistics) -> float:
    """|x - y|^2 / |x|^2."""
    return _ratio(statistics["squared_error"], statistics["float_energy"])


def _ratio(noise: float, signal: float) -> float:
    """Noise / signal; without noise 0 whatever the signal, with noise but no signal infinite."""
    if noise == 0:
        return 0.0
    return noise / signal if signal else math.inf


def _mean(terms: Sequence[float]) -> float:
    return math.fsum(terms) / len(terms)


def _mean_in_decibels(noise_ratios: Sequence[float]) -> float:
    """-10 log10 of the mean noise-to-signal ratio."""
    ratio = _mean(noise_ratios)
    return -10 * math.log10(ratio) if ratio else math.inf


def _against_float(name: str, unit: str, direction: Direction) -> Metric:
    return Metric(name, unit, direction, against_float=True)


_ROWS = (
    Distance(
        _against_float("L1", "", "minimize"),
        ("absolute_error",),
        lambda s: s["absolute_error"] / s["count"],
        _mean,
    ),
    Distance(
        _against_float("L2", "", "minimize"),
        ("squared_error",),
        lambda s: s["squared_error"] / s["count"],
        _mean,
    ),
    Distance(
        _against_float("cos", "", "maximize"),
        ("float_energy", "energy", "product"),
        _cosine,
        _mean,
    ),
    Distance(
        _against_float("psnr", "dB", "maximize"),
        ("squared_error",),
        _psnr_noise_ratio,
        _mean_in_decibels,
    ),
    Distance(_against_float("ssim", "", "maximize"), ("ssim",), lambda s: s["ssim"], _mean),
    Distance(
        _against_float("sqnr", "dB", "maximize"),
        ("squared_error", "float_energy"),
        _sqnr_noise_ratio,
        _mean_in_decibels,
    ),
    Distance(
        _against_float("max_abs", "", "minimize"),
        ("largest_error",),
        lambda s: s["largest_error"],
        max,
    ),
)

DISTANCES: Mapping[str, Distance] = MappingProxyType({row.metric.name: row for row in _ROWS})
"""Every built-in metric, by its name."""
