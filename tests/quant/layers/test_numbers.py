"""Grids and initializers of layers with formats, as finetuning asks for them."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quant import Pipeline, QuantConfig
from quant.finetune.grid import digest_of, moved
from quant.formats import layer_formats
from quant.layers.numbers import LayerNumbers
from tests.quant.graphs import build, floats, initializers, node, pipeline
from tests.quant.layers.formats import WEIGHTS
from tests.quant.layers.networks import network


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    return pipeline(network(), {"x": floats(4, 3, 8, 8)})


def numbers_of(shared: Pipeline, entry: dict[str, Any]) -> tuple[onnx.ModelProto, LayerNumbers]:
    config = QuantConfig(layers={"default": entry})
    quantized, numbers = shared._formatted(shared.transform(config), config)
    return quantized.model, numbers


@pytest.mark.parametrize("case", WEIGHTS)
def test_grids_round_a_layer_s_matrix_as_formats_round_the_weight(case: str, shared: Pipeline) -> None:
    model, numbers = numbers_of(
        shared, {**WEIGHTS[case], "name": "none", "weight_name": WEIGHTS[case]["name"]}
    )
    graph = shared.transform(QuantConfig()).model.graph
    layers, skipped = numbers.layers(graph, graph, ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    assert len(layers) == 6 and not skipped
    stored = initializers(model)
    for layer in layers:
        rounded = numbers.grid(layer).round(layer.matrix(numbers.constants))
        tensor = numbers.weight_tensor(layer, rounded)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), stored[tensor.name], err_msg=layer.name)


def test_biases_are_written_with_the_scale_that_they_have(shared: Pipeline) -> None:
    model, numbers = numbers_of(shared, {"name": "int8", "bias_name": "int16"})
    stored, float_model = initializers(model), numbers.constants
    for name in ("b", "tb", "wb", "ob"):
        tensor = numbers.bias_tensor(name, float_model)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), stored[tensor.name])
        moved = numbers.bias_tensor(name, {name: float_model[name] / 2})
        codes = numpy_helper.to_array(moved).astype(int)
        assert np.abs(codes - stored[tensor.name].astype(int) / 2).max() <= 1
    _, unrounded = numbers_of(shared, {"name": "int8"})
    assert unrounded.bias_tensor("b", float_model).name == "b"


def test_biases_belong_to_their_layers(shared: Pipeline) -> None:
    _, numbers = numbers_of(shared, {"name": "int8"})
    graph = shared.transform(QuantConfig()).model.graph
    layers, _ = numbers.layers(graph, graph, ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    assert [(layer.bias, layer.multiplier) for layer in layers] == [
        ("b", 1), (None, 1), ("tb", 1), ("wb", 0.5), (None, 1), ("ob", 1),
    ]  # fmt: skip


def test_weights_with_other_readers_are_not_finetuned() -> None:
    model = build(
        [node("MatMul", "x w", "m"), node("MatMul", "m w", "y")], {"x": [3, 4]}, {"w": floats(4, 4)}, "y"
    )
    shared = pipeline(model, {"x": floats(3, 4)})
    _, numbers = numbers_of(shared, {"name": "int8"})
    graph = shared.transform(QuantConfig()).model.graph
    layers, skipped = numbers.layers(graph, graph, ("MatMul",))
    assert not layers and [skip.node for skip in skipped] == ["MatMul_m", "MatMul_y"]


@pytest.mark.parametrize("case", WEIGHTS)
def test_grids_of_formats_work_on_arrays_of_any_library(case: str) -> None:
    weight = floats(6, 20)[None]
    own = layer_formats(WEIGHTS[case]).weight
    assert own is not None
    grid = own.grid(weight[0])
    strict = moved(grid, array_api_strict.asarray)
    rounded = strict.round(array_api_strict.asarray(weight))
    np.testing.assert_array_equal(np.asarray(rounded), grid.round(weight))
    again, other = own.grid(weight[0].copy()), own.grid(weight[0] * np.float32(3))
    assert digest_of(again) == digest_of(grid)
    rounds_alike = np.array_equal(other.round(weight), grid.round(weight))
    assert rounds_alike or digest_of(other) != digest_of(grid)
    last = own.grid(np.concatenate([weight[0][:-1], weight[0][-1:] * 5]))  # in long arrays, too
    assert np.array_equal(last.round(weight), grid.round(weight)) or digest_of(last) != digest_of(grid)
