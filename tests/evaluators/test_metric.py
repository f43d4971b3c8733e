import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators import EvaluatorError, EvaluatorInputError, Metric

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
DISTANCE = Metric("L2", "", "minimize", True)
SIMILARITY = Metric("cos", "", "maximize", True)
ACCURACY = Metric("accuracy", "", "maximize", False)
PERPLEXITY = Metric("perplexity", "", "minimize", False)
ALL = (DISTANCE, SIMILARITY, ACCURACY, PERPLEXITY)


@pytest.mark.parametrize(
    ("metric", "difference"), [(DISTANCE, 3), (SIMILARITY, 3), (ACCURACY, 5 - 3), (PERPLEXITY, 3 - 5)]
)
def test_difference_from_the_float_model(metric, difference):
    assert metric.difference(3, 5) == difference


@pytest.mark.parametrize(
    ("metric", "inside", "outside"),
    [(DISTANCE, 0.1, 0.3), (SIMILARITY, 0.3, 0.1), (ACCURACY, 0.1, 0.3), (PERPLEXITY, -1, 0.3)],
)
def test_within_bounds_similarities_from_below_and_all_else_from_above(metric, inside, outside):
    assert metric.within(inside, 0.2)
    assert metric.within(0.2, 0.2)
    assert not metric.within(outside, 0.2)


@pytest.mark.parametrize("metric", ALL)
def test_no_tolerance_is_no_limit_but_nan_is_never_within(metric):
    assert metric.within(math.inf, None) and metric.within(-math.inf, None)
    assert not metric.within(math.nan, None) and not metric.within(math.nan, 1.0)


@pytest.mark.parametrize("metric", ALL)
@given(a=FINITE, b=FINITE, tolerance=FINITE)
def test_a_lower_loss_is_never_outside_where_a_higher_one_is_within(metric, a, b, tolerance):
    better, worse = sorted((a, b), key=metric.loss)
    assert metric.within(better, tolerance) or not metric.within(worse, tolerance)


@pytest.mark.parametrize("metric", ALL)
@given(a=FINITE, b=FINITE, float_value=FINITE)
def test_loss_orders_values_by_the_direction(metric, a, b, float_value):
    better, worse = sorted((a, b), reverse=metric.direction == "maximize")
    losses = [metric.loss(metric.difference(value, float_value)) for value in (better, worse)]
    assert losses[0] <= losses[1]


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY])
def test_equal_infinite_values_do_not_differ(metric):
    assert metric.difference(math.inf, math.inf) == 0


@pytest.mark.parametrize("direction", ["up", "Maximize", None])
def test_an_unknown_direction_is_refused(direction):
    with pytest.raises(EvaluatorInputError, match="'minimize' or 'maximize'"):
        Metric("accuracy", direction=direction)


def test_a_metric_needs_a_name():
    with pytest.raises(EvaluatorError, match="name"):
        Metric("")
