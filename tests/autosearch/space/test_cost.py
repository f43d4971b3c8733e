from __future__ import annotations

from typing import Any

import pytest

from autosearch.space.cost import SHARED_STAGES, CostModel, sampling_weight, stage_keys
from autosearch.space.rules import DEFAULTS


def flat(**values: Any) -> dict[str, Any]:
    finetune = ("NumIterations", "OptimAlgorithm", "DataSize")
    named = {}
    for key, value in values.items():
        prefix = "extra_options." if key[0].isupper() else ""
        named[f"{prefix}{'FastFinetune.' if key in finetune else ''}{key}"] = value
    assert named.keys() <= DEFAULTS.keys()
    return {**DEFAULTS, **named}


@pytest.mark.parametrize(
    ("cheaper", "dearer"),
    [
        ({}, {"calibrate_method": "Percentile"}),
        ({"calibrate_method": "Percentile"}, {"calibrate_method": "LayerWisePercentile"}),
        ({"calibrate_method": "Percentile"}, {"calibrate_method": "Entropy"}),
        ({}, {"calibrate_method": "MinMSE"}),
        ({"CalibDataSize": 10}, {"CalibDataSize": 50}),
        ({"CalibDataSize": 50}, {"CalibDataSize": None}),
        ({}, {"include_cle": True}),
        ({"include_cle": True, "CLESteps": 3}, {"include_cle": True, "CLESteps": -1}),
        ({"include_cle": True}, {"include_sq": True}),
        ({}, {"include_fast_ft": True}),
        ({"include_fast_ft": True, "NumIterations": 10}, {"include_fast_ft": True, "NumIterations": 20}),
        ({"include_fast_ft": True, "OptimAlgorithm": "gptq"}, {"include_fast_ft": True}),
        ({"include_fast_ft": True, "DataSize": 10}, {"include_fast_ft": True, "DataSize": 20}),
    ],
)
def test_more_work_costs_more(cheaper: dict[str, Any], dearer: dict[str, Any]) -> None:
    model = CostModel()
    assert model.seconds(flat(**cheaper)) < model.seconds(flat(**dearer))


def test_finetuning_is_proportional_to_its_iterations() -> None:
    model = CostModel()
    low, middle, high = (
        model.seconds(flat(include_fast_ft=True, NumIterations=count)) for count in (100, 200, 300)
    )
    assert high - middle == pytest.approx(middle - low)


def test_larger_models_and_data_cost_more() -> None:
    small, large = CostModel.estimate(1e6, 10), CostModel.estimate(1e9, 1000)
    assert small.seconds(DEFAULTS) < CostModel.estimate().seconds(DEFAULTS) < large.seconds(DEFAULTS)
    assert CostModel.estimate() == CostModel()


def test_stages_that_are_done_cost_nothing() -> None:
    model, effective = CostModel(), flat(include_cle=True)
    seconds = model.stage_seconds(effective)
    done = set(stage_keys(effective).values())
    rest = sum(seconds[stage] for stage in seconds if stage not in SHARED_STAGES)
    assert model.seconds(effective) == pytest.approx(sum(seconds.values()))
    assert model.seconds(effective, done) == pytest.approx(rest)


def test_stage_keys_see_only_what_the_stage_reads() -> None:
    plain, other = stage_keys(DEFAULTS), stage_keys(flat(activation_type="QUInt8", CalibMovingAverage=True))
    assert plain == other
    cle = stage_keys(flat(include_cle=True))
    assert {stage for stage in plain if plain[stage] != cle[stage]} == {"transform", "statistics"}
    assert plain == stage_keys(flat(calibrate_method="Entropy"))  # one pass serves all methods
    fewer = stage_keys(flat(CalibDataSize=10))
    assert {stage for stage in plain if plain[stage] != fewer[stage]} == {"statistics"}
    assert len(set(plain.values())) == len(plain)


def test_first_observation_replaces_the_estimate_and_the_next_are_averaged() -> None:
    model = CostModel(smoothing=0.25)
    effective = flat(calibrate_method="Percentile")
    once = model.observe(effective, {"statistics": 8.0})
    assert once.stage_seconds(effective)["statistics"] == pytest.approx(8.0)
    twice = once.observe(effective, {"statistics": 4.0})
    assert twice.stage_seconds(effective)["statistics"] == pytest.approx(7.0)
    assert model.observed == frozenset()


def test_observations_carry_over_to_other_configurations() -> None:
    model = CostModel().observe(flat(calibrate_method="Percentile"), {"statistics": 8.0})
    assert model.stage_seconds(DEFAULTS)["statistics"] == pytest.approx(4.0)
    assert model.stage_seconds(DEFAULTS)["evaluate"] == CostModel().stage_seconds(DEFAULTS)["evaluate"]


def test_observations_of_nothing_are_left_aside() -> None:
    model = CostModel()
    seen = model.observe(DEFAULTS, {"transform": 0.1, "something else": 3.0})
    assert seen.rates == model.rates
    assert "transform" not in seen.observed


def test_weight_falls_with_cost() -> None:
    assert float(sampling_weight(2.0)) == pytest.approx(float(sampling_weight(1.0)) / 2)
    assert float(sampling_weight(0.0)) > 0


def test_one_measurement_of_all_stages_is_shared_out() -> None:
    model, effective = CostModel(), flat(calibrate_method="Percentile")
    before = model.stage_seconds(effective)
    after = model.observe(effective, {"quantize": 7.0, "evaluate": 2.0}).stage_seconds(effective)
    assert after["evaluate"] == pytest.approx(2.0)
    assert sum(after.values()) == pytest.approx(9.0)
    assert after["statistics"] / after["ranges"] == pytest.approx(before["statistics"] / before["ranges"])


def test_stages_from_the_cache_teach_nothing() -> None:
    model = CostModel()
    seen = model.observe(DEFAULTS, {"quantize": 1.0}, set(stage_keys(DEFAULTS).values()))
    assert seen.rates["statistics"] == model.rates["statistics"]
    assert seen.rates["ranges"] != model.rates["ranges"]


def test_trials_that_took_no_time_can_be_followed_by_others() -> None:
    model = CostModel().observe(DEFAULTS, {"quantize": 0.0, "evaluate": 0.0})
    assert sum(model.stage_seconds(DEFAULTS).values()) == 0
    for _ in range(2):
        model = model.observe(DEFAULTS, {"quantize": 3.0, "evaluate": 1.0})
    assert 0 < sum(model.stage_seconds(DEFAULTS).values()) < 4
