from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from autosearch import AutoSearchConfig, MetricLimits, MetricSetting, StopCondition
from autosearch.compat import read_config
from autosearch.errors import ConfigError
from autosearch.units import Amount


def evaluate(path: str) -> float:
    return float(len(path))


class Plain:
    search_space: ClassVar = {"per_channel": [True, False]}
    search_metric = "cos"
    search_metric_tolerance = 0.99
    search_stop_condition: ClassVar = {"find_n_candidates": 3, "iteration_limit": -1}
    search_evaluator = evaluate
    cache_dir = "somewhere"


class Derived(AutoSearchConfig):
    search_metric = "L1"
    n_jobs = 3


VALUES: dict[str, Any] = {
    "search_space": {"per_channel": [True, False]},
    "search_metric": "cos",
    "search_metric_tolerance": 0.99,
    "search_stop_condition": {"find_n_candidates": 3, "iteration_limit": -1},
    "search_evaluator": evaluate,
    "search_cache_dir": "somewhere",
}


def test_a_class_an_object_and_a_dict_mean_the_same() -> None:
    assert read_config(Plain) == read_config(Plain()) == read_config(VALUES)
    assert read_config(Plain).search_stop_condition == StopCondition(find_n_candidates=3)


def test_a_function_on_a_class_is_not_bound() -> None:
    assert read_config(Plain).search_evaluator is evaluate
    assert read_config(Plain).search_evaluator("abc") == 3.0


def test_a_subclass_overrides_defaults() -> None:
    for source in (Derived, Derived()):
        config = read_config(source)
        assert (config.search_metric, config.n_jobs) == ("L1", 3)


def test_attributes_set_on_the_class_itself_are_read_and_never_reach_instances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AutoSearchConfig, "search_metric", "psnr")
    monkeypatch.setattr(AutoSearchConfig, "search_space", {"per_channel": [True]}, raising=False)
    config = read_config(AutoSearchConfig)
    assert config.search_metric == "psnr"
    assert config.search_space == {"per_channel": [True]}
    assert read_config(AutoSearchConfig()).search_metric is None


def test_a_yaml_file_may_also_name_model_and_data(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("model_input: m.onnx\nsearch_metric: L1\nsearch_stop_condition: {time_limit: 5}\n")
    config = read_config(path)
    assert config.search_metric == "L1"
    assert config.search_stop_condition.time_limit == 5
    assert read_config(str(path)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search_metrik": "L2"}, "unknown key 'search_metrik'; did you mean 'search_metric'?"),
        ({"n_jobs": 0}, "n_jobs: .*greater than 0, got 0"),
        ({"n_jobs": "many"}, "n_jobs: .*got 'many'"),
        ({"search_stop_condition": {"time_limits": 3}}, "search_stop_condition: unknown key 'time_limits'"),
        ({"search_stop_condition": {"time_limit": "soon"}}, "search_stop_condition.time_limit: .*got 'soon'"),
        ({"keep_models": "some"}, "keep_models: .*got 'some'"),
        ({"cache_dir": "a", "search_cache_dir": "b"}, "given twice"),
    ],
)
def test_bad_values_are_refused_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(values)


def test_minus_one_switches_a_condition_off() -> None:
    condition = read_config({"search_stop_condition": {"find_n_candidates": -1, "time_limit": -1}})
    assert condition.search_stop_condition == StopCondition()


def test_metrics_and_constraints_are_typed() -> None:
    config = read_config(
        {
            "metrics": {"accuracy": {"scale": 2}, "loss": None, "latency": {"direction": "minimize"}},
            "constraints": {"accuracy": {"min": 0.98}, "model_size": {"max": "0.25x"}},
        }
    )
    assert config.metrics == {
        "accuracy": MetricSetting(scale=2.0),
        "loss": MetricSetting(),
        "latency": MetricSetting(direction="minimize"),
    }
    assert config.constraints["model_size"] == MetricLimits(max=Amount(0.25, is_relative=True))
    assert read_config({"metrics": ["loss"]}).metrics == {"loss": MetricSetting()}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"metrics": {"a": {"scal": 1}}}, r"metrics\.a: unknown key 'scal'; did you mean 'scale'"),
        ({"metrics": {"a": {"direction": "up"}}}, r"metrics\.a\.direction: .*'minimize' or 'maximize'"),
        ({"metrics": {"a": {"scale": float("nan")}}}, r"metrics\.a\.scale: .*finite"),
        ({"constraints": {"a": {"maximum": 1}}}, r"constraints\.a: unknown key 'maximum'"),
        ({"constraints": {"a": {"max": "small"}}}, r"constraints\.a\.max: .*'0\.98x'.*got 'small'"),
        ({"seed_trials": -1}, "seed_trials: .*greater than or equal to 0"),
    ],
    ids=["metric-key", "direction", "scale", "constraint-key", "amount", "seed-trials"],
)
def test_wrong_metrics_and_constraints_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_config(values)
