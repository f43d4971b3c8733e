from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from autosearch.compat import parse_config
from autosearch.errors import ConfigError, OutputError
from autosearch.problem import Problem, pose, read_quantization_config, threads_per_worker
from quant import QuantConfig
from tests.autosearch.models import make_feeds, write_model


@pytest.fixture
def posed(model: Path, settings: dict[str, Any]) -> Any:
    def make(
        *, base: Any = None, other: Path = model, feeds: Any = None, evaluation: Any = None, **changes: Any
    ) -> Problem:
        return pose(base, parse_config({**settings, **changes}), other, feeds or make_feeds(), evaluation)

    return make


def score(path: str) -> float:
    return 0.5


def other_score(path: str) -> float:
    return 0.5


def differing(one: Problem, other: Problem) -> set[str]:
    return {key for key in one.fingerprint if one.fingerprint[key] != other.fingerprint[key]}


def test_the_fingerprint_holds_what_decides_results(posed: Any, tmp_path: Path) -> None:
    base = posed()
    assert differing(base, posed()) == set()
    assert differing(base, posed(other=write_model(tmp_path / "other.onnx", seed=3))) == {"model"}
    other = make_feeds(seed=9)
    assert differing(base, posed(feeds=other)) == {"calibration data", "evaluation data"}
    assert differing(base, posed(evaluation=other)) == {"evaluation data"}
    assert differing(base, posed(search_space={"per_channel": [True]})) == {"search space"}
    assert differing(base, posed(search_metric="cos")) == {"metric"}
    assert "quantization_config" in differing(base, posed(base={"weight_type": "QInt16"}))
    assert differing(base, posed(search_evaluator=score)) == {"metric", "evaluator"}


def test_two_evaluators_are_not_the_same_search(posed: Any) -> None:
    one, other = posed(search_evaluator=score), posed(search_evaluator=other_score)
    assert "evaluator" in differing(one, other)
    assert differing(one, posed(search_evaluator=score)) == set()


def test_how_is_no_part_of_what(posed: Any, tmp_path: Path) -> None:
    changes = {
        "search_metric_tolerance": 0.1,
        "n_jobs": 2,
        "search_algo": "random",
        "search_seed": 3,
        "search_stop_condition": {"iteration_limit": 3},
        "search_output_dir": str(tmp_path / "elsewhere"),
        "keep_models": "all",
    }
    assert differing(posed(), posed(**changes)) == set()


def test_what_is_not_available_is_refused(posed: Any) -> None:
    assert posed().notes == ()
    with pytest.raises(ConfigError, match=r"search_devices: .*no CUDAExecutionProvider.*autosearch\[gpu\]"):
        posed(search_devices="cuda:0")


def test_the_default_metric_says_nothing_to_a_custom_evaluator(posed: Any) -> None:
    for metric in (None, "L2", "cos"):
        assert posed(search_evaluator=score, search_metric=metric).metric.name == "score"
    assert posed(search_evaluator=score, search_metric="Score").metric.name == "score"
    with pytest.raises(ConfigError, match="search_metric: the evaluator has no metric 'scroe'; did you mean"):
        posed(search_evaluator=score, search_metric="scroe")


def test_a_base_configuration_in_any_form() -> None:
    assert read_quantization_config(None) == QuantConfig()
    config = QuantConfig(per_channel=True)
    assert read_quantization_config(config) is config
    assert read_quantization_config({"per_channel": True}) == config
    with pytest.raises(ConfigError, match=r"quantization_config: .*per_channel"):
        read_quantization_config({"per_chanel": True})
    with pytest.raises(ConfigError, match="quantization_config: got list"):
        read_quantization_config([])  # type: ignore[arg-type]


def test_an_output_directory_is_made_or_refused_and_nothing_is_left_in_it(posed: Any, tmp_path: Path) -> None:
    posed(search_output_dir=str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"search_output_dir '.*file': cannot be written"):
        posed(search_output_dir=str(tmp_path / "file"))


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_worker(1) == cores
    assert threads_per_worker(cores) == threads_per_worker(1000) == 1
