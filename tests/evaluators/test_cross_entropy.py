import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import cross_entropy
from evaluators.cross_entropy import losses_from_logits, losses_from_probabilities

PROBLEMS = st.tuples(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 9), st.sampled_from([1, 30]))


def problem(seed, rows, classes, scale):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (rows, classes)), rng.integers(0, classes, rows)


def written_out(logits, labels):
    """-log of the softmax, one Python number after another, in exact sums."""
    return [
        math.log(math.fsum(math.exp(z - max(row)) for z in row)) + max(row) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(PROBLEMS)
def test_logits_agree_with_the_formula_written_out(given_problem):
    logits, labels = problem(*given_problem)
    np.testing.assert_allclose(
        losses_from_logits(logits, labels), written_out(logits, labels), rtol=1e-9, atol=1e-13
    )
    single = logits.astype(np.float32)
    # an exponential in float32 errs by 2 units in the last place; the difference z - m by half of one of |z|
    error = 2**-22 + np.abs(single).max() * 2**-23
    np.testing.assert_allclose(losses_from_logits(single, labels), written_out(single, labels), atol=error)


@settings(max_examples=20, deadline=None)
@given(PROBLEMS, st.sampled_from([np.float16, np.float32, np.int8]))
def test_a_constant_beside_all_logits_changes_nothing(given_problem, dtype):
    logits, labels = problem(*given_problem)
    logits = np.rint(np.clip(logits, -60, 60)).astype(dtype)  # whole numbers, so that the sum is exact
    np.testing.assert_array_equal(losses_from_logits(logits, labels), losses_from_logits(logits + 3, labels))


@settings(max_examples=20, deadline=None)
@given(PROBLEMS)
def test_probabilities_cost_as_the_logits_that_they_are_made_of(given_problem):
    logits, labels = problem(*given_problem)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    expected = np.minimum(losses_from_logits(logits, labels), -math.log(1e-7))
    np.testing.assert_allclose(losses_from_probabilities(probabilities, labels), expected, atol=1e-9)
    np.testing.assert_allclose(losses_from_probabilities(probabilities * 0.9, labels), expected, atol=1e-9)


def test_slices_do_not_change_the_numbers(monkeypatch):
    logits, labels = problem(0, 50, 7, 3)
    probabilities = np.abs(logits)
    whole = losses_from_logits(logits, labels), losses_from_probabilities(probabilities, labels)
    for elements in (1, 7, 64):
        monkeypatch.setattr(cross_entropy, "_SLICE_ELEMENTS", elements)
        np.testing.assert_array_equal(losses_from_logits(logits, labels), whole[0])
        np.testing.assert_array_equal(losses_from_probabilities(probabilities, labels), whole[1])


def test_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[3e38, 0, -3e38], [-3e38, -3e38, -3e38]], np.float32)
    np.testing.assert_allclose(losses_from_logits(logits, np.array([0, 1])), [0, math.log(3)])
    half = np.array([[60000, 0]], np.float16)
    assert losses_from_logits(half, np.array([1])) == [60000]


@pytest.mark.parametrize(
    ("row", "label", "expected"),
    [
        ([0, -np.inf], 0, 0.0),
        ([0, -np.inf], 1, math.inf),
        ([np.inf, 0], 0, math.nan),
        ([np.nan, 0], 1, math.nan),
        ([-np.inf, -np.inf], 0, math.nan),
    ],
    ids=["masked-other", "masked-label", "inf", "nan", "all-masked"],
)
def test_values_that_are_not_finite(row, label, expected):
    np.testing.assert_equal(losses_from_logits(np.array([row]), np.array([label]))[0], expected)


def test_a_probability_of_zero_costs_a_finite_amount():
    rows = np.array([[0, 1], [0, 0]], np.float32)
    np.testing.assert_allclose(losses_from_probabilities(rows, np.array([0, 0])), -math.log(1e-7))


def test_inputs_stay_as_they_are_and_may_be_views():
    logits = np.arange(12, dtype=np.float32).reshape(3, 4)
    before, view = logits.copy(), logits.T[:, :2]
    np.testing.assert_allclose(
        losses_from_logits(view, np.array([0, 1, 0, 1])),
        losses_from_logits(view.copy(), np.array([0, 1, 0, 1])),
    )
    np.testing.assert_array_equal(logits, before)
