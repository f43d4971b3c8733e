from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosearch.ledger import SAME_FAILURES, Ledger
from autosearch.objectives import Constraint, Objectives, ScaledMetric
from autosearch.trial import Outcome, Trial
from autosearch.units import Amount
from evaluators import Metric
from tests.autosearch.trials import make_trial

L2 = Metric("L2", direction="minimize", against_float=True)
ACCURACY = Metric("accuracy")


def by(metric: Metric, tolerance: float | None = None) -> Objectives:
    return Objectives((ScaledMetric(metric, 1.0, metric.direction),), searched=metric, tolerance=tolerance)


def ended(number: int, metric: str = "L2", value: float | None = None, error: str | None = None) -> Trial:
    outcome = Outcome({} if value is None else {metric: value}, error=error)
    return replace(
        make_trial(number), digest=str(number), outcome=outcome, difference=None, is_candidate=False
    )


def test_trials_are_judged_under_the_tolerance() -> None:
    ledger = Ledger(by(ACCURACY, 0.01), float_value=0.9)
    good = ledger.add(ended(0, "accuracy", 0.895))
    bad = ledger.add(ended(1, "accuracy", 0.8))
    assert good.difference == pytest.approx(0.005)
    assert good.is_candidate
    assert not bad.is_candidate
    assert ledger.candidates == 1
    assert ledger.best == good
    assert ledger.ranked() == [good, bad]


def test_waiting_counts_from_the_best_candidate() -> None:
    ledger = Ledger(by(L2, 1.0))
    waits = []
    for number, value in enumerate([5.0, 0.5, 0.7, 0.4, 0.4, 3.0]):
        ledger.add(ended(number, value=value))
        waits.append(ledger.progress(0.0).since_best)
    assert waits == [None, 0, 1, 0, 1, 2]
    assert ledger.best is not None
    assert ledger.best.number == 3


def test_equal_failures_alone_are_hopeless() -> None:
    ledger = Ledger(by(L2))
    for number in range(SAME_FAILURES):
        assert ledger.hopeless() is None
        ledger.add(ended(number, error="RuntimeError: no labels"))
    assert "no labels" in (ledger.hopeless() or "")
    ledger.add(ended(SAME_FAILURES, value=1.0))
    assert ledger.hopeless() is None


@pytest.mark.parametrize("last", [{"error": "another"}, {"value": 1.0}])
def test_different_ends_leave_hope(last: dict[str, object]) -> None:
    ledger = Ledger(by(L2))
    ledger.add(ended(0, **last))  # type: ignore[arg-type]
    for number in range(1, 10):
        ledger.add(ended(number, error="the same"))
    assert ledger.hopeless() is None


def test_samplers_see_values_and_failures() -> None:
    ledger = Ledger(by(L2))
    ledger.add(ended(4, value=2.0))
    ledger.add(ended(5, error="broken"))
    assert ledger.known["4"].values == (2.0,)
    assert ledger.known["5"].values is None


BITS = Metric("bits", direction="minimize")
BOTH = Objectives(
    (ScaledMetric(ACCURACY, 1.0, "maximize"), ScaledMetric(BITS, 1.0, "minimize")),
    constraints=(Constraint(ACCURACY, "min", Amount(0.5)),),
)


def of_two(number: int, accuracy: float, bits: float) -> Trial:
    outcome = Outcome({"accuracy": accuracy}, hardware={"bits": bits})
    return replace(make_trial(number), digest=str(number), outcome=outcome)


def test_of_several_objectives_the_front_is_kept_up_to_date() -> None:
    ledger = Ledger(BOTH)
    history = []
    points = [(0.6, 8), (0.7, 8), (0.6, 4), (0.55, 6), (0.7, 8), (0.9, 9), (0.8, 3)]
    for number, point in enumerate(points):
        trial = ledger.add(of_two(number, *point))
        history.append((trial.is_candidate, [each.number for each in ledger.displaced], ledger.since_best))
    assert history == [
        (True, [], 0),
        (True, [0], 0),
        (True, [], 0),
        (False, [], 1),
        (True, [], 2),  # on the front, but no news
        (True, [1], 0),  # the best in the first objective, which stays on the front
        (True, [1, 2, 4], 0),
    ]
    assert [trial.number for trial in ledger.front()] == [5, 6]
    assert ledger.candidates == 2
    assert [trial.number for trial in ledger.ranked()] == [5, 6, 1, 4, 2, 0, 3]
    assert ledger.best == ledger.ranked()[0]
    assert {number for number, trial in ledger.trials.items() if trial.is_candidate} == {5, 6}


@given(
    st.lists(
        st.tuples(st.sampled_from([0.3, 0.4, 0.5, 0.6, 0.7]), st.integers(1, 4)), min_size=1, max_size=12
    )
)
def test_a_ledger_agrees_with_its_own_ranking(points: list[tuple[float, int]]) -> None:
    ledger = Ledger(BOTH)
    for number, point in enumerate(points):
        ledger.add(of_two(number, *point))
    ranked = ledger.ranked()
    assert ledger.best == ranked[0]
    feasible = [trial for trial in ranked if not trial.violated]
    assert [trial.violated == {} for trial in ranked] == [True] * len(feasible) + [False] * (
        len(ranked) - len(feasible)
    )
    front = {
        trial.number
        for trial in feasible
        if not any(
            other.values != trial.values
            and other.outcome.metrics["accuracy"] >= trial.outcome.metrics["accuracy"]
            and other.outcome.hardware["bits"] <= trial.outcome.hardware["bits"]
            for other in feasible
        )
    }
    assert {trial.number for trial in ledger.front()} == front == {t.number for t in ranked if t.is_candidate}
    assert ledger.candidates == len(front)
    assert ledger.best_trials() == (ledger.front() or ranked[:1])
    assert ledger.best_trials(2) == ledger.best_trials()[:2]


def test_what_was_not_evaluated_has_violations_and_no_values() -> None:
    limited = replace(BOTH, constraints=(Constraint(BITS, "max", Amount(4)),))
    ledger = Ledger(limited)
    skipped = replace(of_two(0, 0.9, 8), outcome=Outcome(hardware={"bits": 8.0}, infeasible=True))
    trial = ledger.add(skipped)
    assert (trial.state, trial.values, trial.violations) == ("infeasible", None, {"bits <= 4": 1.0})
    assert ledger.known["0"].violations == {"bits <= 4": 1.0}
    assert ledger.best is None
    assert ledger.best_trials() == ledger.ranked() == []
    assert ledger.hopeless() is None
