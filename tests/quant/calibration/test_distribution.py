from __future__ import annotations

import contextlib
import io

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.quant_utils import compute_scale_zp_float8

from quant.calibration.distribution import (
    distribution_range,
    float8_scale,
    moments,
)
from tests.quant.calibration.test_ranges import BATCHES
from tests.quant.calibration.test_statistics import of
from tests.quant.graphs import Array

CODES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
REPRESENTABLE = CODES[np.isfinite(CODES)]


def onnxruntime_moments(batches: list[Array], scenario: str) -> tuple[np.float32, np.float32]:
    collector = HistogramCollector("distribution", False, 2048, 128, None, scenario)
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in batches:
            collector.collect({"x": batch})
        data = collector.compute_collection_result()["x"]
    mean, std = data.avg_std
    return mean, std


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("scenario", ["same", "p3"])
def test_moments_are_onnxruntimes_within_a_bin(name: str, scenario: str) -> None:
    batches = BATCHES[name]
    mean, std = onnxruntime_moments(batches, scenario)
    largest = max(float(np.abs(batch).max()) for batch in batches)
    # half a bin of either histogram; a cube root is steepest at zero, and turns it into as much there
    zero_share = np.mean(np.concatenate(batches) == 0) if scenario == "p3" else 0
    half_bin = largest / 1024
    step = half_bin if scenario == "same" else 0.02 * largest ** (1 / 3) + zero_share * half_bin ** (1 / 3)
    got = moments(of(*batches), scenario)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, (mean, std), rtol=1e-3, atol=step)


@pytest.mark.parametrize("name", BATCHES)
def test_moments_are_those_of_the_values(name: str) -> None:
    values = np.concatenate(BATCHES[name]).astype(np.float64)
    statistics = of(*BATCHES[name])
    assert statistics.histogram is not None
    mean, std = moments(statistics)
    np.testing.assert_allclose(mean, values.mean(), rtol=0, atol=statistics.histogram.width)
    np.testing.assert_allclose(std, values.std(), rtol=0, atol=statistics.histogram.width)


@pytest.mark.parametrize("name", BATCHES)
def test_float8_scales_are_onnxruntimes(name: str) -> None:
    _, std = onnxruntime_moments(BATCHES[name], "same")
    _, wanted = compute_scale_zp_float8(TensorProto.FLOAT8E4M3FN, std)
    got = float8_scale(moments(of(*BATCHES[name]))[1], REPRESENTABLE)
    np.testing.assert_allclose(got, wanted, rtol=2e-3)
    assert got.dtype == np.float32


def test_float8_scale_of_a_constant_is_one() -> None:
    assert float8_scale(0.0, REPRESENTABLE) == 1
    assert float8_scale(1e-60, REPRESENTABLE) == 1


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("deviations", [0.5, 3.0, 1000.0])
def test_ranges_are_about_the_mean_and_within_the_extremes(name: str, deviations: float) -> None:
    statistics = of(*BATCHES[name])
    mean, std = moments(statistics)
    low, high = distribution_range(statistics, deviations)
    assert low == max(np.float32(mean - deviations * std), statistics.low)
    assert high == min(np.float32(mean + deviations * std), statistics.high)
    if deviations == 1000:
        assert (low, high) == (statistics.low, statistics.high)


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-30])
def test_a_constant_tensor_has_its_value(value: float) -> None:
    statistics = of(np.full(7, value, np.float32))
    assert moments(statistics) == (np.float32(value), 0)
    assert distribution_range(statistics, 8) == (np.float32(value), np.float32(value))


def test_a_tensor_without_values_is_zero() -> None:
    assert distribution_range(of(), 8) == (0, 0)
