from __future__ import annotations

import numpy as np
import pytest

from quant.calibration.collect import Accumulator
from quant.calibration.statistics import TensorStatistics, decode_statistics, encode_statistics
from quant.errors import DataError
from tests.quant.graphs import Array, floats


def of(*batches: Array, histograms: bool = True) -> TensorStatistics:
    """Statistics of a tensor that took these values."""
    accumulator = Accumulator("x", histograms)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.result()


def assert_same(one: TensorStatistics, other: TensorStatistics) -> None:
    np.testing.assert_array_equal(one.batch_min, other.batch_min)
    np.testing.assert_array_equal(one.batch_max, other.batch_max)
    assert (one.histogram is None) == (other.histogram is None)
    if one.histogram is not None and other.histogram is not None:
        assert one.histogram.exponent == other.histogram.exponent
        np.testing.assert_array_equal(one.histogram.counts, other.histogram.counts)


def test_extremes_of_all_batches() -> None:
    found = of(floats(10), floats(20, seed=1) * 3, np.empty((0, 4), np.float32))
    everything = np.concatenate([floats(10), floats(20, seed=1) * 3])
    assert (found.low, found.high) == (everything.min(), everything.max())
    assert found.batch_min.shape == (2,)
    assert found.histogram is not None and found.histogram.total == 30


def test_a_tensor_that_was_always_empty() -> None:
    empty = TensorStatistics(np.empty(0, np.float32), np.empty(0, np.float32))
    assert (empty.low, empty.high) == (0, 0)


def test_merging_is_associative() -> None:
    a, b, c = (of(floats(30, seed=seed) * 10**seed) for seed in range(3))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert a.merge(of(floats(3), histograms=False)).histogram is None


@pytest.mark.parametrize("histograms", [True, False])
def test_survives_encoding(histograms: bool) -> None:
    statistics = {
        "a/b:0": of(floats(100), floats(50, seed=1), histograms=histograms),
        "größe": of(np.zeros(3, np.float32), histograms=histograms),
        "": of(np.array([1e-45, 3e38], np.float32), histograms=histograms),
    }
    decoded = decode_statistics(encode_statistics(statistics))
    assert list(decoded) == list(statistics)
    for name in statistics:
        assert_same(decoded[name], statistics[name])
    assert decode_statistics(encode_statistics({})) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="tensor 'conv': NaN or infinite"):
        Accumulator("conv", True).add(np.array([1, value, 2], np.float32))
