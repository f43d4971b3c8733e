from __future__ import annotations

from dataclasses import dataclass

import pytest

from quant import ConfigError
from quant.layers import By, check_keys, entry_of, key_of


@dataclass
class Layer:
    name: str
    words: tuple[str, ...] = ("conv2d", "Conv")


TABLE = {"default": 0, "Conv": 1, "conv2d": 2, "stem": 3, "s.*": 4, ".*m": 5}


@pytest.mark.parametrize(
    ("by", "layer", "key"),
    [
        ("name", Layer("stem"), "stem"),
        ("name", Layer("other"), "conv2d"),
        ("name", Layer("other", ("conv1d", "Conv")), "Conv"),
        ("name", Layer("other", ("relu", "Relu")), "default"),
        ("type", Layer("stem"), "conv2d"),
        ("type", Layer("stem", ("relu", "Relu")), "default"),
        ("pattern", Layer("stem2"), "s.*"),
        ("pattern", Layer("pre_m"), ".*m"),
        ("pattern", Layer("a stem or so"), "default"),
    ],
    ids=lambda value: value.name if isinstance(value, Layer) else value,
)
def test_precedence(by: By, layer: Layer, key: str) -> None:
    assert key_of(TABLE, by, layer) == key
    assert entry_of(TABLE, by, layer) == TABLE[key]


def test_without_a_default_other_layers_have_no_entry() -> None:
    assert entry_of({"stem": 1}, "name", Layer("other")) is None
    assert entry_of({"s.*": 1}, "pattern", Layer("other")) is None


@pytest.mark.parametrize(
    ("key", "by", "complaint"),
    [
        ("stam", "name", "search_space.layers: no layer of the model is called 'stam', .* mean 'stem'"),
        ("Conv22", "type", "search_space.layers: 'Conv22' is no type of layer; did you mean 'conv2d'"),
        ("(", "pattern", "'\\(' is not a regular expression"),
        ("tem", "pattern", "no layer's whole name matches 'tem'"),
    ],
    ids=["name", "type", "expression", "no match"],
)
def test_unknown_keys_are_refused(key: str, by: By, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_keys([key, "default"], by, [Layer("stem")], "search_space.layers")


def test_types_that_the_model_lacks_are_allowed() -> None:
    check_keys(["default", "linear", "stem"], "name", [Layer("stem")], "layers")
    check_keys(["default", "Gemm"], "type", [Layer("stem")], "layers")
