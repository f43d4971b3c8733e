from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant.calibration.collect import Accumulator, extremes
from quant.calibration.statistics import (
    TensorStatistics,
    decode_statistics,
    encode_statistics,
    merge_statistics,
)
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


values = arrays(
    np.float32, st.integers(0, 20), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)
passes = st.lists(values, max_size=4)


@given(passes, passes, passes, st.booleans())
@settings(max_examples=150, deadline=None)
def test_merged_passes_are_one_pass(a: list[Array], b: list[Array], c: list[Array], counted: bool) -> None:
    x, y, z = (of(*batches, histograms=counted) for batches in (a, b, c))
    whole = of(*a, *b, *c, histograms=counted)
    assert_same(x.merge(y).merge(z), whole)
    assert_same(x.merge(y.merge(z)), whole)


def test_statistics_of_models_merge_by_name() -> None:
    first, then = {"a": of(floats(9)), "b": of()}, {"b": of(floats(3)), "a": of(floats(5, seed=1))}
    merged = merge_statistics(first, then)
    assert list(merged) == ["a", "b"]
    assert_same(merged["a"], of(floats(9), floats(5, seed=1)))
    assert_same(merged["b"], of(floats(3)))


def test_statistics_of_other_tensors_are_not_merged() -> None:
    with pytest.raises(ValueError, match="tensor 'b': statistics in one pass only"):
        merge_statistics({"a": of(floats(9)), "b": of()}, {"a": of(floats(9))})
    with pytest.raises(ValueError, match="tensor 'a': a histogram in one pass only"):
        merge_statistics({"a": of(floats(9))}, {"a": of(floats(9), histograms=False)})


@pytest.mark.parametrize("sizes", [[1] * 40_000, [5, 20_000, 3, 40_000, 1], [0, 7, 0]])
def test_small_batches_are_counted_with_the_others(sizes: list[int]) -> None:
    """Their values wait until there are enough: all are in the histogram, in whatever memory they came."""
    everything = floats(sum(sizes)) * np.linspace(0.01, 9, sum(sizes), dtype=np.float32)
    accumulator, memory, start = Accumulator("x", True), np.empty(40_000, np.float32), 0
    for size in sizes:
        memory[:size] = everything[start : start + size]
        accumulator.add(memory[:size])
        memory[:] = np.nan
        start += size
    found = accumulator.result()
    assert found.histogram is not None
    np.testing.assert_array_equal(
        found.histogram.counts, np.histogram(everything, bins=found.histogram.edges)[0]
    )
    assert found.batch_min.size == np.count_nonzero(sizes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types_are_taken(dtype: Any) -> None:
    values = floats(200).astype(dtype)
    assert_same(of(values), of(values.astype(np.float32)))


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(DataError, match="tensor 'x': NaN or infinite"):
        of(np.array([1e300]))


@pytest.mark.parametrize("shape", [(), (300, 1000), (3, 100_001)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_extremes_are_numpys(shape: tuple[int, ...], value: float) -> None:
    values = np.asarray(floats(*shape), np.float32)
    for array in (values, values.T):
        assert extremes(array) == (values.min(), values.max())
    values = values.copy()
    values[(...,) if not shape else (-1,) * len(shape)] = value
    np.testing.assert_array_equal(extremes(values), (values.min(), values.max()))


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
