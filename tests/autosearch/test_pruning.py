from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import MedianPruner, ThresholdPruner
from optuna.trial import TrialState

from autosearch import AutoSearch, Outcome, SearchResult
from autosearch.errors import ConfigError
from autosearch.pruning import REPORT_AT, Judge, make_pruner
from evaluators import Direction
from tests.autosearch.models import DISTINCT, make_feeds
from tests.autosearch.trials import make_trial

MEDIAN = {"search_pruner": "median", "search_pruner_params": {"n_startup_trials": 2}}
Feeds = list[dict[str, np.ndarray]]


def run(search: AutoSearch) -> SearchResult:
    search.search_model()
    assert search.result is not None
    return search.result


def ended(number: int, intermediate: dict[int, float], **changes: Any) -> Any:
    value = list(intermediate.values())[-1]
    outcome = Outcome({"L2": value}, {}, None, None, intermediate=intermediate)
    return make_trial(number, value, outcome=outcome, **changes)


curves = st.lists(st.floats(0, 10), min_size=3, max_size=3)


@given(st.lists(curves, min_size=1, max_size=8), curves, st.sampled_from(["minimize", "maximize"]))
@settings(deadline=None, max_examples=60)
def test_the_median_is_that_of_the_trials_before(
    before: list[list[float]], now: list[float], direction: Direction
) -> None:
    """A trial whose best value so far is beyond the median at a step goes no further."""
    known = [ended(i, dict(zip(REPORT_AT, curve, strict=True))) for i, curve in enumerate(before)]
    judge = pickle.loads(pickle.dumps(Judge(MedianPruner(n_startup_trials=1), direction, "L2", known)))
    sign = 1 if direction == "minimize" else -1
    for i, percentage in enumerate(REPORT_AT):
        median = np.median([sign * curve[i] for curve in before])
        hopeless = min(sign * value for value in now[: i + 1]) > median
        assert judge.judge(percentage, now[i]) == hopeless


def test_failed_trials_say_nothing() -> None:
    failed = make_trial(0, None, outcome=Outcome(error="RuntimeError", intermediate={25: 0.0}))
    judge = Judge(MedianPruner(n_startup_trials=1), "minimize", "L2", [failed])
    assert not judge.judge(25, 100.0)


def test_hopeless_trials_are_given_up_and_recorded(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    everything = run(AutoSearch(None, {**settings, "study_name": "all"}, model, feeds))
    directory = Path(settings["search_output_dir"]) / "pruned"
    changed = {**settings, **MEDIAN, "search_output_dir": str(directory)}
    search = AutoSearch(None, changed, model, feeds)
    candidates = search.search_model()
    result = search.result
    assert result is not None
    assert search.study is not None
    assert len(result.trials) == DISTINCT
    assert 1 <= len(result.pruned) <= DISTINCT - 2
    assert result.failed == ()
    assert len(candidates) == DISTINCT - len(result.pruned)
    assert result.best is not None
    assert everything.best is not None
    assert result.best.digest == everything.best.digest
    assert result.best.difference == pytest.approx(everything.best.difference, rel=1e-12)
    for trial in result.pruned:
        frozen = search.study.trials[trial.number]
        assert frozen.state is TrialState.PRUNED
        assert frozen.intermediate_values == trial.outcome.intermediate
        assert max(frozen.intermediate_values) == trial.outcome.pruned_at
        assert (trial.difference, trial.is_candidate, trial.outcome.metrics) == (None, False, {})
    complete = [trial for trial in result.trials if trial.state == "complete"]
    assert all({*trial.outcome.intermediate} == {*REPORT_AT} for trial in complete)
    assert len(list((directory / "models").glob("*.onnx"))) == len(candidates)
    entries = json.loads((directory / "log.json").read_text())
    assert [entry["state"] for entry in entries.values()].count("PRUNED") == len(result.pruned)
    log = Path(settings["search_log_path"]).read_text()
    assert f"Pruned: {len(result.pruned)} trials, which saved about" in log
    assert "% of the evaluation data, pruned; " in log
    again = AutoSearch(None, changed, model, feeds)
    assert again.search_model() == candidates
    assert again.result is not None
    assert again.result.trials == result.trials


def test_an_interrupted_search_judges_by_its_earlier_trials(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(AutoSearch(None, {**settings, **MEDIAN}, model, feeds))
    other = {**settings, **MEDIAN, "search_output_dir": str(tmp_path / "other")}
    run(AutoSearch(None, {**other, "search_stop_condition": {"iteration_limit": 5}}, model, feeds))
    resumed = run(AutoSearch(None, other, model, feeds))
    assert [t.outcome.pruned_at for t in resumed.trials] == [t.outcome.pruned_at for t in whole.trials]


@pytest.mark.parametrize("algorithm", ["grid_search", "TPE"])
def test_worker_processes_prune(model: Path, feeds: Feeds, settings: dict[str, Any], algorithm: str) -> None:
    changed = {**settings, **MEDIAN, "n_jobs": 2, "search_algo": algorithm}
    result = run(AutoSearch(None, changed, model, feeds))
    assert len({trial.digest for trial in result.trials}) == DISTINCT
    assert result.pruned
    assert result.best is not None


@pytest.mark.parametrize(
    "change",
    [
        {"search_metric": "accuracy"},
        {"search_metric": "loss"},
        {"search_metric": "L2", "constraints": {"accuracy": {"min": 0.0}}},
        {"search_metric": "loss", "constraints": {"max_abs": {"max": 1e9}}},
    ],
    ids=str,
)
def test_metrics_of_labels_are_judged_too(
    model: Path, feeds: Feeds, settings: dict[str, Any], change: dict[str, Any]
) -> None:
    bounds = {"lower": 2.0} if change["search_metric"] == "accuracy" else {"upper": -1.0}  # never kept to
    labels = np.arange(sum(len(feed["x"]) for feed in feeds)) % 3
    changed = {**settings, **change, "search_pruner": "threshold", "search_pruner_params": bounds}
    result = run(AutoSearch(None, changed, model, feeds, eval_labels=labels))
    assert len(result.pruned) == DISTINCT
    assert all({*trial.outcome.intermediate} == {REPORT_AT[0]} for trial in result.pruned)


def test_workers_say_nothing_of_the_studies_that_judge(
    model: Path, feeds: Feeds, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    run(AutoSearch(None, {**settings, **MEDIAN, "n_jobs": 2}, model, feeds))
    assert "study" not in capfd.readouterr().err


def test_a_threshold_prunes_from_the_first_trial_on(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    params = {"upper": 0.0}
    changed = {**settings, "search_pruner": "Threshold", "search_pruner_params": params}
    result = run(AutoSearch(None, changed, model, feeds))
    assert len(result.pruned) == DISTINCT
    assert {trial.outcome.pruned_at for trial in result.pruned} == {REPORT_AT[0]}
    assert result.best is None


def test_warming_up_is_counted_in_percent(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    params = {"upper": 0.0, "n_warmup_steps": 60}
    changed = {**settings, "search_pruner": "threshold", "search_pruner_params": params}
    assert {t.outcome.pruned_at for t in run(AutoSearch(None, changed, model, feeds)).pruned} == {75}


def test_nothing_is_pruned_unless_asked(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    result = run(AutoSearch(None, settings, model, feeds))
    assert result.pruned == ()
    assert all(not trial.outcome.intermediate for trial in result.trials)
    assert "pruned;" not in Path(settings["search_log_path"]).read_text()


def score(path: str) -> float:
    return 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_pruner": "medan"}, "search_pruner: unknown pruner 'medan'; did you mean 'median'"),
        ({"search_pruner": "hyperband"}, "search_pruner: 'hyperband' grants .*use median, percentile"),
        (
            {"search_pruner": "median", "search_pruner_params": {"warmup": 3}},
            "search_pruner_params: 'median': .*warmup",
        ),
        ({"search_pruner": "percentile"}, "search_pruner_params: 'percentile': .*percentile"),
        ({"search_pruner_params": {"upper": 1.0}}, "search_pruner_params: no pruner to take them"),
        ({"search_pruner": "threshold"}, "search_pruner_params: 'threshold': "),
        ({"search_pruner": "median", "search_evaluator": score}, "score comes from a custom evaluator"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    model: Path, feeds: Feeds, settings: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoSearch(None, {**settings, **change}, model, feeds)


def test_one_batch_has_no_parts(model: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the evaluation data is one batch"):
        AutoSearch(None, {**settings, **MEDIAN}, model, make_feeds(1))


def test_names_are_those_of_optuna() -> None:
    assert isinstance(make_pruner("MEDIAN", {}), MedianPruner)
    assert isinstance(make_pruner("threshold", {"lower": 1.0}), ThresholdPruner)
