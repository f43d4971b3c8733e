from __future__ import annotations

from autosearch import SearchResult
from autosearch.log_lines import result_lines, trial_line
from autosearch.objectives import Objectives, ScaledMetric
from evaluators import Metric
from tests.autosearch.trials import make_trial

L2 = Metric("L2", direction="minimize", against_float=True)
PSNR = Metric("L2", unit="dB", direction="maximize", against_float=True)
ACCURACY = Metric("L2", direction="maximize")


def by(metric: Metric, tolerance: float | None = None) -> Objectives:
    return Objectives((ScaledMetric(metric, 1.0, metric.direction),), searched=metric, tolerance=tolerance)


def test_a_trial_is_a_line() -> None:
    assert trial_line(make_trial(3, 0.125), "4/12", by(L2, 0.5)) == (
        "Executing search 4/12 with config [configuration 3]: L2 0.125 (tolerance <= 0.5), candidate;"
        " quantize 0.25 s, evaluate 0.12 s"
    )
    assert "(tolerance >= 30)" in trial_line(make_trial(3, 40), "4", by(PSNR, 30))
    assert "L2 40 dB" in trial_line(make_trial(3, 40), "4", by(PSNR))
    assert "tolerance" not in trial_line(make_trial(3, 0.5), "4", by(L2))
    assert "not a candidate" in trial_line(make_trial(3, 0.5, is_candidate=False), "4", by(L2, 0.1))
    shown = trial_line(make_trial(3, 0.75, difference=0.25), "4", by(ACCURACY, 0.3))
    assert "L2 0.75 (difference 0.25)" in shown


def test_a_failure_says_why() -> None:
    shown = trial_line(make_trial(3), "4/12", by(L2, 0.5))
    assert shown.endswith("[configuration 3]: failed: RuntimeError: no luck; at once")
    assert "\n" not in shown


def test_the_end_is_sorted_with_failures_and_the_reason() -> None:
    ranked = [make_trial(1, 0.1), make_trial(0, 0.2, is_candidate=False)]
    result = SearchResult((*ranked, make_trial(2)), (ranked[0],), ranked[0], "iteration_limit: 3", False, 1.5)
    lines = list(result_lines(result, by(L2), ranked))
    assert lines[0] == "Sorted results, best first (2 of 3 trials):"
    assert lines[1].split() == ["0.", "candidate", "L2", "0.1", "[configuration", "1]", "trial", "1"]
    assert "candidate" not in lines[2]
    assert lines[3] == "  failed: trial 2 [configuration 2]: RuntimeError: no luck"
    assert lines[-2:] == ["Searched candidates: 1", "Stopped: iteration_limit: 3; 1.5 s"]
