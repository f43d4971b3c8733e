from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from quant import ConfigError
from quant.layers import By, keys_of


@dataclass
class Layer:
    name: str
    words: tuple[str, ...] = ("conv2d", "Conv")
    module: str = ""
    has_weight: bool = True


TABLE = ["default", "Conv", "conv2d", "stem", "s.*", ".*m"]


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
    expressions, types = ["s.*", ".*m"], ["Conv", "conv2d"]
    unfit = {"name": expressions, "type": [*expressions, "stem"], "pattern": types}[by]
    table = [each for each in TABLE if each not in unfit]
    others = [Layer("stem"), Layer("stem1")]
    assert keys_of(table, by, [*others, layer], "layers")[layer.name] == key


def test_without_a_default_other_layers_have_no_entry() -> None:
    layers = [Layer("stem"), Layer("other")]
    assert keys_of(["stem"], "name", layers, "layers") == {"stem": "stem"}
    assert keys_of(["s.*"], "pattern", layers, "layers") == {"stem": "s.*"}


GEMM = Layer("/blocks/blocks.2/Gemm", ("linear", "Gemm"), "blocks.2")
RELU = Layer("/blocks/blocks.2/Relu", ("relu", "Relu"), "blocks.2", has_weight=False)
SECOND = Layer("/blocks/blocks.2/Gemm_1", ("linear", "Gemm"), "blocks.2")


@pytest.mark.parametrize("key", ["blocks.2", "blocks_2"])
def test_the_path_of_a_module_stands_for_its_layer_with_a_weight(key: str) -> None:
    assert keys_of([key, "default"], "name", [RELU, GEMM], "layers") == {RELU.name: "default", GEMM.name: key}
    assert keys_of([key], "name", [RELU], "layers") == {RELU.name: key}


def test_a_path_with_dots_comes_before_one_that_looks_like_it_without() -> None:
    layers = [Layer("a", module="blocks.2"), Layer("b", module="blocks_2")]
    keys = ["blocks.2", "blocks_2"]
    assert keys_of(keys, "name", layers, "layers") == {"a": "blocks.2", "b": "blocks_2"}


def test_the_name_of_a_node_comes_before_the_path_of_another() -> None:
    named = Layer("blocks_2", ("relu", "Relu"), "act")
    assert keys_of(["blocks_2"], "name", [GEMM, named], "layers") == {"blocks_2": "blocks_2"}


def test_a_type_is_never_a_path() -> None:
    layers = [Layer("/linear/Gemm", ("linear", "Gemm"), "linear"), GEMM]
    assert keys_of(["linear"], "name", layers, "layers") == dict.fromkeys(
        [layer.name for layer in layers], "linear"
    )


@pytest.mark.parametrize(
    ("keys", "layers", "complaint"),
    [
        (
            ["blocks_2"],
            [GEMM, RELU, SECOND],
            "layers: 'blocks_2' is the module of several layers; name one of '/blocks/blocks.2/Gemm',"
            " '/blocks/blocks.2/Gemm_1'",
        ),
        (
            [GEMM.name, "blocks_2"],
            [GEMM],
            "layers: '/blocks/blocks.2/Gemm' and 'blocks_2' are one layer, '/blocks/blocks.2/Gemm'",
        ),
        (["blocks_3"], [GEMM], "layers: no layer of the model is called 'blocks_3', .* mean 'blocks.2'"),
    ],
    ids=["several", "twice", "none"],
)
def test_paths_that_do_not_stand_for_one_layer_are_refused(
    keys: list[str], layers: list[Layer], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint if ".*" in complaint else re.escape(complaint)):
        keys_of(keys, "name", layers, "layers")


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
        keys_of([key, "default"], by, [Layer("stem")], "search_space.layers")


def test_only_layers_are_listed_where_nothing_is_near() -> None:
    with pytest.raises(ConfigError, match=r"called 'zzz', and no type; known: a, b$"):
        keys_of(["zzz"], "name", [Layer("b"), Layer("a", module="x.a")], "layers")


def test_types_that_the_model_lacks_are_allowed() -> None:
    keys_of(["default", "linear", "stem"], "name", [Layer("stem")], "layers")
    keys_of(["default", "Gemm"], "type", [Layer("stem")], "layers")
