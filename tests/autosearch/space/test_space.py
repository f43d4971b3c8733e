from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from optuna.trial import FixedTrial

from autosearch.space import SearchSpace
from autosearch.space.configuration import Configuration
from autosearch.space.cost import stage_keys
from autosearch.space.effective import config_digest, digest_of
from autosearch.space.rules import Drop, Rule, apply_rules, refusal
from quant.config import QuantConfig
from quant.errors import ConfigError
from quant.types import PowerOfTwoMethod
from tests.autosearch.spaces import FEWER, SEED, rule_sets, spaces

FOUR_BY_THREE = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy", "MinMSE"],
    "extra_options": {"Percentile": [99.9, 99.99, 99.999]},
}


class BruteForce:
    """The same by plain loops, one configuration at a time."""

    def __init__(self, space: SearchSpace) -> None:
        self.first: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        self.stripped: Counter[str] = Counter()
        index = 0
        for part in space.parts:
            keys = [dimension.key for dimension in part.dimensions]
            for choice in itertools.product(*(dimension.values for dimension in part.dimensions)):
                self._visit({**part.base, **dict(zip(keys, choice, strict=True))}, index, keys, space.rules)
                index += 1
        self.raw_size = index

    def _visit(self, values: dict[str, Any], index: int, keys: list[str], rules: tuple[Rule, ...]) -> None:
        for rule in rules:
            if isinstance(rule, Drop):
                if values[rule.key]:
                    self.dropped[rule.reason] += 1
                    return
                continue
            new = {**values, **rule.effect(values)}
            self.stripped[rule.reason] += any(new[key] != values[key] for key in keys)
            values = new
        self.first.setdefault(digest_of(values), index)


@given(spaces, rule_sets)
@settings(deadline=None, max_examples=80)
def test_columns_agree_with_one_by_one(written: list[dict[str, Any]], rules: tuple[Rule, ...]) -> None:
    space = SearchSpace(written, rules=rules)
    expected, found = BruteForce(space), space.enumeration
    assert space.raw_size == expected.raw_size
    assert found.index.tolist() == sorted(expected.first.values())
    assert found.dropped == +expected.dropped
    assert found.stripped == +expected.stripped
    configurations = list(space)
    assert [c.digest for c in configurations] == list(expected.first)
    np.testing.assert_allclose(found.cost_s, [c.cost_s for c in configurations], rtol=1e-12)


@given(spaces, rule_sets)
@settings(deadline=None, max_examples=60)
def test_configurations_know_their_place(written: list[dict[str, Any]], rules: tuple[Rule, ...]) -> None:
    space = SearchSpace(written, rules=rules)
    for index in space.enumeration.index[:50]:
        configuration = space.configuration(int(index))
        assert configuration.index == index
        assert configuration.excluded is None
        assert apply_rules(configuration.effective, rules) == configuration.effective
        assert configuration.params.items() <= configuration.effective.items()
    assert space.raw_size is not None
    for raw in range(0, space.raw_size, 1 + space.raw_size // 30):
        first = space.configuration(raw)
        assert first.index is not None
        assert first.index <= raw
        assert space.configuration(first.index) == first


@given(spaces)
@settings(deadline=None, max_examples=40)
def test_digest_is_that_of_the_configuration_from_anywhere(written: list[dict[str, Any]]) -> None:
    for configuration in itertools.islice(SearchSpace(written), 20):
        assert config_digest(configuration.config) == configuration.digest


@given(spaces, rule_sets)
@settings(deadline=None, max_examples=60)
def test_trial_parameters_lead_back_to_the_configuration(
    written: list[dict[str, Any]], rules: tuple[Rule, ...]
) -> None:
    space = SearchSpace(written, rules=rules)
    for configuration in itertools.islice(space, 20):
        params, distributions = space.trial_params(configuration)
        trial = FixedTrial(params)
        assert space.suggest(trial) == configuration
        assert trial.distributions == distributions


def test_unfiltered_grid_of_quark_has_six_distinct_configurations() -> None:
    space = SearchSpace(FOUR_BY_THREE)
    assert space.raw_size == 12
    assert len(space.enumeration) == 6
    assert [c.short for c in space] == [
        "MinMax",
        "Percentile 99.9",
        "Percentile 99.99",
        "Percentile 99.999",
        "Entropy",
        "MinMSE",
    ]


def test_the_documented_example_builds() -> None:
    space = SearchSpace(SEED)
    methods, types, cle, symmetries = 8, 4, 2, 4  # MinMax counts 3: no average, or one of 2 constants
    smooth, mixed = 1 + 2, 2
    assert space.raw_size == 491_520
    finetuned = 1 + 24
    assert len(space.enumeration) == methods * types * cle * symmetries * smooth * mixed * finetuned


def test_the_documented_example_reduced_agrees_with_brute_force() -> None:
    reduced = {key: value for key, value in SEED.items() if not key.endswith("_type")}
    reduced["calibrate_method"] = ["NonOverflow", "MinMax", "Percentile"]
    space = SearchSpace(
        {
            **reduced,
            "extra_options": {
                **SEED["extra_options"],
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "FastFinetune": {"NumIterations": [100, 1000], "LearningRate": [0.1, 0.01]},
            },
        },
    )
    expected = BruteForce(space)
    assert space.enumeration.index.tolist() == sorted(expected.first.values())
    assert len(expected.first) == 6 * 2 * 2 * 3 * 5
    assert space.enumeration.stripped == +expected.stripped


UNION: list[dict[str, Any]] = [
    {"extra_options": {"FastFinetune": {"NumIterations": [100, 200], "LearningRate": [0.1]}}},
    {"extra_options": {"FastFinetune": {"NumIterLR": [[200, 0.1], [200, 0.2]]}}},
]


def test_a_union_merges_across_its_parts() -> None:
    assert len(SearchSpace(UNION).enumeration) == 1  # without FastFinetune, all of it means nothing
    space = SearchSpace([{"include_fast_ft": True, **part} for part in UNION])
    assert space.enumeration.index.tolist() == [0, 1, 3]
    assert [c.short for c in space] == [
        "NumIterations 100, LearningRate 0.1",
        "NumIterations 200, LearningRate 0.1",
        "NumIterations 200, LearningRate 0.2",
    ]


def test_parameters_are_what_varies_and_matters() -> None:
    space = SearchSpace(
        {
            **FOUR_BY_THREE,
            "activation_type": ["QUInt8"],
            "per_channel": [True, False],
            "include_cle": [True, False],
        }
    )
    chosen = space.configuration(4 * 4)  # digits 1, 1, 0, 0, 0
    assert chosen.params == {
        "calibrate_method": "Percentile",
        "extra_options.Percentile": 99.99,
        "per_channel": True,
        "include_cle": True,
    }
    assert chosen.short == "Percentile 99.99, per_channel, cle"
    assert chosen.config == QuantConfig(
        calibrate_method="Percentile",
        activation_type="QUInt8",
        per_channel=True,
        include_cle=True,
        extra_options={"Percentile": 99.99, "WeightSymmetric": True},
    )
    assert space.configuration(0).params.keys() == {"calibrate_method", "per_channel", "include_cle"}


def test_short_names_types_switches_and_lists() -> None:
    space = SearchSpace(
        {
            "activation_type": ["QUInt8", "QInt8"],
            "optimize_model": [False, True],
            "nodes_to_exclude": [["a", "b"], []],
            "extra_options": {"CalibDataSize": [None, 20]},
        }
    )
    assert (
        space.configuration(0).short
        == "QUInt8/QInt8, nodes_to_exclude [a b], no optimize_model, CalibDataSize None"
    )
    assert SearchSpace({}).configuration(0).short == "as the base configuration"


def test_absent_keys_come_from_the_base() -> None:
    base = QuantConfig(per_channel=True, extra_options={"Percentile": 98.0})
    (configuration,) = SearchSpace({"calibrate_method": "Percentile"}, base)
    assert configuration.config.per_channel
    assert configuration.config.extra_options.Percentile == 98.0


def test_configurations_are_equal_if_they_quantize_alike() -> None:
    space = SearchSpace(FOUR_BY_THREE)
    assert space.configuration(0) == space.configuration(1)
    assert len({space.configuration(index) for index in range(12)}) == 6
    assert space.configuration(0) != "a string"


def test_alpha_counts_only_with_smooth_quant() -> None:
    space = SearchSpace({"include_sq": [False, True], "extra_options": {"SmoothAlpha": [0.3, 0.5, 0.7]}})
    assert [c.short for c in space] == [
        "as the base configuration",
        "sq, SmoothAlpha 0.3",
        "sq, SmoothAlpha 0.5",
        "sq, SmoothAlpha 0.7",
    ]
    assert [c.config.include_sq for c in space] == [False, True, True, True]


def test_what_a_rule_refuses_says_why() -> None:
    space = SearchSpace({"include_fast_ft": [True, False]}, rules=FEWER)
    refused, kept = space.configuration(0), space.configuration(1)
    assert refused.excluded == refusal(refused.effective, FEWER) == "include_fast_ft: not wanted"
    assert kept.excluded is None
    assert len(space.enumeration) == 1


def test_a_space_that_is_refused_as_a_whole_is_empty() -> None:
    space = SearchSpace({"include_fast_ft": [True], "per_channel": [True, False]}, rules=FEWER)
    assert list(space) == []
    assert space.describe().distinct == 0


def test_digest_is_of_the_dimensions_not_of_their_spelling() -> None:
    written = {"calibrate_method": ["minmax", "MinMSE"], "extra_options": {"Percentile": [99]}}
    again = {"calibrate_method": ("MinMax", PowerOfTwoMethod.MinMSE), "extra_options.Percentile": 99.0}
    assert SearchSpace(written).digest == SearchSpace(again).digest
    assert SearchSpace(written).digest != SearchSpace({**written, "per_channel": [True]}).digest
    ranges = [{"extra_options": {"CLESteps": {"type": "int", "low": 1, "high": high}}} for high in (3, 4)]
    assert SearchSpace(ranges[0]).digest != SearchSpace(ranges[1]).digest


def test_values_of_a_key_are_those_of_all_parts() -> None:
    space = SearchSpace([{"calibrate_method": ["Entropy", "MinMSE"]}, {"per_channel": True}])
    assert space.values_of("calibrate_method") == ("Entropy", "MinMSE", "MinMax")
    assert space.values_of("weight_type") == ("QInt8",)


@pytest.mark.parametrize("index", [-1, 12])
def test_points_outside_do_not_exist(index: int) -> None:
    with pytest.raises(IndexError, match="no point"):
        SearchSpace(FOUR_BY_THREE).configuration(index)


def test_only_keys_that_matter_become_parameters() -> None:
    space = SearchSpace([{**FOUR_BY_THREE, "include_cle": [False, True]}, {"per_channel": [False, True]}])
    trial = FixedTrial({"space": 0, "0:calibrate_method": "MinMax", "0:include_cle": True})
    assert space.suggest(trial).index == 1
    trial = FixedTrial({"space": 1, "1:per_channel": True})
    assert space.suggest(trial).index == 25


def test_choices_that_are_lists_travel_as_json() -> None:
    space = SearchSpace({"nodes_to_exclude": [["b", "a"], []]})
    params, _ = space.trial_params(space.configuration(0))
    assert params == {"nodes_to_exclude": '["b","a"]'}
    assert space.suggest(FixedTrial(params)).effective["nodes_to_exclude"] == ["a", "b"]


def test_ranges_travel_as_numbers() -> None:
    space = SearchSpace(
        {
            "calibrate_method": "Percentile",
            "extra_options": {
                "Percentile": {"type": "float", "low": 99, "high": 99.9, "step": 0.1},
                "CalibDataSize": {"type": "int", "low": 10, "high": 100, "log": True},
            },
        }
    )
    chosen = space.suggest(
        FixedTrial({"extra_options.Percentile": 99.0 + 3 * 0.1, "extra_options.CalibDataSize": 17})
    )
    assert chosen.params == {"extra_options.Percentile": 99.3, "extra_options.CalibDataSize": 17}
    assert chosen.index == 3 * 91 + 7


def test_continuous_ranges_are_not_enumerated() -> None:
    space = SearchSpace({"extra_options": {"SmoothAlpha": {"type": "float", "low": 0, "high": 1}}})
    assert space.raw_size is None
    assert space.draw(np.random.default_rng(0)).index is None
    with pytest.raises(ConfigError, match=r"search_space.extra_options.SmoothAlpha: a continuous .* step"):
        _ = space.enumeration
    assert space.describe().lines() == ["search space: a continuous range, not enumerated"]


def test_spaces_over_the_limit_are_not_enumerated() -> None:
    space = SearchSpace(FOUR_BY_THREE, limit=11)
    with pytest.raises(ConfigError, match="12 points are too many to enumerate"):
        _ = space.enumeration
    assert space.describe().lines() == ["search space: 12 points, too many to enumerate (limit 11)"]
    assert isinstance(space.draw(np.random.default_rng(0)), Configuration)


def test_report_says_what_became_of_the_points() -> None:
    lines = (
        SearchSpace({**FOUR_BY_THREE, "include_fast_ft": [True, False]}, rules=FEWER)
        .describe(first=2)
        .lines()
    )
    assert lines[0].startswith("search space: 24 points, 6 distinct configurations, about ")
    assert lines[1:3] == [
        "  12 of 24: not wanted; dropped",
        "  6 of 24: Percentile only with calibrate_method Percentile; merged",
    ]
    assert lines[3].startswith("  #1: MinMax (about ")
    assert len(lines) == 5


def test_many_words_of_codes_stay_exact() -> None:
    """Keys of many parts do not fit into one integer of 62 bits."""
    values = {
        "CalibDataSize": range(1, 9001),
        "MinimumRealRange": range(1, 9001),
        "CLESteps": range(1001, 10_001),
        "CLEWeightThreshold": range(1, 9001),
        "Percentile": [99 - i / 1000 for i in range(9000)],
    }
    on = {"calibrate_method": "Percentile", "include_cle": True}
    space = SearchSpace(
        [
            {**on, "extra_options": {"CLEScaleUseThreshold": True, key: choices}}
            for key, choices in values.items()
        ]
    )
    assert len(space.enumeration) == space.raw_size == 45_000


def test_chunks_do_not_show() -> None:
    counted = {"type": "int", "low": 1, "high": 150_000}
    space = SearchSpace(
        {
            "calibrate_method": ["MinMax", "Percentile"],
            "extra_options": {"CalibDataSize": counted, "Percentile": [99.0, 99.9]},
        }
    )
    found = space.enumeration
    assert len(found) == 3 * 150_000
    assert found.stripped == {"Percentile only with calibrate_method Percentile": 300_000}
    assert np.all(np.diff(found.index) > 0)


def test_grid_order_keeps_shared_work_together() -> None:
    space = SearchSpace(
        {
            "calibrate_method": ["MinMSE", "MinMax", "Percentile"],
            "include_cle": [True, False],
            "extra_options": {"CalibDataSize": [20, 10]},
        }
    )
    found = space.enumeration
    walked = [space.configuration(int(found.index[i])) for i in found.grouped_order()]
    transforms = [c.effective["include_cle"] for c in walked]
    assert transforms == [False] * 6 + [True] * 6
    passes = [
        (c.effective["include_cle"], c.effective["extra_options.CalibDataSize"], c.cost_s) for c in walked
    ]
    assert passes == sorted(passes)
    assert walked[0].short == "MinMax, CalibDataSize 10"


def test_total_cost_counts_shared_stages_once() -> None:
    space = SearchSpace(
        {"calibrate_method": ["MinMax", "Entropy"], "extra_options": {"CalibDataSize": [10, 20]}}
        | {"include_cle": [False, True]}
    )
    model, done, total = space.cost_model, set[str](), 0.0
    for configuration in sorted(space, key=lambda c: -c.cost_s):  # those that need histograms first
        total += model.seconds(configuration.effective, done)
        done |= set(stage_keys(configuration.effective).values())
    assert space.enumeration.total_cost_s() == pytest.approx(total, rel=1e-6)


def test_a_million_points() -> None:
    space = SearchSpace(
        {
            "calibrate_method": ["Percentile"],
            "per_channel": [False, True],
            "activation_type": ["QInt8", "QUInt8"],
            "extra_options": {
                "Percentile": {"type": "float", "low": 99.0, "high": 99.99, "step": 0.01},
                "CalibDataSize": {"type": "int", "low": 1, "high": 2500},
            },
        }
    )
    assert space.raw_size == len(space.enumeration) == 1_000_000


@pytest.mark.parametrize("where", ["base", "space"])
def test_what_only_changes_the_log_is_carried_out_as_written(where: str) -> None:
    given = {"extra_options": {"FastFinetune": {"LogPeriod": 7}}}
    written = {"extra_options": {"FastFinetune": {"LogPeriod": [7]}}} if where == "space" else {}
    base = QuantConfig(include_fast_ft=True, **(given if where == "base" else {}))
    (found,) = SearchSpace({"per_channel": [True], **written}, base)
    (plain,) = SearchSpace({"per_channel": [True]}, QuantConfig(include_fast_ft=True))
    assert found.config.extra_options.FastFinetune.LogPeriod == 7
    assert found.digest == plain.digest == config_digest(found.config)
