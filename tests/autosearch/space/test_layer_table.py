"""The door of ``search_space.layers``: what is refused, with the place and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from autosearch.space import SearchSpace
from quant.config import QuantConfig
from quant.errors import ConfigError
from tests.autosearch.spaces import SITES

INTEGER: dict[str, Any] = {"name": "integer", "data_in_width": 8, "weight_width": 4}

REFUSED: dict[str, tuple[Any, str]] = {
    "no table": ([INTEGER], r"search_space.layers: takes \{by: name"),
    "empty": ({"by": "name"}, r"search_space.layers: says nothing of any layer"),
    "by": ({"by": "nam", "default": INTEGER}, r"search_space.layers.by: 'nam' .* did you mean 'name'"),
    "share": ({"share": "blocks", "default": INTEGER}, r"layers.share: 'blocks' .* did you mean 'block'"),
    "share of entry": ({"default": {**INTEGER, "share": 1}}, r"layers.default.share: 1 is not possible"),
    "unknown layer": ({"fc9": INTEGER}, r"layers: .*'fc9'.* did you mean"),
    "unknown type": ({"by": "type", "liner": INTEGER}, r"layers: 'liner' .* did you mean 'linear'"),
    "no expression": ({"by": "pattern", "fc(": INTEGER}, r"layers: 'fc\(' is not a regular expression"),
    "no match": ({"by": "pattern", "gc.*": INTEGER}, r"no layer's whole name matches 'gc\.\*'"),
    "level of MASE": ({"default": {"config": INTEGER}}, r"layers.default: .* without that level"),
    "no name": ({"default": {"weight_width": 4}}, r"layers.default: name is missing"),
    "no names": ({"default": {"name": []}}, r"layers.default.name: the list of formats is empty"),
    "unknown format": (
        {"default": {"name": ["integer", "intger"]}},
        r"layers.default.name\[1\]: unknown number format 'intger'; did you mean 'integer'",
    ),
    "unknown key": (
        {"default": {**INTEGER, "weight_widht": 4}},
        r"layers.default: unknown key 'weight_widht' with name integer; did you mean 'weight_width'",
    ),
    "key of another format": (
        {"default": {**INTEGER, "weight_granularity": "tensor"}},
        r"layers.default: unknown key 'weight_granularity' with name integer",
    ),
    "key of no format": (
        {"default": {"name": "NA", "weight_width": 4}},
        r"unknown key 'weight_width': NA has no parameters; leave it out",
    ),
    "no choices": (
        {"default": {**INTEGER, "weight_width": []}},
        r"weight_width: the list of choices is empty",
    ),
    "value": (
        {"default": {**INTEGER, "weight_width": [4, 64]}},
        r"layers.default.weight_width\[1\]: got 64, valid is integer 1 to 32",
    ),
    "range": (
        {"default": {**INTEGER, "weight_width": {"type": "float", "low": 2, "high": 8}}},
        r"layers.default.weight_width.type: takes 'int'",
    ),
    "range of words": (
        {"default": {"name": "int8", "weight_symmetric": {"type": "int", "low": 0, "high": 1}}},
        r"layers.default.weight_symmetric: does not take numbers",
    ),
    "missing parameter": (
        {"default": {"name": ["NA", "integer"], "data_in_width": 8}},
        r"layers.default.weight_width: format 'integer' needs it",
    ),
    "all float": ({"default": {"name": ["NA"]}}, r"search_space.layers: no layer of the model gets a format"),
    "too many": (
        {
            "default": {
                **INTEGER,
                "weight_width": [2, 3, 4, 5],
                "weight_frac_width": {"type": "int", "low": -64, "high": 64, "step": 3},
            }
        },
        r"points are too many to enumerate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_tables_are_refused(case: str) -> None:
    written, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        _ = SearchSpace({"layers": written}, layers=lambda: SITES).enumeration


def test_too_many_parameters_of_one_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosearch.space.layer_choices.PRODUCT_LIMIT", 5)
    entry = {**INTEGER, "weight_width": [2, 4, 8], "weight_frac_width": [1, 2]}
    with pytest.raises(
        ConfigError, match=r"default: 6 combinations of weight_width, weight_frac_width; give"
    ):
        SearchSpace({"layers": {"default": entry}}, layers=lambda: SITES)


def test_a_space_without_a_model_has_no_layers() -> None:
    with pytest.raises(ConfigError, match=r"search_space.layers: is about the layers of a model"):
        SearchSpace({"layers": {"default": INTEGER}})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"per_channel": [False, True]}, r"search_space: per_channel: True has no meaning beside layers"),
        ({"extra_options": {"ActivationSymmetric": True}}, r"ActivationSymmetric: True has no meaning"),
        ({"include_auto_mp": [False, True]}, r"include_auto_mp: True has no meaning beside layers"),
        ({"optimize_model": [False, True]}, r"optimize_model decides which layers there are"),
    ],
)
def test_what_has_no_meaning_beside_layers_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace({**part, "layers": {"default": INTEGER}}, layers=lambda: SITES)


def test_the_base_is_checked_beside_layers() -> None:
    with pytest.raises(ConfigError, match=r"quantization_config: per_channel: True has no meaning"):
        SearchSpace({"layers": {"default": INTEGER}}, QuantConfig(per_channel=True), layers=lambda: SITES)


def test_null_switches_the_layers_of_the_base_off() -> None:
    base = QuantConfig(layers={"default": INTEGER})
    parts = [{"layers": None, "per_channel": [False, True]}, {}]
    space = SearchSpace(parts, base, layers=lambda: SITES)
    assert [each.config.layers is None for each in space] == [True, True, False]


def test_scalars_ranges_and_the_names_of_one_format() -> None:
    entry = {"name": ["fixed", "integer"], "data_in_width": 8, "weight_width": {"type": "int", "low": 2}}
    entry["weight_width"] = {"type": "int", "low": 2, "high": 8, "step": 2}
    space = SearchSpace({"layers": {"fc3": entry}}, layers=lambda: SITES)
    assert [each.params for each in space] == [{"layers.fc3.weight_width": width} for width in (2, 4, 6, 8)]


def test_the_layers_of_the_base_are_those_of_the_model() -> None:
    with pytest.raises(ConfigError, match=r"layers: no layer of the model is called 'fc9'"):
        SearchSpace(
            {"include_cle": [False, True]}, QuantConfig(layers={"fc9": INTEGER}), layers=lambda: SITES
        )
