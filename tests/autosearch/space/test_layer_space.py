"""Spaces of formats for every layer, as a whole."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from optuna.trial import FixedTrial

from autosearch.space import LayerSite, SearchSpace, config_digest, layer_sites
from quant import CalibrationData, Pipeline, QuantConfig, load_float_model
from quant.errors import ConfigError
from quant.formats import FORMATS, make_format
from tests.autosearch.models import write_model
from tests.autosearch.spaces import SITES, layered_spaces

MOST = 1000

WIDTHS: dict[str, Any] = {
    "name": ["integer"],
    "data_in_width": [4, 8],
    "data_in_frac_width": ["NA"],
    "weight_width": [2, 4, 8],
    "weight_frac_width": ["NA"],
    "bias_width": [2, 4, 8],
    "bias_frac_width": ["NA"],
}
SEVEN: dict[str, Any] = {
    "name": ["integer"],
    **{f"{role}_width": [2, 4, 8] for role in ("data_in", "weight", "bias")},
    **{f"{role}_frac_width": [3, 4, 5, 6, 7, 8, 9] for role in ("data_in", "weight", "bias")},
}


def space_of(written: Any, **given: Any) -> SearchSpace:
    return SearchSpace(written, layers=lambda: SITES, **given)


def small(written: list[dict[str, Any]]) -> SearchSpace:
    """The space, if it is one and is small."""
    try:
        space = space_of(written)
    except ConfigError as error:
        expected = ("no layer of the model gets a format", "granularity: channel needs symmetric")
        assume(not any(reason in str(error) for reason in expected))
        raise
    assert space.raw_size is not None
    assume(space.raw_size <= MOST)
    return space


def formats(config: QuantConfig) -> tuple[Any, ...]:
    """What the quantizer makes of the layers, without this package's spelling."""
    assert config.layers is not None
    table = config.layers.to_dict()
    return tuple(make_format(role, table.get(site.name, {})) for site in SITES for role in site.roles)


_WIDTHS_8_4 = {"data_in_width": [8], "weight_width": [4]}


@given(layered_spaces)
@settings(deadline=None, max_examples=40)
@example([  # the second part brings formats of roles that the first one leaves no choice
    {"layers": {
        "default": {"name": ["int8"]},
        "linear": {"name": ["integer"], **_WIDTHS_8_4},
        "fc2": {"name": ["integer"], **_WIDTHS_8_4},
    }},
    {"layers": {"default": {"name": ["integer", "int8"], **_WIDTHS_8_4}}},
])  # fmt: skip
@example([  # no format for a bias, said in two ways
    {"layers": {"default": {"name": ["float8e4m3fn"]}}},
    {"layers": {
        "default": {"name": ["float8e4m3fn"]},
        "fc2": {"name": ["float8e4m3fn", "integer"], **_WIDTHS_8_4, "bias_width": [4]},
    }},
])  # fmt: skip
@example([  # tied to a layer that has more roles
    {"layers": {"default": {"name": ["integer"], **_WIDTHS_8_4}}},
    {"layers": {"default": {"name": ["integer"], "share": "block", **_WIDTHS_8_4}}},
])  # fmt: skip
def test_the_enumeration_has_every_configuration_once(written: list[dict[str, Any]]) -> None:
    """Against the formats themselves, and for every point."""
    space = small(written)
    configurations = list(space)
    digests = {each.digest for each in configurations}
    assert len(digests) == len(configurations) == space.size
    assert space.raw_size is not None
    assert {space.configuration(index).digest for index in range(space.raw_size)} == digests
    made = {(formats(each.config), each.effective["calibrate_method"]) for each in configurations}
    assert len(made) == len(configurations)


@given(layered_spaces)
@settings(deadline=None, max_examples=40)
def test_there_and_back_again(written: list[dict[str, Any]]) -> None:
    """Configuration -> parameters -> configuration, and -> recorded config -> digest."""
    space = small(written)
    for configuration in itertools.islice(space, 0, None, 1 + (space.size or 0) // 20):
        params, distributions = space.trial_params(configuration)
        trial = FixedTrial(params)
        assert space.suggest(trial) == configuration
        assert trial.distributions == distributions
        assert configuration.index is not None
        assert space.configuration(configuration.index) == configuration
        recorded = json.loads(json.dumps(configuration.config.to_dict()))
        assert config_digest(QuantConfig(**recorded)) == configuration.digest


@given(layered_spaces)
@settings(deadline=None, max_examples=30)
def test_draws_are_of_the_space(written: list[dict[str, Any]]) -> None:
    space, generator = small(written), np.random.default_rng(0)
    digests = {each.digest for each in space}
    assert {space.draw(generator).digest for _ in range(50)} <= digests


def test_the_sizes_of_the_documented_spaces() -> None:
    named = {"layers": {"default": {"name": ["NA"]}, "fc2": WIDTHS}}
    assert space_of(named).size == 2 * 3 * 3
    each = space_of({"layers": {"default": SEVEN}})
    roles = sum(len(site.roles) for site in SITES)
    assert each.raw_size == 21**roles
    tied = space_of({"layers": {"share": "all", "default": SEVEN}})
    assert tied.raw_size == 21**3


@pytest.mark.parametrize(
    ("share", "names"),
    [
        ("layer", ["layers.fc1", "layers.act1", "layers.fc2", "layers.fc3"]),
        ("type", ["layers.linear", "layers.relu"]),
        ("block", ["layers.block_0", "layers.block_1", "layers.block_2"]),
        ("all", ["layers.all"]),
    ],
)
def test_layers_are_tied(share: str, names: list[str]) -> None:
    space = space_of({"layers": {"share": share, "default": {**WIDTHS, "weight_width": [2, 4]}}})
    assert [group.key for group in space.parts[0].groups] == names
    chosen = space.draw(np.random.default_rng(0))
    assert {key.rpartition(".")[0] for key in chosen.params} == set(names)
    for group in space.parts[0].groups:
        widths = {chosen.effective["layers"][site.name]["data_in_width"] for site in group.sites}
        assert len(widths) == 1


def test_sharing_may_be_given_for_an_entry() -> None:
    space = space_of({"layers": {"share": "all", "default": WIDTHS, "linear": {**WIDTHS, "share": "layer"}}})
    names = [group.key for group in space.parts[0].groups]
    assert names == ["layers.fc1", "layers.all", "layers.fc2", "layers.fc3"]


def test_groups_of_one_name_are_told_apart() -> None:
    space = space_of(
        {"layers": {"by": "pattern", "share": "type", "fc1": WIDTHS, "fc.": {**WIDTHS, "weight_width": 4}}}
    )
    assert [group.key for group in space.parts[0].groups] == ["layers.linear", "layers.fc.:linear"]


def test_only_what_a_layer_has_is_a_parameter() -> None:
    space = space_of({"layers": {"relu": WIDTHS, "MatMul": WIDTHS}})
    params, _ = space.trial_params(space.draw(np.random.default_rng(0)))
    assert set(params) == {
        "layers.act1.data_in_width",
        "layers.fc3.data_in_width",
        "layers.fc3.weight_width",
    }


def test_only_the_chosen_format_has_parameters() -> None:
    written = {"layers": {"fc2": {**WIDTHS, "name": ["integer", "int8", "NA"]}}}
    space = space_of(written)
    assert space.size == 18 + 1 + 1
    asked = {frozenset(space.trial_params(each)[0]) for each in space}
    name = "layers.fc2.name"
    widths = {f"layers.fc2.{role}_width" for role in ("data_in", "weight", "bias")}
    assert asked == {frozenset({name}), frozenset({name, *widths})}


def test_a_format_for_one_role() -> None:
    space = space_of(
        {"layers": {"fc3": {"name": "bfloat16", "weight_name": ["integer", "NA"], "weight_width": [3, 4]}}}
    )
    entries = [each.effective["layers"]["fc3"] for each in space]
    assert entries == [
        {"name": "bfloat16", "weight_name": "integer", "weight_width": 3},
        {"name": "bfloat16", "weight_name": "integer", "weight_width": 4},
        {"name": "bfloat16", "weight_name": None},
    ]


def test_a_combination_that_is_no_format_stands_for_the_nearest() -> None:
    entry = {"name": "int8", "weight_granularity": ["tensor", "channel"], "weight_symmetric": [False, True]}
    space = space_of({"layers": {"fc3": entry}})
    assert space.size == 3  # of channels, symmetric ones alone
    key = "layers.fc3.weight_"
    trial = FixedTrial({f"{key}granularity": "channel", f"{key}symmetric": False})
    assert space.suggest(trial).params == {f"{key}granularity": "channel", f"{key}symmetric": True}
    assert any("left out" in line for line in space.describe().lines())


def test_spellings_of_one_configuration() -> None:
    def digest(**entry: Any) -> str:
        return config_digest(QuantConfig(layers={"fc1": {"data_in_width": 8, "weight_width": 8, **entry}}))

    first = digest(name="integer")
    assert digest(name="fixed", weight_frac_width=4, data_in_frac_width="NA") == first
    assert digest(name="integer", weight_name="integer", weight_is_signed=True) == first
    assert digest(name="integer", weight_frac_width=5) != first
    assert digest(name="integer", bias_width=8) != first


def test_every_layer_that_may_have_a_format_is_listed() -> None:
    parts = [{"layers": {"fc1": {**WIDTHS, "name": ["integer", "NA"]}}}, {"layers": {"fc3": WIDTHS}}]
    for each in space_of(parts):
        assert list(each.effective["layers"]) == ["by", "fc1", "fc3"]


def test_other_keys_vary_beside_layers_and_count_where_formats_are_calibrated() -> None:
    written = {"calibrate_method": ["MinMax", "Entropy"], "include_cle": [False, True]}
    layers = {"fc2": {"name": ["integer", "int8"], "data_in_width": 8, "weight_width": [4, 8]}}
    space = space_of({**written, "layers": layers})
    assert space.raw_size == 12
    assert space.size == 2 * (2 + 2)
    calibrated = [each for each in space if each.effective["layers"]["fc2"]["name"] == "int8"]
    assert {"calibrate_method" in each.params for each in calibrated} == {True}
    assert {"calibrate_method" in each.params for each in space if each not in calibrated} == {False}


def test_what_the_rules_strip_makes_no_difference(tmp_path: Path) -> None:
    float_model = load_float_model(write_model(tmp_path / "model.onnx"))
    name = float_model.inputs[0].name
    feeds = [{name: np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)}]
    pipeline = Pipeline(float_model, CalibrationData(feeds))
    layers = {"default": {"name": "integer", "data_in_width": 8, "weight_width": 4, "bias_width": 8}}
    options = {"CalibDataSize": 3, "MinimumRealRange": 2.0, "WeightCalibrateMethod": "MSE"}
    configs = [
        QuantConfig(layers=layers),
        QuantConfig(layers=layers, calibrate_method="Entropy", extra_options=options),
    ]
    assert len({config_digest(config) for config in configs}) == 1
    models = [pipeline.quantize(config).standalone() for config in configs]
    assert models[0].graph == models[1].graph
    calibrated = [config.replace(layers={"default": {"name": "int8"}}) for config in configs]
    assert len({config_digest(config) for config in calibrated}) == 2


def test_the_layers_of_a_model(tmp_path: Path) -> None:
    sites = layer_sites(load_float_model(write_model(tmp_path / "model.onnx")), QuantConfig())
    assert [(site.words[0], site.roles) for site in sites] == [
        ("linear", ("data_in", "weight", "bias")),
        ("relu", ("data_in",)),
        ("linear", ("data_in", "weight", "bias")),
    ]
    assert len({site.name for site in sites}) == 3
    assert sites[0].block == 0


BIG = tuple(LayerSite(f"fc{number}", ("linear", "Gemm"), block=number // 4) for number in range(200))


def test_hundreds_of_layers() -> None:
    space = SearchSpace({"layers": {"default": SEVEN}}, layers=lambda: BIG)
    assert space.raw_size == 21**600
    generator = np.random.default_rng(0)
    drawn = [space.draw(generator) for _ in range(5)]
    assert len({each.digest for each in drawn}) == 5
    assert all(each.index is None and len(each.short) < 400 for each in drawn)
    params, _ = space.trial_params(drawn[0])
    assert len(params) == 6 * 200
    assert space.suggest(FixedTrial(params)) == drawn[0]
    assert space.describe().lines()[:2] == [
        "search space: about 10^793 points, too many to enumerate (limit 4 194 304)",
        "  layers fc0, fc1, fc2, fc3 and 196 more: 9261 choices each",
    ]
    with pytest.raises(ConfigError, match=r"about 10\^793 points are too many to enumerate .*'TPE'"):
        _ = space.enumeration


def test_few_layers_are_described_one_by_one_and_many_are_counted() -> None:
    few = space_of({"layers": {"fc2": WIDTHS}})
    assert few.configuration(0).short == "fc2: integer(4) x integer(2) x integer(2)"
    many = space_of({"layers": {"share": "all", "default": WIDTHS}})
    assert many.configuration(0).short == (
        "weight integer(2) of 3; data_in integer(4) of 4; bias integer(2) of 2"
    )


def test_digest_is_of_the_choices_and_the_layers() -> None:
    written = {"layers": {"default": WIDTHS}}
    assert space_of(written).digest == space_of({"layers": {"default": {**WIDTHS, "name": "fixed"}}}).digest
    assert space_of(written).digest != space_of({"layers": {"share": "all", **written["layers"]}}).digest
    assert space_of(written).digest != SearchSpace(written, layers=lambda: SITES[:3]).digest


REQUIRED: dict[str, dict[str, list[Any]]] = {
    name: {
        parameter.name: [4, 5] if parameter.name.startswith("exponent") else [8, 12]
        for parameter in family.parameters
        if parameter.is_required
    }
    for name, family in FORMATS.items()
}
REQUIRED["mxfp"] = {"exponent_width": [4, 5], "frac_width": [3, 2]}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_searched(name: str) -> None:
    """Alone, and as one of several; what is recorded leads back to the same formats."""
    keys = {
        f"{role}_{key}": values for role in ("data_in", "weight") for key, values in REQUIRED[name].items()
    }
    space = space_of({"layers": {"fc3": {"name": [name, "NA"], **keys}}})
    configurations = list(space)
    assert len(configurations) == space.size
    assert space.size is not None
    assert space.size > 1
    for each in configurations:
        recorded = QuantConfig(**json.loads(json.dumps(each.config.to_dict())))
        assert config_digest(recorded) == each.digest
        assert space.suggest(FixedTrial(space.trial_params(each)[0])) == each
    assert len({formats(each.config) for each in configurations}) == space.size


def test_blocks_are_choices_of_numbers_or_of_shapes() -> None:
    entry = {"name": "mxint", "data_in_width": 8, "weight_width": 8}
    space = space_of({"layers": {"fc3": {**entry, "weight_block_size": [16, [1, 16], 32, [2, 8], "NA"]}}})
    weights = [each.effective["layers"]["fc3"].get("weight_block_size") for each in space]
    assert weights == [[16], None, [2, 8]]  # [1, 16] is 16 of one row, and 32 the default
    assert config_digest(space.configuration(0).config) == space.configuration(0).digest
