from __future__ import annotations

import contextlib
import io
from itertools import pairwise

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, HistogramCollector

from quant import ExtraOptions, LayerWiseMethod, PowerOfTwoMethod
from quant.calibration.entropy import entropy_range, rebin
from quant.calibration.percentile import layer_wise_percentile, percentile_range
from quant.calibration.ranges import calibrated_range, moving_average, needs_histogram
from tests.quant.calibration.test_statistics import of
from tests.quant.graphs import Array, floats


def _relu(seed: int) -> Array:
    return np.maximum(floats(4000, seed=seed), 0)


def _heavy(seed: int) -> Array:
    return (np.random.default_rng(seed).standard_t(3, size=4000)).astype(np.float32)


BATCHES: dict[str, list[Array]] = {
    "normal": [floats(4000, seed=seed) for seed in range(3)],
    "growing": [floats(4000, seed=seed) * 2.0**seed for seed in range(3)],
    "relu": [_relu(seed) for seed in range(3)],
    "shifted": [floats(4000, seed=seed) + 3 for seed in range(3)],
    "negative": [-np.abs(floats(4000, seed=seed)) for seed in range(2)],
    "heavy tails": [_heavy(seed) for seed in range(3)],
    "one batch": [floats(5000)],
}


def onnxruntime_range(
    batches: list[Array], method: str, bins: int, percentile: float = 99.99, symmetric: bool = False
) -> tuple[float, float, float]:
    """Range and bin width that onnxruntime's collector finds."""
    collector = HistogramCollector(method, symmetric, bins, 128, percentile, None)
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in batches:
            collector.collect({"x": batch})
        low, high, *_ = collector.compute_collection_result()["x"]
    edges = collector.histogram_dict["x"][1]
    return float(low), float(high), float(edges[1] - edges[0])


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
def test_percentiles_are_onnxruntimes_within_a_bin(name: str, symmetric: bool, percentile: float) -> None:
    batches = BATCHES[name]
    low, high, width = onnxruntime_range(batches, "percentile", 2048, percentile, symmetric)
    statistics = of(*batches)
    assert statistics.histogram is not None
    # each histogram rounds down to an edge of its own; far out, bins may be empty
    values = np.sort(np.concatenate(batches))
    step = width + statistics.histogram.width + _gap(values, percentile, symmetric)
    got = percentile_range(statistics, percentile, symmetric)
    assert abs(got[0] - low) <= step and abs(got[1] - high) <= step
    assert got[0] >= values[0] and got[1] <= values[-1]


def _gap(values: Array, percentile: float, symmetric: bool) -> float:
    """Distance between neighbours where the percentile falls."""
    ordered = np.sort(np.abs(values)) if symmetric else values
    cut = (100 - percentile) / (100 if symmetric else 200)
    places = (int(cut * values.size), int((1 - cut) * values.size))
    around = [ordered[max(0, place - 2) : place + 3] for place in places]
    return float(max(np.ptp(near) for near in around))


def test_all_of_the_values_is_the_extremes() -> None:
    statistics = of(*BATCHES["normal"])
    for symmetric in (True, False):
        assert percentile_range(statistics, 100, symmetric) == (statistics.low, statistics.high)


@pytest.mark.parametrize("name", BATCHES)
def test_percentile_ranges_grow_with_the_percentage(name: str) -> None:
    statistics = of(*BATCHES[name])
    ranges = [percentile_range(statistics, p, False) for p in (60, 80, 95, 99, 99.9, 100)]
    for inner, outer in pairwise(ranges):
        assert inner[0] >= outer[0] and inner[1] <= outer[1]


@pytest.mark.parametrize("name", BATCHES)
def test_entropy_is_onnxruntimes_within_a_bin(name: str) -> None:
    batches = BATCHES[name]
    low, high, width = onnxruntime_range(batches, "entropy", 128)
    got = entropy_range(of(*batches))
    assert abs(got[0] - low) <= width * 1.001 and abs(got[1] - high) <= width * 1.001


def test_entropy_of_a_tensor_that_is_zero() -> None:
    assert entropy_range(of(np.zeros(10, np.float32))) == (0, 0)


def test_entropy_with_a_first_batch_that_is_nearly_zero() -> None:
    low, high = entropy_range(of(np.full(5, 1e-6, np.float32), floats(1000)))
    assert -5 < low < -1 and 1 < high < 5


def test_rebinning_keeps_totals_and_matches_exact_edges() -> None:
    statistics = of(floats(10_000))
    assert statistics.histogram is not None
    width = 64 * statistics.histogram.width
    counts = rebin(statistics.histogram, width, 32)
    wanted = np.histogram(floats(10_000), bins=np.arange(-32, 33) * width)[0]
    np.testing.assert_array_equal(counts, wanted)


@pytest.mark.parametrize("metric", ["mae", "mse"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("levels", "grid_symmetric"), [(3, False), (14, True), (15, True), (15, False), (255, False)]
)
@pytest.mark.parametrize("name", ["normal", "heavy tails", "relu", "shifted", "growing"])
def test_layer_wise_percentile_is_the_best_candidate(
    name: str, levels: int, grid_symmetric: bool, symmetric: bool, metric: str
) -> None:
    batches, candidates = BATCHES[name], (90.0, 95.0, 99.0, 99.9, 100.0)
    values = np.concatenate(batches).astype(np.float64)
    statistics = of(*batches)

    def error(percentile: float) -> float:
        low, high = (float(bound) for bound in percentile_range(statistics, percentile, symmetric))
        low, high = min(low, 0), max(high, 0)
        if grid_symmetric:
            low, high = min(low, -high), max(high, -low)
        step = (high - low) / levels
        zero = round(levels / 2) if grid_symmetric else np.rint(-low / step)
        rounded = np.clip(np.rint(values / step), -zero, levels - zero) * step
        return float(np.mean(np.abs(values - rounded) ** (1 if metric == "mae" else 2)))

    chosen = layer_wise_percentile(
        statistics,
        candidates,
        metric,  # type: ignore[arg-type]
        symmetric,
        levels,
        symmetric_grid=grid_symmetric,
    )
    errors = {percentile_range(statistics, p, symmetric): error(p) for p in candidates}
    assert errors[chosen] <= min(errors.values()) * 1.02  # bin centres stand for the values


def test_moving_average_starts_at_the_first_batch() -> None:
    batches = [floats(100, seed=seed) * (seed + 1) for seed in range(4)]
    state = np.array([batches[0].min(), batches[0].max()], np.float64)
    for batch in batches[1:]:
        state = 0.9 * state + 0.1 * np.array([batch.min(), batch.max()])
    np.testing.assert_allclose(moving_average(of(*batches, histograms=False), 0.1), state, rtol=1e-6)
    assert moving_average(of(*batches), 1) == (batches[-1].min(), batches[-1].max())
    assert moving_average(of(*batches), 0) == (batches[0].min(), batches[0].max())


def test_symmetric_ranges_cover_the_larger_side() -> None:
    statistics = of(np.array([-1, 3], np.float32))
    options = ExtraOptions(CalibTensorRangeSymmetric=True)
    assert calibrated_range(statistics, CalibrationMethod.MinMax, options, 255) == (-3, 3)
    assert calibrated_range(statistics, CalibrationMethod.MinMax, ExtraOptions(), 255) == (-1, 3)


def test_percentiles_of_magnitudes_unless_switched_off() -> None:
    statistics = of(*BATCHES["shifted"])
    for wanted, symmetric in ((None, True), (True, True), (False, False)):
        options = ExtraOptions(Percentile=99, CalibTensorRangeSymmetric=wanted)
        got = calibrated_range(statistics, CalibrationMethod.Percentile, options, 255)
        assert got == percentile_range(statistics, 99, symmetric)


@pytest.mark.parametrize(
    "method",
    [
        CalibrationMethod.MinMax,
        CalibrationMethod.Percentile,
        CalibrationMethod.Entropy,
        CalibrationMethod.Distribution,
        *PowerOfTwoMethod,
        *LayerWiseMethod,
    ],
)
def test_every_method_stays_within_the_extremes(method: CalibrationMethod) -> None:
    for batches in BATCHES.values():
        statistics = of(*batches, histograms=needs_histogram(method))
        low, high = calibrated_range(statistics, method, ExtraOptions(), 255)
        assert statistics.low <= low <= high <= statistics.high
        assert low.dtype == high.dtype == np.float32
