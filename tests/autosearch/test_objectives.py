from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosearch.compat import parse_config
from autosearch.errors import ConfigError
from autosearch.objective_settings import check_objectives, count_objectives, make_objectives
from autosearch.objectives import Constraint, Objectives
from autosearch.units import Amount
from evaluators import Metric

ACCURACY = Metric("accuracy")
LOSS = Metric("loss", direction="minimize")
BITS = Metric("average_bitwidth", "bit", "minimize")
L2 = Metric("L2", direction="minimize", against_float=True)
PRODUCED = (ACCURACY, LOSS, BITS, L2)
VALUES = {"accuracy": 0.9, "loss": 0.5, "average_bitwidth": 6.0, "L2": 0.01}
SEED = {"accuracy": {"scale": 1.0, "direction": "maximize"}, "average_bitwidth": {"scale": 0.2}}


def objectives(**values: Any) -> Objectives:
    settings = parse_config(values)
    check_objectives(settings)
    made = make_objectives(settings, PRODUCED)
    assert count_objectives(settings) == len(made.names)
    return made


def test_each_metric_with_a_scale_is_an_objective() -> None:
    made = objectives(metrics={**SEED, "loss": {"scale": 0}})
    assert made.names == ("accuracy", "average_bitwidth")
    assert made.directions == ("maximize", "minimize")
    assert made.values(VALUES) == (0.9, 0.2 * 6)
    assert made.losses((0.9, 1.2)) == (-0.9, 1.2)
    assert made.scaled(VALUES) == {"accuracy": 0.9, "average_bitwidth": 0.2 * 6, "loss": 0.0}
    assert made.values({"accuracy": 0.9}) is None
    assert made.values({"accuracy": 0.9, "average_bitwidth": 6.0}) == (0.9, 0.2 * 6)  # loss is not needed
    assert not made.is_single


@pytest.mark.parametrize(
    ("direction", "expected"), [("maximize", 0.9 - 1.2), ("minimize", 1.2 - 0.9), (None, 0.9 - 1.2)]
)
def test_a_sum_is_signed_by_the_directions(direction: str | None, expected: float) -> None:
    made = objectives(metrics=SEED, sum_scaled_metrics=True, direction=direction)
    assert made.directions == (direction or "maximize",)
    assert made.values(VALUES) == pytest.approx((expected,))
    assert made.is_single


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=6),
    st.sampled_from(["minimize", "maximize"]),
)
def test_the_order_by_a_sum_does_not_depend_on_its_direction(
    points: list[tuple[float, float]], direction: str
) -> None:
    def order(made: Objectives) -> list[float]:
        values = [made.values({"accuracy": a, "average_bitwidth": b}) for a, b in points]
        return [made.losses(value)[0] for value in values if value is not None]

    own = order(objectives(metrics=SEED, sum_scaled_metrics=True))
    other = order(objectives(metrics=SEED, sum_scaled_metrics=True, direction=direction))
    assert own == other


def test_a_negative_scale_turns_the_default_direction_round() -> None:
    made = objectives(metrics={"accuracy": {"scale": -2}, "loss": {}})
    assert made.directions == ("minimize", "minimize")
    assert made.losses(made.values(VALUES) or ()) == (-1.8, 0.5)
    assert made.notes == ()


def test_a_direction_against_the_metric_is_reported() -> None:
    made = objectives(metrics={"accuracy": {"direction": "minimize"}, "loss": {}})
    (note,) = made.notes
    assert note.startswith("metrics.accuracy.direction: 'minimize' with scale 1 prefers lower values")
    assert made.losses((0.9, 0.5)) == (0.9, 0.5)


def test_an_infinite_metric_that_is_not_optimised_stays_out() -> None:
    made = objectives(metrics={"loss": {"scale": 0}, "accuracy": {}})
    assert made.scaled({"loss": math.inf, "accuracy": 1.0}) == {"loss": 0.0, "accuracy": 1.0}


def test_names_are_found_in_any_case() -> None:
    assert objectives(metrics=["l2", "Loss"]).names == ("L2", "loss")


@pytest.mark.parametrize(
    ("bound", "limit", "value", "violation"),
    [
        ("min", 0.8, 0.9, -0.125),
        ("min", 0.8, 0.8, 0.0),
        ("min", 0.8, 0.6, 0.25),
        ("max", 8.0, 10.0, 0.25),
        ("max", 0.0, 0.5, 0.5),
        ("max", -2.0, -1.0, 0.5),
        ("min", 30.0, math.inf, -math.inf),
        ("max", math.inf, math.inf, 0.0),
    ],
)
def test_violations_are_shares_of_the_limit(bound: Any, limit: float, value: float, violation: float) -> None:
    assert Constraint(ACCURACY, bound, Amount(limit)).violation(value) == pytest.approx(violation)


@given(
    st.sampled_from(["min", "max"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False),
)
def test_a_violation_is_positive_just_beyond_the_limit(bound: Any, limit: float, value: float) -> None:
    kept = value >= limit if bound == "min" else value <= limit
    violation = Constraint(ACCURACY, bound, Amount(limit)).violation(value)
    assert violation <= 0 if kept else violation >= 0
    if not kept and abs(value - limit) > 1e-3 * abs(limit):
        assert violation > 0


def test_relative_limits_are_times_the_float_value() -> None:
    made = objectives(metrics=["accuracy"], constraints={"loss": {"max": "1.5x"}, "accuracy": {"min": 0.95}})
    assert made.needs_float_values == {"loss"}
    resolved = made.resolved({"loss": 0.3})
    assert resolved.violations(VALUES) == {
        "loss <= 0.45": pytest.approx((0.5 - 0.45) / 0.45),
        "accuracy >= 0.95": pytest.approx(0.05 / 0.95),
    }
    assert resolved.violations({"average_bitwidth": 2}) == {}
    assert made.identity["constraints"] == ["accuracy >= 0.95", "loss <= 1.5x"]


def test_what_a_study_is_known_by_changes_with_the_objectives() -> None:
    identities = [
        objectives(metrics=["accuracy", "loss"]).identity,
        objectives(metrics=["accuracy"]).identity,
        objectives(metrics={"accuracy": {"scale": 2}, "loss": {}}).identity,
        objectives(metrics=["accuracy", "loss"], sum_scaled_metrics=True).identity,
        objectives(metrics=["accuracy", "loss"], constraints={"loss": {"max": 1}}).identity,
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])


def test_objectives_are_described() -> None:
    made = objectives(metrics={**SEED, "loss": {"scale": 0}}, constraints={"loss": {"max": "1.1x"}})
    assert str(made) == (
        "accuracy (maximized), 0.2 * average_bitwidth (minimized); recorded: loss; constraints: loss <= 1.1x"
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"metrics": ["acuracy"]},
            r"metrics\.acuracy: nothing produces this metric; did you mean 'accuracy'",
        ),
        ({"metrics": {"loss": {"scale": 0}}}, "metrics: every scale is 0"),
        ({"metrics": ["loss", "LOSS"]}, "metrics: loss is given twice"),
        ({"metrics": ["loss"], "search_metric": "L2"}, "search_metric: 'L2' beside metrics"),
        (
            {"metrics": ["loss"], "search_metric_tolerance": 1},
            r"search_metric_tolerance: .* constraints instead",
        ),
        ({"metrics": ["loss"], "direction": "minimize"}, r"direction: .* sum_scaled_metrics"),
        ({"direction": "minimize"}, "direction: .* leave it out"),
        ({"sum_scaled_metrics": True}, "sum_scaled_metrics: there are no metrics"),
        ({"metrics": ["loss"], "search_pruner": "median"}, "search_pruner: judges search_metric"),
        (
            {"metrics": ["loss"], "advanced_fastft_params": {"direction": "minimize"}},
            r"advanced_fastft_params\.direction",
        ),
        ({"metrics": ["loss"], "constraints": {"loss": {}}}, r"constraints\.loss: gives neither min nor max"),
        ({"metrics": ["loss"], "constraints": {"los": {"max": 1}}}, r"constraints\.los: .*'loss'"),
        ({"metrics": ["loss"], "constraints": {"loss": {"min": 2, "max": 1}}}, "nothing is at least 2"),
        ({"metrics": ["loss"], "constraints": {"L2": {"max": "2x"}}}, r"constraints\.L2\.max: '2x'"),
        ({"metric_options": {"latency": {"runs": 5}}}, r"metric_options\.latency: there are no metrics"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_contradictions_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        objectives(**values)
