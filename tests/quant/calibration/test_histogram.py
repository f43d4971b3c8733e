from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant.calibration.histogram import HALF_BINS, Histogram, histogram
from tests.quant.graphs import Array


def _magnitudes(low: float, high: float) -> st.SearchStrategy[float]:
    positive = st.floats(np.float32(low), np.float32(high), width=32)
    return st.just(0.0) | positive | positive.map(lambda value: -value)


# two ranges of magnitude: across both, a value can vanish beside the width of a bin
samples = arrays(np.float32, st.integers(1, 60), elements=_magnitudes(2.0**-30, 3.4e38)) | arrays(
    np.float32, st.integers(1, 60), elements=_magnitudes(1e-45, 2.0**-20)
)
moderate = arrays(np.float32, st.integers(1, 60), elements=_magnitudes(2.0**-30, 2.0**60))


def count(values: Array) -> Histogram:
    return histogram(values, float(np.abs(values).max()))


def same(one: Histogram, other: Histogram) -> bool:
    return one.exponent == other.exponent and np.array_equal(one.counts, other.counts)


@given(samples)
@settings(max_examples=200, deadline=None)
def test_counts_are_those_of_numpy_with_the_same_edges(values: Array) -> None:
    found = count(values)
    exact = values.astype(np.float64)
    wanted = np.histogram(exact, bins=found.edges)[0]
    np.testing.assert_array_equal(found.counts, wanted)
    assert found.total == values.size


@given(samples)
@settings(max_examples=100, deadline=None)
def test_the_greatest_magnitude_lies_in_the_outer_half(values: Array) -> None:
    found = count(values)
    largest = float(np.abs(values).max())
    assert largest <= found.edges[-1]
    if largest > 1e-30:
        assert largest >= found.edges[-1] / 2


@given(samples, st.data())
@settings(max_examples=100, deadline=None)
def test_neither_batches_nor_their_order_matter(values: Array, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(1, max(1, values.size - 1)), max_size=4)))
    batches = [batch for batch in np.split(values, cuts) if batch.size]
    shuffled = data.draw(st.permutations(batches))
    assert same(reduce(Histogram.merge, map(count, shuffled)), count(values))


@given(samples, samples, samples)
@settings(max_examples=100, deadline=None)
def test_merging_is_associative_and_commutative(a: Array, b: Array, c: Array) -> None:
    x, y, z = count(a), count(b), count(c)
    assert same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert same(x.merge(y), y.merge(x))


@given(moderate, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_widening_is_exact(values: Array, steps: int) -> None:
    found = count(values)
    wide = found.widen(found.exponent + steps)
    wanted = np.histogram(values.astype(np.float64), bins=wide.edges)[0]
    np.testing.assert_array_equal(wide.counts, wanted)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1.0, 2.0, 3.4028235e38])
def test_extremes(largest: float) -> None:
    values = np.array([-largest, 0, largest], np.float32)
    found = count(values)
    assert found.total == 3
    assert found.counts[HALF_BINS - 1 : HALF_BINS + 1].sum() >= 1
    assert np.isfinite(found.edges).all()


def test_blocks_of_a_large_batch_are_all_counted() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 101)).astype(np.float32)
    found = count(values)
    np.testing.assert_array_equal(found.counts, np.histogram(values, bins=found.edges)[0])


def test_absolute_counts_magnitudes() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    found = count(values)
    wanted = np.histogram(np.abs(values), bins=found.edges[HALF_BINS:])[0]
    np.testing.assert_array_equal(found.absolute(), wanted)
