from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant.graph.prepare import prepare
from quant.layers import QuantizableLayer, layers_of
from quant.layers.types import OP_TYPES, WORDS
from tests.quant.bodies import conditional
from tests.quant.graphs import build, floats, node


def layers(model: onnx.ModelProto) -> dict[str, QuantizableLayer]:
    prepared, _ = prepare(ir.from_proto(model), optimize=False)
    return {layer.name: layer for layer in layers_of(prepared.graph)}


def test_products_sums_activations_and_normalizations() -> None:
    found = layers(
        build(
            [
                node("Conv", "x c b", "a", pads=[1, 1, 1, 1]),
                node("Relu", "a", "r"),
                node("ConvTranspose", "r t", "d"),
                node("Reshape", "d shape", "f"),
                node("MatMul", "f w", "m"),
                node("Add", "v m", "s"),
                node("LayerNormalization", "s gamma", "n"),
                node("Transpose", "n", "nt", perm=[0, 2, 1]),
                node("MatMul", "n nt", "y"),
            ],
            {"x": [2, 3, 4, 4]},
            {"c": floats(8, 3, 3, 3), "b": floats(8), "t": floats(8, 2, 1, 1), "w": floats(16, 4)}
            | {"v": floats(4), "gamma": floats(4), "shape": np.array([2, 2, 16])},
            "y",
        )
    )
    described = {
        name: (
            layer.words,
            layer.data_inputs,
            layer.weight and layer.weight.name,
            layer.bias and layer.bias.name,
        )
        for name, layer in found.items()
    }
    assert described == {
        "Conv_a": (("conv2d", "Conv"), (0,), "c", "b"),
        "Relu_r": (("relu", "Relu"), (0,), None, None),
        "ConvTranspose_d": (("conv_transpose2d", "ConvTranspose"), (0,), "t", None),
        "MatMul_m": (("linear", "MatMul"), (0,), "w", "v"),
        "LayerNormalization_n": (("layer_norm", "LayerNormalization"), (0,), None, None),
        "MatMul_y": (("bmm", "matmul", "MatMul"), (0, 1), None, None),
    }
    assert {word for layer in found.values() for word in layer.words} <= WORDS | OP_TYPES
    assert found["MatMul_m"].bias is not None and found["MatMul_m"].bias.size == 4


@pytest.mark.parametrize("reason", ["second reader", "matrix", "output", "shared vector"])
def test_an_add_that_is_no_bias_is_a_layer_of_its_own(reason: str) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "m v", "s")]
    nodes += [node("Neg", "m" if reason == "second reader" else "s", "o")]
    nodes += [node("Mul", "o v", "k")] if reason == "shared vector" else []
    shape = (5, 4) if reason == "matrix" else (4,)
    outputs = {"output": "s o m", "shared vector": "s k"}.get(reason, "s o")
    found = layers(build(nodes, {"x": [5, 3]}, {"w": floats(3, 4), "v": floats(*shape)}, outputs))
    assert found["MatMul_m"].bias is None
    assert found["Add_s"].data_inputs == (0,)


def test_operands_of_either_kind() -> None:
    found = layers(
        build(
            [
                node("MatMul", "w x", "left"),
                node("Gemm", "w x", "computed"),
                node("Add", "x x", "twice"),
                node("Shape", "x", "shape"),
                node("Add", "shape one", "whole"),
                node("Cast", "whole", "y", to=onnx.TensorProto.FLOAT),
                node("Add", "w w", "constant"),
            ],
            {"x": [3, 3]},
            {"w": floats(3, 3), "one": np.ones(1, np.int64)},
            "left computed twice y constant",
        )
    )
    assert set(found) == {"MatMul_left", "Gemm_computed", "Add_twice"}
    assert found["MatMul_left"].weight is not None and found["MatMul_left"].data_inputs == (1,)
    assert found["Gemm_computed"].type == "matmul" and found["Gemm_computed"].data_inputs == (1,)
    assert found["Add_twice"].data_inputs == (0, 1)


def test_float16_tensors_and_bodies_are_left_out() -> None:
    model = build(
        [node("Cast", "x", "h", to=10), node("Relu", "h", "r"), node("Cast", "r", "y", to=1)],
        {"x": [3]},
        {},
        "y",
    )
    assert not layers(model)
    inner = {each.name for body in _bodies(conditional().graph) for each in body.node}
    assert inner and not inner & set(layers(conditional()))


def _bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [attribute.g for each in graph.node for attribute in each.attribute if attribute.HasField("g")]
