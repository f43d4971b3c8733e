"""What layers cost, with formats and with ordinary placement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quant import Pipeline, QuantizedModel
from quant.config import QuantConfig
from quant.layers.cost import LayerCost, LayerSizes, decode_sizes, encode_sizes
from tests.quant.graphs import build, floats, node, pipeline
from tests.quant.layers.networks import images, network

MACS = {
    "Conv_a": 8 * 8 * 8 * 27,
    "Conv_e": 8 * 6 * 6 * 9,
    "ConvTranspose_f": 8 * 6 * 6 * 5 * 4,
    "GlobalAveragePool_g": 0,
    "Gemm_k": 10 * 24,
    "Gemm_l": 24 * 40,
    "MatMul_o": 40 * 6,
}
READ = {"Conv_a": 3 * 64, "Conv_e": 8 * 64, "ConvTranspose_f": 8 * 36, "GlobalAveragePool_g": 10 * 49}
READ |= {"Gemm_k": 10, "Gemm_l": 24, "MatMul_o": 40}


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    return pipeline(network(), images())


def costs(shared: Pipeline, **config: Any) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in shared.quantize(QuantConfig(**config)).layers}


def test_sizes_survive_the_cache() -> None:
    sizes = {"a": LayerSizes(27, ((1, 3, 8), ()), 4), "b": LayerSizes(0, (), 1)}
    assert decode_sizes(memoryview(encode_sizes(sizes))) == sizes


@pytest.mark.parametrize("config", [{}, {"layers": {"default": {"name": "int8"}}}], ids=["QDQ", "layers"])
def test_sizes_are_of_one_sample(config: dict[str, Any], shared: Pipeline) -> None:
    found = costs(shared, **config)
    assert {name: layer.macs for name, layer in found.items()} == MACS
    assert {name: layer.activations for name, layer in found.items()} == READ
    assert (found["Conv_a"].weights, found["Conv_a"].biases) == (216, 8)
    assert (found["MatMul_o"].weights, found["MatMul_o"].biases) == (240, 6)
    assert (found["GlobalAveragePool_g"].weights, found["Gemm_l"].biases) == (0, 0)


def test_formats_count_what_blocks_share(shared: Pipeline) -> None:
    entry = {"name": "block_fp", "data_in_width": 8, "weight_width": 4, "weight_block_size": [1, 16]}
    found = costs(shared, layers={"default": entry | {"bias_name": "integer", "bias_width": 12}})
    gemm = found["Gemm_l"]  # (40, 24): two blocks of 16 for each output, the second one half empty
    assert gemm.weight_bits == pytest.approx(4 + 8 * 2 / 24)
    assert gemm.activation_bits == pytest.approx(8 + 8 * 2 / 24)
    assert found["Conv_e"].weight_bits == 4 + 8, "one input channel for each output"
    assert found["Conv_a"].bias_bits == 12 and gemm.searched


def test_a_placement_s_widths(shared: Pipeline) -> None:
    found = costs(shared, weight_type="QInt4", activation_type="QUInt16", nodes_to_exclude=["Gemm_l"])
    assert (found["Conv_a"].weight_bits, found["Conv_a"].activation_bits) == (4, 16)
    assert (found["Conv_a"].bias_bits, found["MatMul_o"].bias_bits) == (32, 16)
    assert (found["Gemm_l"].weight_bits, found["Conv_a"].searched) == (32, True)
    blocks = costs(shared, weight_type="QInt4", extra_options={"BlockSize": 16})
    assert blocks["Gemm_l"].weight_bits == 4 + 32 / 16


def test_a_relu_that_quantization_removes_reads_what_it_writes() -> None:
    nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "y")]
    shared = pipeline(build(nodes, {"x": [2, 3]}, {"w": floats(3, 4)}, "y"), {"x": floats(2, 3)})
    assert costs(shared)["Relu_y"].activation_bits == 8
    untouched = costs(shared, op_types_to_quantize=["MatMul"])["Relu_y"]
    assert untouched.activation_bits == 8, "the MatMul's output"


def test_constants_outside_and_emulation(shared: Pipeline) -> None:
    def quantized(entry: dict[str, Any]) -> QuantizedModel:
        return shared.quantize(QuantConfig(layers={"default": entry}))

    assert not quantized({"name": "int8"}).cost.emulated
    assert not quantized({"name": "integer", "data_in_width": 8, "weight_width": 4}).cost.emulated
    assert quantized({"name": "integer", "data_in_width": 7, "weight_width": 4}).cost.emulated
    assert quantized({"name": "integer", "data_in_width": 8, "weight_width": 5}).cost.emulated
    assert quantized({"name": "none", "weight_name": "mxint", "weight_width": 8}).cost.emulated
    assert quantized({"name": "int8"}).cost.other_weights == 0
    nodes = [node("MatMul", "x w", "m"), node("Mul", "m s", "k"), node("LayerNormalization", "k g", "y")]
    constants = {"w": floats(3, 4), "s": floats(4), "g": np.ones(4, np.float32)}
    other = pipeline(build(nodes, {"x": [2, 3]}, constants, "y"), {"x": floats(2, 3)})
    assert other.quantize(QuantConfig(layers={"default": {"name": "int8"}})).cost.other_weights == 8
