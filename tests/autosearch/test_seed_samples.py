"""Searches as the documentation of Quark's automatic search shows them; only the imports differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod

from autosearch import AutoSearch, AutoSearchConfig
from autosearch.errors import ConfigError
from quant import PowerOfTwoMethod, QuantConfig
from tests.autosearch.models import make_feeds, write_model


@pytest.fixture(autouse=True)
def _configuration_class_as_before() -> Iterator[None]:
    """The samples set attributes on the class itself; this takes them back."""
    before = dict(vars(AutoSearchConfig))
    yield
    for name, value in dict(vars(AutoSearchConfig)).items():
        if name not in before:
            delattr(AutoSearchConfig, name)
        elif before[name] is not value:
            setattr(AutoSearchConfig, name, before[name])


@pytest.fixture
def float_onnx_model_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # the samples write to the current directory
    return str(write_model(tmp_path / "float.onnx"))


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """As onnxruntime's users write it: read once."""

    def __init__(self) -> None:
        self.feeds = iter(make_feeds())

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def log_text() -> str:
    return Path("auto_search.log").read_text()


def test_example_configuration(float_onnx_model_path: str) -> None:
    quantization_config = QuantConfig()
    calibration_data_reader = Reader()
    auto_search_config = AutoSearchConfig
    auto_search_config.search_space = {
        "calibrate_method": [
            PowerOfTwoMethod.MinMSE,
            PowerOfTwoMethod.NonOverflow,
            CalibrationMethod.MinMax,
            CalibrationMethod.Entropy,
            CalibrationMethod.Percentile,
        ],
        "activation_type": [QuantType.QInt8, QuantType.QInt16],
        "weight_type": [QuantType.QInt8, QuantType.QInt16],
        "include_cle": [True, False],
        "include_auto_mp": [False, True],
        "include_fast_ft": [False, True],
        "include_sq": [False, True],
        "extra_options": {
            "ActivationSymmetric": [True, False],
            "WeightSymmetric": [True, False],
            "CalibMovingAverage": [True, False],
            "CalibMovingAverageConstant": [0.01, 0.001],
            "Percentile": [99.99, 99.999],
            "SmoothAlpha": [0.5, 0.6],
            "FastFinetune": {
                "DataSize": [500, 1000],
                "NumIterations": [100, 1000],
                "OptimAlgorithm": ["adaround", "adaquant"],
                "LearningRate": [0.01, 0.001, 0.0001],
                "FixedSeed": [42],
            },
        },
    }
    auto_search_config.search_stop_condition = {  # type: ignore[assignment]
        "find_n_candidates": -1,
        "find_best_candidate": -1,
        "iteration_limit": 20,  # of 1000, for time
        "time_limit": 3600,
    }
    auto_search_config.search_evaluator = None

    auto_search_instance = AutoSearch(
        quantization_config, auto_search_config, float_onnx_model_path, calibration_data_reader
    )
    searched_candidates = auto_search_instance.search_model()

    assert len(searched_candidates) == 20
    differences = [candidate["difference"] for candidate in searched_candidates]
    assert differences == sorted(differences)
    assert {*searched_candidates[0]} >= {"config_index", "difference", "model_path"}
    assert all(Path(candidate["model_path"]).is_file() for candidate in searched_candidates)
    log = log_text()
    for reason in (
        "FastFinetune options only with include_fast_ft; merged",
        "Percentile only with calibrate_method Percentile; merged",
        "CalibMovingAverage only with calibrate_method MinMax; merged",
    ):
        assert reason in log
    assert "Executing search 20/20" in log
    assert "Stopped: iteration_limit: 20 trials" in log


def test_attributes_set_on_the_class_were_taken_back() -> None:
    assert AutoSearchConfig.search_evaluator is None
    assert "search_space" not in vars(AutoSearchConfig)


def test_two_stage_search_says_that_it_runs_the_standard_one(float_onnx_model_path: str) -> None:
    class Auto_search_config:
        two_stage_search = True
        search_space = {"calibrate_method": ["MinMax"], "per_channel": [True, False]}  # noqa: RUF012

    search = AutoSearch(None, Auto_search_config, float_onnx_model_path, Reader())
    assert len(search.search_model()) == 2
    assert "two_stage_search has no effect" in log_text()
    assert "running the standard search" in log_text()


def test_two_stage_search(float_onnx_model_path: str) -> None:
    class Auto_search_config:
        two_stage_search = True
        search_space = {  # noqa: RUF012
            "calibrate_method": [CalibrationMethod.MinMax, CalibrationMethod.Percentile],
            "include_fast_ft": [False, True],
            "extra_options": {
                "Percentile": [99.9, 99.99],
                "FastFinetune": {"NumIterations": [10, 20], "LearningRate": [0.1]},
            },
        }

    search = AutoSearch(None, Auto_search_config, float_onnx_model_path, Reader())
    assert len(search.search_model()) == 3 + 2
    assert search.result is not None
    assert [trial.stage for trial in search.result.trials] == ["calibration"] * 3 + ["fast_finetune"] * 2
    best = min(search.result.trials[:3], key=lambda trial: trial.difference or 0.0)
    for trial in search.result.trials[3:]:
        assert {**trial.config, "include_fast_ft": False, "extra_options": None} == {
            **best.config,
            "extra_options": None,
        }


def test_advanced_fastft_search(float_onnx_model_path: str) -> None:
    class Auto_search_config:
        advanced_fastft_search = True
        n_jobs = 1
        search_devices = "cpu"
        advanced_fastft_params = {"sampler_algo": "TPE", "direction": "minimize", "n_trials": 10}  # noqa: RUF012
        search_space = {  # noqa: RUF012
            "extra_options": {"FastFinetune": {"NumIterations": [100, 200], "LearningRate": [1e-3, 1e-7]}}
        }

    with pytest.raises(ConfigError, match=r"include_fast_ft is false.*set it to true in quantization_config"):
        AutoSearch(QuantConfig(), Auto_search_config, float_onnx_model_path, Reader())
    quantization_config = QuantConfig(include_fast_ft=True)
    search = AutoSearch(quantization_config, Auto_search_config, float_onnx_model_path, Reader())
    candidates = search.search_model()
    assert len(candidates) == 10
    finetune = [candidate["config"]["extra_options"]["FastFinetune"] for candidate in candidates]
    assert all(100 <= one["NumIterations"] <= 200 and 1e-7 <= one["LearningRate"] <= 1e-3 for one in finetune)
    assert len({one["LearningRate"] for one in finetune}) == 10


def test_joint_parameters(float_onnx_model_path: str) -> None:
    class Auto_search_config:
        search_space = {  # noqa: RUF012
            "include_fast_ft": [True],
            "extra_options": {"FastFinetune": {"NumIterLR": [[100, 1e-4], [200, 1e-5]]}},
        }

    candidates = AutoSearch(None, Auto_search_config, float_onnx_model_path, Reader()).search_model()
    finetune = [candidate["config"]["extra_options"]["FastFinetune"] for candidate in candidates]
    assert {(one["NumIterations"], one["LearningRate"]) for one in finetune} == {(100, 1e-4), (200, 1e-5)}
    assert all(candidate["config"]["include_fast_ft"] for candidate in candidates)


def test_a_custom_evaluator_as_plain_function_of_the_class(float_onnx_model_path: str) -> None:
    seen: list[str] = []

    def evaluator(onnx_path: str) -> float:
        seen.append(onnx_path)
        return 0.5

    class Auto_search_config:
        search_space = {"per_channel": [True, False]}  # noqa: RUF012
        search_evaluator: Any = evaluator
        search_metric_tolerance = 0.1
        search_stop_condition = {"find_n_candidates": 1}  # noqa: RUF012

    candidates = AutoSearch(None, Auto_search_config, float_onnx_model_path, Reader()).search_model()
    assert [candidate["difference"] for candidate in candidates] == [0.0]
    assert seen == [float_onnx_model_path, candidates[0]["model_path"]]
