from __future__ import annotations

import numpy as np
import onnx
import pytest

from quant import ConfigError
from tests.quant.graphs import (
    Array,
    build,
    floats,
    initializers,
    node,
    op_types,
    quantize,
    quantized_activations,
    relative_error,
    run,
)

MOVERS: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "MaxPool": (node("MaxPool", "h", "m", name="mover", kernel_shape=[1, 2]), {}),
    "Reshape": (node("Reshape", "h shape", "m", name="mover"), {"shape": np.array([1, 4, 24])}),
    "Slice": (node("Slice", "h one two", "m", name="mover"), {"one": np.array([1]), "two": np.array([2])}),
    "Squeeze": (node("Squeeze", "h zero", "m", name="mover"), {"zero": np.array([0])}),
    "Transpose": (node("Transpose", "h", "m", name="mover", perm=[1, 2, 0, 3]), {}),
    "Unsqueeze": (node("Unsqueeze", "h zero", "m", name="mover"), {"zero": np.array([0])}),
}


@pytest.mark.parametrize("op_type", MOVERS)
@pytest.mark.parametrize("activation_type", ["QInt8", "QUInt8", "QInt16"])
@pytest.mark.parametrize("readers", ["float", "output"])
def test_left_out_operators_that_move_values_get_a_pair_that_changes_none(
    op_type: str, activation_type: str, readers: str
) -> None:
    mover, constants = MOVERS[op_type]
    tail = [node("Exp", "m", "y")] if readers == "float" else []
    outputs = "y h" if readers == "float" else "m h"
    model = build(
        [node("MatMul", "x w", "h"), mover, *tail],
        {"x": (1, 4, 4, 6)},
        constants | {"w": floats(6, 6)},
        outputs,
    )
    feed = {"x": floats(1, 4, 4, 6, seed=1)}
    result = quantize(model, feed, activation_type=activation_type, nodes_to_exclude=["mover"]).model
    assert quantized_activations(result)["m"] == "h"
    moved, source = run(result, feed)
    reference = build([mover, *tail], {"h": (1, 4, 4, 6)}, constants, outputs.split()[0])
    np.testing.assert_allclose(moved, run(reference, {"h": source})[0], rtol=1e-6)


def test_the_pair_follows_a_tensor_that_a_later_node_makes_quantized() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0]),
        node("Exp", "t", "y"),
        node("MatMul", "x w", "z"),
    ]
    model, feed = build(nodes, {"x": (4, 6)}, {"w": floats(6, 5)}, "y z"), {"x": floats(4, 6, seed=1)}
    result = quantize(model, feed).model
    assert quantized_activations(result) == {"x": "x", "t": "x", "z": "z"}
    for wanted, got in zip(run(model, feed), run(result, feed), strict=True):
        assert relative_error(wanted, got) < 0.03


@pytest.mark.parametrize("order", ["bias first", "operand first"])
def test_a_bias_that_is_an_operand_too_is_quantized_twice(order: str) -> None:
    layer, sum_ = node("Gemm", "x w b", "h"), node("Add", "x b", "a")
    nodes = [layer, sum_] if order == "bias first" else [sum_, layer]
    model = build(
        nodes, {"x": (4, 6)}, {"w": floats(6, 6, seed=1), "b": floats(6, seed=2, scale=1e-2)}, "h a"
    )
    feed = {"x": floats(4, 6, seed=3)}
    result = quantize(model, feed, activation_type="QUInt8").model
    tensors = initializers(result)
    assert tensors["b_quantized"].dtype == np.uint8
    bias = tensors["b0_quantized"].astype(np.float64) * tensors["b0_quantized_scale"]
    assert tensors["b0_quantized"].dtype == np.int32
    np.testing.assert_allclose(bias, floats(6, seed=2, scale=1e-2), atol=tensors["b0_quantized_scale"].max())
    assert len({tensor.name for tensor in result.graph.initializer}) == len(result.graph.initializer)
    assert op_types(result).count("DequantizeLinear") == 6  # x, w, both of b, and the outputs
    for wanted, got in zip(run(model, feed), run(result, feed), strict=True):
        assert relative_error(wanted, got) < 0.03


SUMMED = {  # the axis that the operator sums over
    "MatMul": (node("MatMul", "x w", "y"), {"x": (6, 6)}, floats(6, 6), 0),
    "Gemm": (node("Gemm", "x w", "y", transB=1), {"x": (6, 6)}, floats(6, 6), 1),
    "Conv": (node("Conv", "x w", "y"), {"x": (2, 6, 8)}, floats(6, 6, 3), 1),
}


@pytest.mark.parametrize("op_type", SUMMED)
def test_scales_along_a_summed_axis_are_refused(op_type: str) -> None:
    layer, inputs, weight, axis = SUMMED[op_type]
    model = build([layer], inputs, {"w": weight}, "y")
    options = {"QDQOpTypePerChannelSupportToAxis": {op_type: axis}}
    with pytest.raises(ConfigError, match=rf"ToAxis: '{op_type}': axis {axis} is not .* use {1 - axis} or"):
        quantize(model, {"x": floats(*inputs["x"])}, per_channel=True, extra_options=options)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_weight_with_two_channel_axes_has_one_scale(transposed: int) -> None:
    nodes = [
        node("Gemm", "x w b", "h", transB=transposed),
        node("Gemm", "h w b", "y", transB=1 - transposed),
    ]
    weight = floats(6, 6, seed=1) * np.exp(floats(6, seed=2)) * np.exp(floats(6, 1, seed=3))
    model = build(nodes, {"x": (8, 6)}, {"w": weight, "b": floats(6, seed=4)}, "y")
    feed = {"x": floats(8, 6, seed=5)}
    result = quantize(model, feed, per_channel=True)
    assert initializers(result.model)["w_scale"].shape == ()
    assert "different channel axes" in {skip.node: skip.reason for skip in result.skipped}["w"]
    assert relative_error(run(model, feed)[0], run(result.model, feed)[0]) < 0.05


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("weight_type", "symmetric"), [("QUInt16", False), ("QUInt16", True), ("QInt16", False)]
)
def test_biases_do_not_overflow_whatever_the_weights_type(
    weight_type: str, symmetric: bool, per_channel: bool
) -> None:
    constants = {"w": floats(6, 5, seed=1, scale=1e-2) + np.float32(5e-3), "b": floats(5, seed=2) + 4}
    model = build([node("Gemm", "x w b", "y")], {"x": (8, 6)}, constants, "y")
    feed = {"x": floats(8, 6, seed=3, scale=1e-2)}
    result = quantize(
        model,
        feed,
        activation_type="QUInt16",
        weight_type=weight_type,
        per_channel=per_channel,
        extra_options={"WeightSymmetric": symmetric},
    ).model
    assert np.abs(initializers(result)["b_quantized"].astype(np.int64)).max() < 2**31 - 1
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 1e-3
