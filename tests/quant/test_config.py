from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from onnxruntime.quantization import CalibrationMethod, QuantType

from quant import ConfigError, ExtraOptions, LayerWiseMethod, PowerOfTwoMethod, QuantConfig
from quant.config import flatten, unflatten
from quant.graph.placement import PlacementOptions

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"extra_options": {"AutoMixprecision": {"Granularty": "node"}}},
        "extra_options.AutoMixprecision: unknown key 'Granularty'; did you mean 'Granularity'?",
    ),
    ({"activation_typ": "QInt8"}, "unknown key 'activation_typ'; did you mean 'activation_type'?"),
    (
        {"extra_options": {"Percentil": 99}},
        "extra_options: unknown key 'Percentil'; did you mean 'Percentile'?",
    ),
    (
        {"extra_options": {"FastFinetune": {"LearnRate": 1}}},
        "extra_options.FastFinetune: unknown key 'LearnRate'; did you mean 'LearningRate'?",
    ),
    ({"activation_type": "QInt9"}, "activation_type: 'QInt9' is not a supported quantized type"),
    ({"calibrate_method": "Percentil"}, "'Percentil' is not a supported calibration method"),
    ({"extra_options": {"DistributionDeviations": 0}}, "extra_options.DistributionDeviations"),
    ({"extra_options": {"WeightCalibrateMethod": "mse"}}, "extra_options.WeightCalibrateMethod"),
    ({"calibrate_method": 3}, "3 is not a supported calibration method"),
    ({"extra_options": {"Percentile": 50}}, "extra_options.Percentile"),
    ({"extra_options": {"Percentile": 100.1}}, "extra_options.Percentile"),
    ({"extra_options": {"CalibDataSize": 0}}, "extra_options.CalibDataSize"),
    ({"extra_options": {"CLESteps": -2}}, "extra_options.CLESteps"),
    ({"extra_options": {"MinimumRealRange": float("nan")}}, "extra_options.MinimumRealRange"),
    ({"extra_options": {"FastFinetune": {"NumIterations": -1}}}, "extra_options.FastFinetune.NumIterations"),
    ({"extra_options": {"SmoothAlpha": 1.1}}, "extra_options.SmoothAlpha"),
    ({"per_channel": "perhaps"}, "per_channel"),
    ({"nodes_to_exclude": 3}, "nodes_to_exclude"),
    ({"layers": {}}, "layers: says nothing of any layer"),
    ({"layers": 3}, "layers: 3 is no table"),
    ({"layers": {"by": "nam", "fc": {}}}, "layers.by: 'nam' is not possible; did you mean 'name'?"),
    ({"layers": {"by": "pattern", "(": {}}}, "layers.keys: '(' is not a regular expression"),
    ({"layers": {"by": "type", "Gem": {}}}, "layers.keys: 'Gem' is no type of layer; did you mean 'Gemm'?"),
    ({"layers": {"fc": 8}}, "layers.fc: 8 is no table of formats"),
    ({"layers": {"fc": {"name": "intger"}}}, "layers.fc.name: unknown number format 'intger'"),
    ({"layers": {"fc": {"name": "int8", "width": 3}}}, "layers.fc.width: unknown key"),
    ({"layers": {"fc": {"name": "integer", "weight_width": 4}}}, "layers.fc.data_in_width: "),
    ({"layers": {"fc": {"name": "int8"}}, "include_auto_mp": True}, "include_auto_mp: True has no meaning"),
    ({"layers": {"fc": {"name": "int8"}}, "weight_type": "QInt4"}, "weight_type: 'QInt4' has no meaning"),
    (
        {"layers": {"fc": {"name": "int8"}}, "extra_options": {"BlockSize": 16}},
        "extra_options.BlockSize: 16 has no meaning beside layers; give weight_granularity",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_errors_name_the_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuantConfig(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize("method", [*CalibrationMethod, *PowerOfTwoMethod, *LayerWiseMethod])
def test_methods_by_member_or_name(method: Any) -> None:
    spellings = (method, method.name, str(method), method.name.lower())
    assert {QuantConfig(calibrate_method=spelling).calibrate_method for spelling in spellings} == {method}


def test_types_by_member_or_name() -> None:
    for spelling in (QuantType.QUInt16, "QUInt16", "QuantType.QUInt16", "quint16"):
        assert QuantConfig(weight_type=spelling).weight_type is QuantType.QUInt16


def test_survives_being_written_and_read() -> None:
    config = QuantConfig(
        calibrate_method=PowerOfTwoMethod.MinMSE,
        activation_type="QUInt16",
        nodes_to_exclude=["a", "b"],
        extra_options={"Percentile": 99.9, "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}},
    )
    plain = config.to_dict()
    assert plain["calibrate_method"] == "MinMSE" and plain["nodes_to_exclude"] == ["a", "b"]
    assert QuantConfig(**plain) == config
    assert QuantConfig(**unflatten(flatten(plain))) == config
    assert flatten(plain)["extra_options.QDQOpTypePerChannelSupportToAxis"] == {"MatMul": 1}


def test_is_frozen_and_replaced() -> None:
    config = QuantConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.per_channel = True  # type: ignore[misc]
    assert config.replace(per_channel=True).per_channel and not config.per_channel
    with pytest.raises(ConfigError):
        config.replace(weight_type="QInt9")


def test_replacing_leaves_defaults_defaults() -> None:
    config = QuantConfig(per_channel=True).replace(weight_type="QInt16")
    assert config.model_fields_set == {"per_channel", "weight_type"}
    assert config == QuantConfig(per_channel=True, weight_type="QInt16")


def test_one_name_stands_for_a_list_of_one() -> None:
    assert QuantConfig(nodes_to_exclude="conv", op_types_to_quantize=None).nodes_to_exclude == ("conv",)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({}, set()),
        ({"extra_options": {"ActivationSymmetric": True}}, {"Relu", "Clip"}),
        ({"extra_options": {"CalibTensorRangeSymmetric": True}}, {"Relu", "Clip"}),
        ({"extra_options": {"QDQKeepRemovableActivations": True}}, {"Relu", "Clip"}),
        ({"extra_options": {"OpTypesToExcludeOutputQuantization": ["Relu"]}}, {"Relu"}),
        ({"calibrate_method": "NonOverflow"}, {"Clip"}),
    ],
)
def test_activations_that_the_ranges_do_not_stand_for(values: dict[str, Any], kept: set[str]) -> None:
    assert set(PlacementOptions.of(QuantConfig(**values)).kept_activations) == kept


def test_nested_defaults_are_shared_values() -> None:
    assert QuantConfig().extra_options == ExtraOptions()
    assert hash(QuantConfig().calibrate_method) == hash(CalibrationMethod.MinMax)


def test_formats_of_layers_survive_too() -> None:
    table = {
        "by": "pattern",
        "block.*": {"name": "block_fp", "weight_block_size": [1, 16], "data_in_width": "NA"},
        ".*head": {"name": "NA"},
        "default": {"name": "fixed", "data_in_width": 8, "weight_width": 4, "bias_width": 8},
    }
    config = QuantConfig(layers=table)
    written = config.to_dict()
    assert list(written["layers"]) == ["by", *list(table)[1:]]
    assert QuantConfig(**json.loads(json.dumps(written))) == config == pickle.loads(pickle.dumps(config))
    flat = flatten(written)
    assert flat["layers"] == written["layers"] and unflatten(flat) == written
    assert written["layers"]["block.*"]["weight_block_size"] == [1, 16]
