from __future__ import annotations

from dataclasses import replace

import pytest

from autosearch.ledger import SAME_FAILURES, Ledger
from autosearch.objectives import Objectives, ScaledMetric
from autosearch.trial import Outcome, Trial
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
