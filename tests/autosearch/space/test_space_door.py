from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autosearch.space import SearchSpace
from autosearch.space.dimensions import Choices, Range
from autosearch.space.parts import parse_search_space
from quant.config import QuantConfig
from quant.errors import ConfigError
from quant.types import CalibrationMethod, PowerOfTwoMethod, QuantType

FT = "FastFinetune"


def dimension(written: dict[str, Any]) -> Any:
    (part,) = parse_search_space(written, QuantConfig())
    (found,) = part.dimensions
    return found


@pytest.mark.parametrize(
    ("written", "values"),
    [
        (
            {"calibrate_method": [CalibrationMethod.MinMax, PowerOfTwoMethod.MinMSE, "percentile"]},
            ("MinMax", "MinMSE", "Percentile"),
        ),
        ({"activation_type": (QuantType.QInt8, "QuantType.QUInt8")}, ("QInt8", "QUInt8")),
        ({"per_channel": True}, (True,)),
        ({"calibrate_method": CalibrationMethod.Entropy}, ("Entropy",)),
        ({"extra_options": {"Percentile": [99, 99.0, 98]}}, (99.0, 98.0)),
        ({"extra_options.Percentile": [99]}, (99.0,)),
        ({"extra_options": {"Percentile": np.array([98.5, 99.5])}}, (98.5, 99.5)),
        ({"extra_options": {"CalibDataSize": [None, np.int64(3)]}}, (None, 3)),
        ({"extra_options": {FT: {"LearningRate": [1e-3, 0.001]}}}, (0.001,)),
        ({"extra_options": {FT: {"NumIterLR": [[100, 1e-4], (200, 1)]}}}, ([100, 1e-4], [200, 1.0])),
        ({"nodes_to_exclude": [["a", "b"], [], None]}, (["a", "b"], [])),
        ({"nodes_to_exclude": "a"}, (["a"],)),
        ({"extra_options": {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 0}}}, ({"MatMul": 0},)),
    ],
)
def test_choices_are_normalised(written: dict[str, Any], values: tuple[Any, ...]) -> None:
    found = dimension(written)
    assert isinstance(found, Choices)
    assert found.values == values
    assert [type(value) for value in found.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ([], "search_space: the list is empty"),
        ("MinMax", "search_space: takes a dict or a list of dicts"),
        ([{}, 3], r"search_space\[1\]: takes a dict"),
        ({"calibrate_methods": ["MinMax"]}, "unknown key 'calibrate_methods'; did you mean 'calibrate_met"),
        ({"extra_options": {"Percentil": [99]}}, "extra_options: unknown key 'Percentil'; did you mean"),
        ({"extra_options": {"SmoothQuantAlpha": [0.5]}}, "unknown key 'SmoothQuantAlpha': use SmoothAlpha"),
        ({"Percentile": [99]}, "search_space: unknown key 'Percentile'; it belongs in extra_options"),
        ({"extra_options": {"per_channel": [True]}}, "'per_channel'; it belongs on the first level"),
        ({3: [1]}, "search_space: unknown key 3"),
        ({"extra_options": [{}]}, "search_space.extra_options: takes a dict"),
        ({"per_channel": []}, "search_space.per_channel: the list of choices is empty"),
        (
            [{}, {"extra_options": {"Percentile": [99, 98, 150]}}],
            r"search_space\[1\].extra_options.Percentile\[2\]: .*less than or equal to 100, got 150",
        ),
        ({"calibrate_method": ["MinMaxx"]}, r"calibrate_method\[0\]: 'MinMaxx' is not a supported calibra"),
        ({"extra_options": {"Percentile": [float("nan")]}}, r"Percentile\[0\]: "),
        (
            {"extra_options": {FT: {"TargetOpType": [["Conf"]]}}},
            r"FastFinetune.TargetOpType\[0\]: 'Conf' is not",
        ),
        ({"extra_options": {FT: {"LRAdjust": [[0.1]]}}}, r"FastFinetune.LRAdjust\[0\]: .*positive learning"),
        ({"extra_options": {FT: {"OptimAlgorithm": ["sgd"]}}}, r"FastFinetune.OptimAlgorithm\[0\]: .*'sgd'"),
        ({"nodes_to_exclude": ["a", "b"]}, r"nodes_to_exclude\[0\]: each choice of nodes_to_exclude is a l"),
        ({"per_channel": {True, False}}, "search_space.per_channel: "),
        ({"extra_options": {FT: {"NumIterLR": [100, 1e-4]}}}, r"NumIterLR\[0\]: each choice of NumIterLR is"),
        ({"extra_options": {FT: {"NumIterLR": [[100]]}}}, r"NumIterLR\[0\].1: "),
        (
            {"extra_options": {FT: {"NumIterLR": [[100, 0.1]], "LearningRate": [0.1]}}},
            "search_space: NumIterLR and LearningRate both set LearningRate",
        ),
        (
            {"extra_options": {"Percentile": [99]}, "extra_options.Percentile": [99]},
            "Percentile: is given tw",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(written: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SearchSpace(written)


@pytest.mark.parametrize(
    ("key", "written", "expected"),
    [
        ("CLESteps", {"type": "int", "low": 1, "high": 10, "step": 4}, [1, 5, 9]),
        ("CLESteps", {"type": "int", "low": 1, "high": 3}, [1, 2, 3]),
        ("CalibDataSize", {"type": "int", "low": 1, "high": 3, "log": True}, [1, 2, 3]),
        ("SmoothAlpha", {"type": "float", "low": 0.1, "high": 0.45, "step": 0.1}, [0.1, 0.2, 0.3, 0.4]),
        ("Percentile", {"type": "int", "low": 98, "high": 100}, [98.0, 99.0, 100.0]),
        ("Percentile", {"type": "float", "low": 99, "high": 99}, [99.0]),
    ],
)
def test_finite_ranges_list_their_values(key: str, written: dict[str, Any], expected: list[Any]) -> None:
    found = dimension({"extra_options": {key: written}})
    assert isinstance(found, Range)
    assert list(found.values) == expected
    assert {type(value) for value in found.values} == {type(expected[0])}
    assert found.size == len(expected)
    assert [found.digit(value) for value in found.values] == list(range(len(expected)))


def test_continuous_ranges_have_no_size() -> None:
    found = dimension({"extra_options": {"Percentile": {"type": "float", "low": 99, "high": 100}}})
    assert found.size is None
    drawn = [found.draw(np.random.default_rng(seed)) for seed in range(20)]
    assert all(99 <= value <= 100 for value in drawn)
    assert len(set(drawn)) == 20


def test_logarithmic_ranges_are_drawn_in_the_logarithm() -> None:
    written = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
    generator = np.random.default_rng(0)
    found = dimension({"extra_options": {FT: {"LearningRate": written}}})
    drawn = [found.draw(generator) for _ in range(2000)]
    assert np.mean(np.array(drawn) < 1e-2) == pytest.approx(0.5, abs=0.05)  # 4 sigma


def test_logarithmic_int_ranges_reach_both_ends() -> None:
    written = {"type": "int", "low": 1, "high": 4, "log": True}
    generator = np.random.default_rng(0)
    found = dimension({"extra_options": {"CalibDataSize": written}})
    assert {found.draw(generator) for _ in range(200)} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("key", "written", "complaint"),
    [
        ("Percentile", {"type": "float", "low": 99}, "Percentile: a range needs .*; 'high' is missing"),
        ("Percentile", {"type": "float", "low": 99, "hihg": 100}, "unknown key 'hihg' of a range; did you"),
        ("Percentile", {"type": "real", "low": 99, "high": 100}, "Percentile.type: takes 'int' or 'float'"),
        ("Percentile", {"type": "float", "low": 10, "high": 100}, "Percentile.low: .*greater than 50, got 1"),
        ("Percentile", {"type": "float", "low": 99, "high": 98}, "Percentile: low 99.0 is above high 98.0"),
        (
            "Percentile",
            {"type": "float", "low": "99", "high": 98},
            "Percentile.low: takes a number, got '99'",
        ),
        ("Percentile", {"type": "float", "low": 99, "high": float("inf")}, "Percentile.high: must be finite"),
        ("Percentile", {"type": "float", "low": 98, "high": 99, "step": 0}, "step: must be positive"),
        (
            "SmoothAlpha",
            {"type": "float", "low": 0, "high": 1, "log": True},
            "low: must be positive with log",
        ),
        ("SmoothAlpha", {"type": "float", "low": 0.1, "high": 1, "log": 1}, "log: takes true or false"),
        (
            "SmoothAlpha",
            {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1},
            "log takes no step",
        ),
        ("CLESteps", {"type": "float", "low": 1, "high": 2}, "CLESteps.type: takes 'int'"),
        ("CLESteps", {"type": "int", "low": 1, "high": 2.5}, "CLESteps.high: takes an integer, got 2.5"),
        ("LWPMetric", {"type": "int", "low": 1, "high": 2}, "LWPMetric: does not take numbers"),
        ("BiasCorrection", {"type": "int", "low": 0, "high": 1}, "BiasCorrection: does not take numbers"),
    ],
)
def test_malformed_ranges_are_refused(key: str, written: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SearchSpace({"extra_options": {key: written}})


def test_keys_apart_override_the_pair_of_the_base() -> None:
    base = QuantConfig(extra_options={FT: {"NumIterLR": (500, 0.5)}})
    space = SearchSpace({"extra_options": {FT: {"NumIterations": [100, 200]}}}, base)
    values = space.parts[0].base
    assert values["extra_options.FastFinetune.NumIterLR"] is None
    assert values["extra_options.FastFinetune.LearningRate"] == 0.5
