"""Searches by several metrics, with fake scores of configurations and the real cost of models."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from autosearch import AutoSearch, SearchResult, Trial
from autosearch.errors import ConfigError, StudyError
from autosearch.files import read_entry
from autosearch.space import Configuration
from autosearch.stage import OneStage
from quant import ModelQuantizer
from tests.autosearch.scores import ByConfiguration

SPACE: dict[str, Any] = {
    "calibrate_method": ["Percentile"],
    "weight_type": ["QInt8", "QInt16"],
    "per_channel": [False, True],
    "extra_options": {"Percentile": [99.0, 99.5, 99.9]},
}
"""12 configurations, half of them of 16-bit weights."""

METRICS = {"score": {"scale": 2}, "average_bitwidth": {"scale": 0.5}, "twist": {"scale": 0}}
Feeds = list[dict[str, np.ndarray]]


class Scores(ByConfiguration):
    """`score` is better of wide weights; `twist` is neither."""

    direction = {"score": "minimize", "twist": "maximize"}  # noqa: RUF012 - as users write it

    def __init__(self, output_dir: str) -> None:
        super().__init__(output_dir, lambda config: 0.0)

    def __call__(self, path: str) -> Any:
        found: list[dict[str, Any]] = []

        def look(config: dict[str, Any]) -> float:
            found.append(config)
            return 0.0

        self.score = look
        super().__call__(path)
        if not found:
            return {"score": 1.0, "twist": 1.0}
        (config,) = found
        percentile = config["extra_options"]["Percentile"]
        narrow = config["weight_type"] == "QInt8"
        score = 100 - percentile + 0.25 * config["per_channel"] + (0.5 if narrow else 0.0)
        return {"score": score, "twist": percentile}


def search(model: Path, feeds: Feeds, settings: dict[str, Any], **changes: Any) -> AutoSearch:
    """A search that has run."""
    made = make(model, feeds, settings, **changes)
    made.search_model()
    return made


def make(model: Path, feeds: Feeds, settings: dict[str, Any], **changes: Any) -> AutoSearch:
    output = changes.get("search_output_dir", settings["search_output_dir"])
    scores = Scores(output)
    given = {"search_space": SPACE, "search_evaluator": scores, "metrics": METRICS, **changes}
    return AutoSearch(None, {**settings, **given}, model, feeds)


def result(made: AutoSearch) -> SearchResult:
    assert made.result is not None
    return made.result


def values(trials: Iterable[Trial]) -> list[tuple[float, ...] | None]:
    return [trial.values for trial in trials]


def nobody_better(trials: Iterable[Trial]) -> set[int]:
    """The Pareto front by its definition; all objectives here are minimized."""
    points = {trial.number: trial.values for trial in trials if trial.values is not None}
    return {
        number
        for number, point in points.items()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points.values()
        )
    }


@pytest.fixture
def found(model: Path, feeds: Feeds, settings: dict[str, Any]) -> AutoSearch:
    return search(model, feeds, settings)


def test_candidates_are_the_pareto_front(found: AutoSearch, settings: dict[str, Any]) -> None:
    outcome = result(found)
    assert len(outcome.trials) == 12
    assert {trial.number for trial in outcome.candidates} == nobody_better(outcome.trials)
    assert values(outcome.candidates) == [(pytest.approx(0.2), 8.0), (pytest.approx(1.2), 4.0)]
    assert outcome.front == outcome.candidates
    assert outcome.best == outcome.front[0]
    kept = {Path(trial.outcome.model_path or "") for trial in outcome.front}
    assert {*(Path(settings["search_output_dir"]) / "models").glob("*.onnx")} == kept
    assert found.study is not None
    assert {trial.number for trial in found.study.best_trials} == nobody_better(outcome.trials)


def test_records_are_those_of_mase(
    found: AutoSearch, model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    directory = Path(settings["search_output_dir"])
    log = json.loads((directory / "log.json").read_text())
    assert list(log) == [str(number) for number in range(12)]
    for trial in result(found).trials:
        entry = log[str(trial.number)]
        assert trial.values is not None
        assert (entry["values_0"], entry["values_1"]) == trial.values
        assert "value" not in entry
        bits = trial.outcome.hardware["average_bitwidth"]
        assert entry["user_attrs_hardware_metrics"] == {
            "average_bitwidth": bits,
            "memory_density": 32 / bits,
        }
        assert {*entry["user_attrs_software_metrics"]} == {"score", "twist"}
        assert entry["user_attrs_scaled_metrics"] == {
            "score": 2 * entry["user_attrs_software_metrics"]["score"],
            "average_bitwidth": 0.5 * bits,
            "twist": 0.0,
        }
        assert entry["user_attrs_sampled_config"] == dict(trial.params)
        assert entry["state"] == "COMPLETE"
        assert entry["duration"] == entry["datetime_complete"] - entry["datetime_start"]
    best = json.loads((directory / "best.json").read_text())
    front = result(found).front
    assert [entry["number"] for entry in best.values()] == [trial.number for trial in front]
    assert [tuple(entry["value"]) for entry in best.values()] == values(front)
    assert best["0"]["scaled_metrics"] == log[str(front[0].number)]["user_attrs_scaled_metrics"]
    again = directory / "again.onnx"
    ModelQuantizer(read_entry(f"{directory / 'best.json'}#1")["config"]).quantize_model(model, again, feeds)
    assert again.read_bytes() == Path(front[1].outcome.model_path or "").read_bytes()


def test_the_log_ends_with_the_table(found: AutoSearch, settings: dict[str, Any]) -> None:
    log = Path(settings["search_log_path"]).read_text()
    assert "Float model: score 1, twist 1, average_bitwidth 32, memory_density 1" in log
    assert "objectives: 2 * score (minimized), 0.5 * average_bitwidth (minimized); recorded: twist" in log
    first = next(line for line in log.splitlines() if "Executing search 1/12" in line)
    assert "score " in first
    assert ", average_bitwidth " in first
    assert first.endswith("on the Pareto front") or "on the Pareto front; about" in first
    table = log[log.index("Best trial(s):") :].splitlines()
    assert [cell.strip() for cell in table[1].split("|")[1:-1]] == [
        "", "number", "software_metrics", "hardware_metrics", "scaled_metrics"
    ]  # fmt: skip
    number = result(found).front[0].number
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        "0",
        str(number),
        "{'score': 0.1, 'twist': 99.9}",
        "{'average_bitwidth': 16.0, 'memory_density': 2.0}",
        "{'score': 0.2, 'average_bitwidth': 8.0, 'twist': 0.0}",
    ]
    assert len(table[3:]) - 2 == len(result(found).front)


def test_a_sum_has_an_order(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    summed = search(model, feeds, settings, sum_scaled_metrics=True, keep_models="best")
    outcome = result(summed)
    sums = [trial.values[0] for trial in outcome.candidates if trial.values is not None]
    assert len(sums) == 12
    assert sums == sorted(sums)
    assert sums[0] == pytest.approx(2 * 0.6 + 4)
    assert outcome.front == outcome.candidates[:1] == (outcome.best,)
    assert summed.study is not None
    assert summed.study.best_value == sums[0]
    log = json.loads((Path(settings["search_output_dir"]) / "log.json").read_text())
    assert log["0"]["value"] == sum(
        log["0"]["user_attrs_scaled_metrics"][name] for name in ("score", "average_bitwidth")
    )
    assert len(list((Path(settings["search_output_dir"]) / "models").glob("*.onnx"))) == 1


@pytest.mark.parametrize("algorithm", ["grid_search", "TPE"])
def test_what_breaks_a_budget_is_not_evaluated(
    model: Path, feeds: Feeds, settings: dict[str, Any], algorithm: str
) -> None:
    limited = make(
        model,
        feeds,
        settings,
        search_algo=algorithm,
        metrics={"score": {}, "average_bitwidth": {}},
        constraints={"weights_above_8_bits": {"max": 0.2}},
    )
    limited.search_model()
    outcome = result(limited)
    states = [trial.state for trial in outcome.trials]
    assert (states.count("infeasible"), states.count("complete")) == (6, 6)
    for trial in outcome.trials:
        wide = trial.config["weight_type"] == "QInt16"
        assert (trial.state == "infeasible") == wide
        assert trial.violations == {"weights_above_8_bits <= 0.2": pytest.approx(4.0 if wide else -1.0)}
        if wide:
            assert (trial.values, trial.outcome.metrics, trial.outcome.model_path) == (None, {}, None)
            assert trial.outcome.hardware["average_bitwidth"] == 16
    scores = limited.problem.settings.search_evaluator
    assert len(scores.calls) == 6
    assert all(trial.config["weight_type"] == "QInt8" for trial in outcome.candidates)
    assert limited.study is not None
    told = [trial for trial in limited.study.trials if "repeat_of" not in trial.user_attrs]
    assert [trial.state for trial in told].count(TrialState.PRUNED) == 6
    assert all(trial.constraints == outcome.trials[i].violations for i, trial in enumerate(told[:1]))
    log = Path(settings["search_log_path"]).read_text()
    assert "weights_above_8_bits is 1, not <= 0.2, infeasible, not evaluated" in log
    assert "Infeasible: 6 trials, 6 of them not evaluated; the nearest is trial" in log
    entries = json.loads((Path(settings["search_output_dir"]) / "log.json").read_text()).values()
    assert sorted(entry["state"] for entry in entries) == ["COMPLETE"] * 6 + ["INFEASIBLE"] * 6


def test_samplers_that_need_values_get_them(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    evolved = search(
        model,
        feeds,
        settings,
        search_algo="NSGAII",
        constraints={"average_bitwidth": {"max": 8}},
        search_stop_condition={"iteration_limit": 12},
    )
    outcome = result(evolved)
    assert {trial.state for trial in outcome.trials} == {"complete"}
    assert len(outcome.infeasible) == 6
    assert all(not trial.violated for trial in outcome.candidates)
    assert outcome.front[0].outcome.hardware["average_bitwidth"] == 8


def test_limits_may_be_times_the_float_value(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    limited = search(
        model, feeds, settings, constraints={"average_bitwidth": {"max": "0.25x"}, "score": {"max": "0.7x"}}
    )
    outcome = result(limited)
    (best,) = outcome.front
    assert best.violations == {
        "average_bitwidth <= 8": 0.0,
        "score <= 0.7": pytest.approx((0.6 - 0.7) / 0.7),
    }
    evaluated = [trial for trial in outcome.trials if trial.state == "complete" and trial.violated]
    assert evaluated
    assert all(not trial.is_candidate for trial in evaluated)


def test_when_nothing_keeps_to_the_limits_the_nearest_is_shown(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    outcome = result(search(model, feeds, settings, constraints={"score": {"max": 0.05}}))
    assert outcome.candidates == outcome.front == ()
    assert outcome.best is not None
    assert outcome.best.outcome.metrics["score"] == pytest.approx(0.1)
    assert outcome.best.outcome.model_path is not None
    best = json.loads((Path(settings["search_output_dir"]) / "best.json").read_text())
    assert [entry["number"] for entry in best.values()] == [outcome.best.number]


def test_constraints_go_with_search_metric(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    limited = AutoSearch(
        None,
        {**settings, "search_space": SPACE, "constraints": {"packed_size": {"max": "0.4x"}}},
        model,
        feeds,
    )
    candidates = limited.search_model()
    assert len(candidates) == 6
    assert [each["config"]["weight_type"] for each in candidates] == ["QInt8"] * 6
    assert all({*each["metrics"]} == {"L2", "packed_size"} for each in candidates)


@pytest.mark.parametrize(
    ("algorithm", "limit"), [("grid_search", 5), ("TPE", 1), ("TPE", 5), ("NSGAIIISampler", 5)]
)
def test_a_search_goes_on(
    model: Path, feeds: Feeds, settings: dict[str, Any], algorithm: str, limit: int
) -> None:
    changes: dict[str, Any] = {
        "search_algo": algorithm,
        "constraints": {"weights_above_8_bits": {"max": 0.5}},
        "metrics": {**METRICS, "twist": {}},
    }
    part = search(model, feeds, settings, **changes, search_stop_condition={"iteration_limit": limit})
    before = result(part).trials
    whole = search(model, feeds, settings, **changes)
    outcome = result(whole)
    assert [trial.outcome.measured for trial in outcome.trials[:limit]] == [
        trial.outcome.measured for trial in before
    ]
    assert len(outcome.trials) == len({trial.digest for trial in outcome.trials}) == 12
    once = search(model, feeds, settings, **changes, search_output_dir=settings["search_output_dir"] + "2")
    assert {trial.digest for trial in outcome.front} == {trial.digest for trial in result(once).front}
    for trial in outcome.front:
        assert Path(trial.outcome.model_path or "").exists()


def test_a_study_goes_on_with_the_same_objectives_only(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    limits = {"search_stop_condition": {"iteration_limit": 1}, "study_name": "mine"}
    search(model, feeds, settings, **limits)
    with pytest.raises(StudyError, match="its metrics differs"):
        search(model, feeds, settings, **limits, metrics={"score": {}, "average_bitwidth": {}})
    with pytest.raises(StudyError, match="its constraints differs"):
        search(model, feeds, settings, **limits, constraints={"score": {"max": 1}})


def test_waiting_for_the_front_ends_a_search(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    waited = result(search(model, feeds, settings, search_stop_condition={"find_best_candidate": 3}))
    assert waited.stop_reason.startswith("find_best_candidate: ") or len(waited.trials) == 12
    many = result(
        search(
            model,
            feeds,
            settings,
            search_stop_condition={"find_n_candidates": 2},
            search_output_dir=settings["search_output_dir"] + "2",
        )
    )
    assert many.stop_reason == "find_n_candidates: 2 candidates found"
    assert len(many.front) == 2
    assert len(many.trials) < 12


@pytest.mark.parametrize("algorithm", ["grid_search", "TPE", "NSGAII"])
@pytest.mark.parametrize(("seed_trials", "expected"), [(None, 3), (2, 2), (0, 0)])
def test_given_configurations_come_first(
    model: Path,
    feeds: Feeds,
    settings: dict[str, Any],
    algorithm: str,
    seed_trials: int | None,
    expected: int,
) -> None:
    limit = {"iteration_limit": 5}
    made = make(model, feeds, settings, search_algo=algorithm, search_stop_condition=limit)
    chosen = [list(made.problem.space)[position] for position in (7, 2, 7, 11)]
    asked: list[int | None] = []

    def seeds(count: int | None) -> list[Configuration]:
        asked.append(count)
        return chosen

    plan = OneStage(replace(made.problem.plan.first, seeds=seeds))
    own = replace(made.problem.settings, seed_trials=seed_trials)
    made.problem = replace(made.problem, plan=plan, settings=own)
    made.search_model()
    wanted = [chosen[position].digest for position in (0, 1, 3)][:expected]
    digests = [trial.digest for trial in result(made).trials]
    assert digests[:expected] == wanted
    assert len(digests) == len(set(digests)) == 5
    assert asked == ([] if seed_trials == 0 else [seed_trials])


def test_seeds_need_layers(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="seed_trials: 3 trials cannot come from layers"):
        make(model, feeds, settings, seed_trials=3)


def test_accuracy_and_loss_come_from_labels(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    import onnxruntime as ort

    outputs = [ort.InferenceSession(str(model)).run(None, feed)[0] for feed in feeds]
    labels = np.concatenate(outputs).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 3
    made = AutoSearch(
        None,
        {
            **settings,
            "search_space": SPACE,
            "metrics": ["accuracy", "model_size", "top2_accuracy"],
            "constraints": {"accuracy": {"min": "0.9x"}, "L2": {"max": 1}},
        },
        model,
        feeds,
        eval_labels=labels,
    )
    candidates = made.search_model()
    for candidate in candidates:
        ran = [ort.InferenceSession(candidate["model_path"]).run(None, feed)[0] for feed in feeds]
        share = float((np.concatenate(ran).argmax(axis=1) == labels).mean())
        assert candidate["metrics"]["accuracy"] == pytest.approx(share)
        assert candidate["metrics"]["model_size"] == Path(candidate["model_path"]).stat().st_size
        assert candidate["scaled_metrics"]["accuracy"] == candidate["metrics"]["accuracy"]
    front = result(made).front
    assert {*front[0].outcome.metrics} == {"accuracy", "loss", "L2", "top2_accuracy"}
    assert front[0].outcome.metrics["top2_accuracy"] >= front[0].outcome.metrics["accuracy"]
    assert {*front[0].violations} == {f"accuracy >= {0.9 * 60 / 64:g}", "L2 <= 1"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metrics": ["score", "average_bitwith"]}, r"metrics\.average_bitwith: .*'average_bitwidth'"),
        ({"constraints": {"scoer": {"max": 1}}}, r"constraints\.scoer: .*'score'"),
        ({"metrics": ["score", "accuracy"]}, r"metrics\.accuracy: needs labels"),
        ({"search_algo": "CmaEs"}, "search_algo: 'CmaEs' optimises one objective, and there are 2"),
        ({"metric_options": {"latency": {"runs": 5}}}, r"metric_options\.latency"),
        (
            {"metric_options": {"average_bitwidth": {"compare": 16}}},
            r"metric_options\.average_bitwidth\.compare",
        ),
        ({"metric_options": {"score": {"x": 1}}}, r"metric_options\.score: score has no options here"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_metrics_are_refused_before_any_work(
    model: Path, feeds: Feeds, settings: dict[str, Any], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make(model, feeds, settings, **changes)


def test_worker_processes_find_the_same(
    found: AutoSearch, model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    other = search(model, feeds, settings, n_jobs=2, search_output_dir=settings["search_output_dir"] + "2")
    assert {trial.digest for trial in result(other).front} == {trial.digest for trial in result(found).front}


def test_a_contradicting_direction_is_in_the_log(
    model: Path, feeds: Feeds, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    metrics = {"score": {"direction": "maximize"}, "average_bitwidth": {}}
    limits = {"iteration_limit": 1}
    search(model, feeds, settings, metrics=metrics, search_stop_condition=limits)
    assert (
        "metrics.score.direction: 'maximize' with scale 1 prefers higher"
        in Path(settings["search_log_path"]).read_text()
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_latency_is_of_is_said_once(
    model: Path, feeds: Feeds, settings: dict[str, Any], n_jobs: int
) -> None:
    """Logarithmic numbers are emulated, int8 is not; both are trials."""
    entries = {"name": ["int8", "log"], "data_in_width": [4, 6], "weight_width": [4, 6]}
    changes = {
        "search_space": {"layers": {"share": "all", "default": entries}},
        "metrics": {"L2": {"scale": 1.0}, "latency": {"scale": 0.1}},
        "metric_options": {"latency": {"runs": 3, "warmup": 1}},
        "search_evaluator": None,
        "n_jobs": n_jobs,
    }
    made = AutoSearch(None, {**settings, **changes}, model, feeds)
    made.search_model()
    trials = result(made).trials
    assert [trial.state for trial in trials] == ["complete"] * 5
    for trial in trials:
        measured = trial.outcome.measured
        assert trial.values == (measured["L2"], pytest.approx(0.1 * measured["latency"]))
        assert {"latency", "latency_spread", "latency_ratio"} <= set(trial.outcome.hardware)
        assert all(value > 0 for value in trial.outcome.hardware.values())
        assert bool(trial.outcome.notes) == ("'name': 'log'" in str(trial.config["layers"]))
    log = Path(settings["search_log_path"]).read_text()
    assert log.count("Latency is that of an emulation") == 1
