from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosearch.space import SearchSpace
from autosearch.space.effective import config_digest, digest_of, effective_config
from autosearch.space.rules import (
    DEFAULTS,
    REWRITES,
    RULES,
    STRIPS,
    Drop,
    apply_rules,
    refusal,
    stripped_keys,
)
from quant.config import QuantConfig, flatten
from tests.autosearch.spaces import rule_sets, spaces

FT = "extra_options.FastFinetune."
EO = "extra_options."


def effective(**values: Any) -> dict[str, Any]:
    """With two underscores for the prefix of level 2, three for that of level 3."""
    keys = {
        (FT + key[3:] if key.startswith("___") else EO + key[2:] if key.startswith("__") else key): value
        for key, value in values.items()
    }
    assert keys.keys() <= DEFAULTS.keys()
    return apply_rules({**DEFAULTS, **keys}, RULES)


@pytest.mark.parametrize(
    ("key", "value", "without", "with_"),
    [
        ("__CalibMovingAverage", True, {"calibrate_method": "Entropy"}, {"calibrate_method": "MinMax"}),
        ("__CalibMovingAverageConstant", 0.5, {}, {"__CalibMovingAverage": True}),
        (
            "__CalibMovingAverageConstant",
            0.5,
            {"__CalibMovingAverage": True, "calibrate_method": "Percentile"},
            {"__CalibMovingAverage": True, "calibrate_method": "MinMax"},
        ),
        ("__Percentile", 99.0, {"calibrate_method": "MinMax"}, {"calibrate_method": "Percentile"}),
        (
            "__PercentileCandidates",
            [99.0],
            {"calibrate_method": "Percentile"},
            {"calibrate_method": "LayerWisePercentile"},
        ),
        (
            "__LWPMetric",
            "mse",
            {"calibrate_method": "Percentile"},
            {"calibrate_method": "LayerWisePercentile"},
        ),
        (
            "__DistributionDeviations",
            3.0,
            {"calibrate_method": "MSE"},
            {"calibrate_method": "Distribution"},
        ),
        (
            "__WeightCalibrateMethod",
            "MSE",
            {"calibrate_method": "MinMSE"},
            {"calibrate_method": "NonOverflow"},
        ),
        (
            "__CalibTensorRangeSymmetric",
            True,
            {"__ActivationSymmetric": True, "calibrate_method": "MSE", "__MinimumRealRange": 0.1},
            {"calibrate_method": "MSE"},
        ),
        ("__CalibTensorRangeSymmetric", True, {"__ActivationSymmetric": True}, {}),
        (
            "__CalibTensorRangeSymmetric",
            True,
            {"__ActivationSymmetric": True, "calibrate_method": "Entropy", "__MinimumRealRange": 0.1},
            {"calibrate_method": "Entropy"},
        ),
        (
            "__CalibTensorRangeSymmetric",
            False,
            {"__ActivationSymmetric": True},
            {"__ActivationSymmetric": True, "calibrate_method": "Percentile"},
        ),
        (
            "__CalibTensorRangeSymmetric",
            True,
            {"__ActivationSymmetric": True},
            {"__ActivationSymmetric": True, "__MinimumRealRange": 0.1},
        ),
        ("__QDQKeepRemovableActivations", True, {"__ActivationSymmetric": True}, {}),
        ("__QDQKeepRemovableActivations", True, {"__CalibTensorRangeSymmetric": True}, {}),
        ("__QDQOpTypePerChannelSupportToAxis", {"MatMul": 0}, {}, {"per_channel": True}),
        ("__CLESteps", 7, {}, {"include_cle": True}),
        ("__CLEScaleAppendBias", not DEFAULTS[EO + "CLEScaleAppendBias"], {}, {"include_cle": True}),
        ("__CLEScaleUseThreshold", not DEFAULTS[EO + "CLEScaleUseThreshold"], {}, {"include_cle": True}),
        (
            "__CLEWeightThreshold",
            0.1,
            {"__CLEScaleUseThreshold": True},
            {"__CLEScaleUseThreshold": True, "include_cle": True},
        ),
        (
            "__CLEWeightThreshold",
            0.1,
            {"include_cle": True, "__CLEScaleUseThreshold": False},
            {"include_cle": True, "__CLEScaleUseThreshold": True},
        ),
        (
            "__CLETotalLayerDiffThreshold",
            0.1,
            {"include_cle": True, "__CLESteps": 3},
            {"include_cle": True, "__CLESteps": -1},
        ),
        ("__SmoothAlpha", 0.1, {}, {"include_sq": True}),
        ("___NumIterations", 7, {}, {"include_fast_ft": True}),
        ("___OptimAlgorithm", "gptq", {}, {"include_fast_ft": True}),
        ("___DataSize", 7, {}, {"include_fast_ft": True}),
        (
            "___RegParam",
            0.5,
            {"include_fast_ft": True, "___OptimAlgorithm": "adaquant"},
            {"include_fast_ft": True},
        ),
        (
            "___LearningRate",
            0.5,
            {"include_fast_ft": True, "___OptimAlgorithm": "gptq"},
            {"include_fast_ft": True, "___OptimAlgorithm": "adaquant"},
        ),
    ],
)
def test_strips_what_does_not_matter(
    key: str, value: object, without: dict[str, Any], with_: dict[str, Any]
) -> None:
    assert effective(**{key: value}, **without) == effective(**without)
    assert effective(**{key: value}, **with_) != effective(**with_)


@pytest.mark.parametrize("key", ["___BatchSize", "___NumBatches", "___LogPeriod"])
def test_what_never_changes_the_result_is_always_stripped(key: str) -> None:
    assert effective(include_fast_ft=True, **{key: 9}) == effective(include_fast_ft=True)


@pytest.mark.parametrize(("weight_type", "meant"), [("QInt8", True), ("QUInt8", False), ("QInt16", True)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weight_symmetric_none_follows_the_type(weight_type: str, meant: bool, per_channel: bool) -> None:
    # also with per_channel: weights whose channel axis does not exist (the scale of a
    # LayerNormalization) stay per tensor, and follow WeightSymmetric
    common = {"weight_type": weight_type, "per_channel": per_channel}
    assert effective(**common) == effective(**common, __WeightSymmetric=meant)
    assert effective(**common) != effective(**common, __WeightSymmetric=not meant)


@pytest.mark.parametrize(
    ("values", "distinct"),
    [
        ({"calibrate_method": "MinMax"}, [{None, False}, {True}]),
        ({"calibrate_method": "Entropy"}, [{None, False}, {True}]),
        ({"calibrate_method": "Percentile"}, [{None}, {False}, {True}]),
        ({"calibrate_method": "MinMax", "__ActivationSymmetric": True}, [{None, False, True}]),
        ({"calibrate_method": "Percentile", "__ActivationSymmetric": True}, [{None, True}, {False}]),
    ],
)
def test_range_symmetric_none_is_one_of_the_others_or_a_third(
    values: dict[str, Any], distinct: list[set[bool | None]]
) -> None:
    groups: dict[str, set[bool | None]] = {}
    for symmetric in (None, False, True):
        form = effective(**values, __CalibTensorRangeSymmetric=symmetric)
        groups.setdefault(digest_of(form), set()).add(symmetric)
    assert list(groups.values()) == distinct


def test_num_iter_lr_is_the_two_written_apart() -> None:
    joint = effective(include_fast_ft=True, ___NumIterLR=[200, 1e-5])
    apart = effective(include_fast_ft=True, ___NumIterations=200, ___LearningRate=1e-5)
    assert joint == apart
    assert joint[FT + "NumIterLR"] is None


@pytest.mark.parametrize(
    "key",
    [
        "op_types_to_quantize",
        "nodes_to_quantize",
        "nodes_to_exclude",
        "__OpTypesToExcludeOutputQuantization",
        "___TargetOpType",
    ],
)
def test_names_are_a_set(key: str) -> None:
    shuffled, ordered = {key: ["Gemm", "Conv", "Gemm"]}, {key: ["Conv", "Gemm"]}
    assert effective(include_fast_ft=True, **shuffled) == effective(include_fast_ft=True, **ordered)


def test_order_of_percentile_candidates_and_providers_is_kept() -> None:
    lwp = {"calibrate_method": "LayerWisePercentile"}
    assert effective(**lwp, __PercentileCandidates=[99.0, 98.0]) != effective(
        **lwp, __PercentileCandidates=[98.0, 99.0]
    )
    assert effective(execution_providers=["A", "B"]) != effective(execution_providers=["B", "A"])


def test_what_a_drop_refuses_has_its_reason() -> None:
    rules = (Drop("include_cle", "gone"), *RULES)
    assert refusal({**DEFAULTS, "include_cle": True}, rules) == "include_cle: gone"
    assert refusal(DEFAULTS, rules) is None and refusal({**DEFAULTS, "include_cle": True}) is None


def test_reasons_are_unique() -> None:
    reasons = [rule.reason for rule in RULES]
    assert len(set(reasons)) == len(reasons)


@given(spaces, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_strips_do_not_depend_on_their_order(written: list[dict[str, Any]], shuffler: random.Random) -> None:
    shuffled = shuffler.sample(STRIPS, len(STRIPS))
    for part in SearchSpace(written).parts:
        for values in itertools.islice(points(part), 50):
            assert apply_rules(values, (*REWRITES, *shuffled)) == apply_rules(values, RULES)


@given(spaces, rule_sets)
@settings(deadline=None, max_examples=50)
def test_effective_is_idempotent(written: list[dict[str, Any]], rules: Any) -> None:
    for part in SearchSpace(written).parts:
        for values in itertools.islice(points(part), 50):
            once = apply_rules(values, rules)
            assert apply_rules(once, rules) == once
            assert all(once[key] == DEFAULTS[key] for key in stripped_keys(once, rules))


def points(part: Any) -> Any:
    keys = [dimension.key for dimension in part.dimensions]
    for values in itertools.product(*(dimension.values for dimension in part.dimensions)):
        yield {**part.base, **dict(zip(keys, values, strict=True))}


def test_digest_does_not_see_how_a_value_is_written() -> None:
    one = QuantConfig(
        calibrate_method="Percentile", extra_options={"Percentile": 99, "MinimumRealRange": 1e-3}
    )
    other = QuantConfig(
        calibrate_method="CalibrationMethod.percentile",
        extra_options={"Percentile": 99.0, "MinimumRealRange": 0.001, "CLESteps": 5},
    )
    assert config_digest(one) == config_digest(other)
    assert config_digest(one) != config_digest(QuantConfig(calibrate_method="Percentile"))


def test_effective_config_names_every_key_and_rebuilds_itself() -> None:
    config = QuantConfig(weight_type="QUInt8", extra_options={"Percentile": 99.0})
    form = effective_config(config)
    assert form.keys() == flatten(config.to_dict()).keys()
    assert form["extra_options.WeightSymmetric"] is False
    assert form["extra_options.Percentile"] == 99.999
