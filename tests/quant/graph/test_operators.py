"""Placement and insertion, seen through the models that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from quant import ConfigError, QuantizationError
from quant.graph.operators import TABLE
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
    session,
)


@dataclass(frozen=True)
class Row:
    """An operator between a MatMul, which makes its input `h` a quantized tensor, and the outputs.

    Attributes:
        node: Reads `h`.
        activations: Quantized tensor -> the one whose scale it uses.
        weights: Names of quantized constants, with the channel axis where they are per channel.
    """

    node: onnx.NodeProto
    activations: dict[str, str]
    constants: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, int | None] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    outputs: str = "y"
    shape: tuple[int, ...] = (2, 4, 6, 6)


def own(*names: str) -> dict[str, str]:
    return {name: name for name in names}


IDS = np.array([1, 0])
ROWS: dict[str, Row] = {
    "Conv": Row(
        node("Conv", "h w b", "y"),
        own("h", "y"),
        {"w": floats(5, 4, 3, 3), "b": floats(5)},
        {"w": 0},
        ("b",),
    ),
    "ConvTranspose": Row(
        node("ConvTranspose", "h w b", "y"),
        own("h", "y"),
        {"w": floats(4, 5, 3, 3), "b": floats(5)},
        {"w": 1},
        ("b",),
    ),
    "Gemm": Row(
        node("Gemm", "h w b", "y", transB=1),
        own("h", "y"),
        {"w": floats(5, 6), "b": floats(5)},
        {"w": 0},
        ("b",),
        shape=(8, 6),
    ),
    "MatMul": Row(node("MatMul", "h w", "y"), own("h", "y"), {"w": floats(6, 5)}, {"w": 1}),
    "Relu": Row(node("Relu", "h", "y"), own("y")),
    "Clip": Row(
        node("Clip", "h low high", "y"), own("y"), {"low": np.float32(-0.5), "high": np.float32(1)}, {}
    ),
    "LeakyRelu": Row(node("LeakyRelu", "h", "y", alpha=0.1), own("h", "y")),
    "Sigmoid": Row(node("Sigmoid", "h", "y"), own("h", "y")),
    "Softmax": Row(node("Softmax", "h", "y"), own("h", "y")),
    "Add": Row(node("Add", "h k", "y"), own("h", "y"), {"k": floats(6)}, {"k": None}),
    "Mul": Row(node("Mul", "k h", "y"), own("h", "y"), {"k": floats(6)}, {"k": None}),
    "Concat": Row(node("Concat", "h x", "y", axis=1), own("h", "y", "x")),
    "CumSum": Row(node("CumSum", "h axis", "y"), own("h", "y"), {"axis": np.array(1)}),
    "ArgMax": Row(node("ArgMax", "h", "places", axis=1), own("h"), outputs="h"),
    "GlobalAveragePool": Row(node("GlobalAveragePool", "h", "y"), own("h", "y")),
    "AveragePool": Row(node("AveragePool", "h", "y", kernel_shape=[2, 2]), {"h": "h", "y": "h"}),
    "MaxPool": Row(node("MaxPool", "h", "y", kernel_shape=[2, 2]), {"h": "h", "y": "h"}),
    "Resize": Row(
        node("Resize", "h - scales", "y", mode="nearest"),
        {"h": "h", "y": "h"},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Reshape": Row(node("Reshape", "h to", "y"), {"h": "h", "y": "h"}, {"to": np.array([2, -1])}),
    "Flatten": Row(node("Flatten", "h", "y"), {"h": "h", "y": "h"}),
    "Squeeze": Row(
        node("Squeeze", "h axes", "y"), {"h": "h", "y": "h"}, {"axes": np.array([0])}, shape=(1, 4, 6)
    ),
    "Unsqueeze": Row(node("Unsqueeze", "h axes", "y"), {"h": "h", "y": "h"}, {"axes": np.array([0])}),
    "Transpose": Row(node("Transpose", "h", "y", perm=[0, 2, 3, 1]), {"h": "h", "y": "h"}),
    "Slice": Row(
        node("Slice", "h from to", "y"), {"h": "h", "y": "h"}, {"from": np.array([0]), "to": np.array([1])}
    ),
    "TopK": Row(node("TopK", "h k", "y places"), {"h": "h", "y": "h"}, {"k": np.array([3])}),
    "Split": Row(
        node("Split", "h", "y z", num_outputs=2, axis=1), {"h": "h", "y": "h", "z": "h"}, outputs="y z"
    ),
    "Gather": Row(node("Gather", "h ids", "y", axis=1), {"h": "h", "y": "h"}, {"ids": IDS}),
    "GatherElements": Row(
        node("GatherElements", "h ids", "y"), {"h": "h", "y": "h"}, {"ids": np.zeros((2, 4, 6, 6), np.int64)}
    ),
    "Pad": Row(node("Pad", "h pads", "y"), {"h": "h", "y": "h"}, {"pads": np.array([0, 0, 1, 1] * 2)}),
    "Where": Row(
        node("Where", "mask h x", "y"),
        own("h", "y", "x"),
        {"mask": np.array([True, False, True, True, False, False])},
    ),
    "InstanceNormalization": Row(
        node("InstanceNormalization", "h g b", "y"),
        own("h", "y"),
        {"g": floats(4) + 2, "b": floats(4)},
        {"g": None},
        ("b",),
    ),
    "LayerNormalization": Row(
        node("LayerNormalization", "h g b", "y"),
        own("h", "y"),
        {"g": floats(6) + 2, "b": floats(6)},
        {"g": None},
        ("b",),
    ),
    "BatchNormalization": Row(
        node("BatchNormalization", "h g b m v", "y"),
        own("h", "y"),
        {"g": floats(4) + 2, "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 1},
        {"g": None},
        ("b",),
    ),
}


def row_model(row: Row) -> onnx.ModelProto:
    """x -> MatMul -> h -> the operator."""
    constants = {"first": floats(row.shape[-1], row.shape[-1], seed=9, scale=0.5)} | row.constants
    model = build([node("MatMul", "x first", "h"), row.node], {"x": row.shape}, constants, row.outputs)
    if "places" in row.node.output and row.node.op_type == "ArgMax":
        model.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, (2, 1, 6, 6)))
    return model


def test_every_operator_of_the_table_has_a_row_here() -> None:
    assert set(ROWS) == set(TABLE)


@pytest.mark.parametrize("op_type", ROWS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("element", ["QInt8", "QUInt16"])
def test_every_operator(op_type: str, per_channel: bool, element: str) -> None:
    row = ROWS[op_type]
    model = row_model(row)
    feed = {"x": floats(*row.shape, seed=4)}
    weight_type = "QInt8" if element == "QInt8" else "QInt16"
    result = quantize(
        model,
        feed,
        per_channel=per_channel,
        activation_type=element,
        weight_type=weight_type,
        optimize_model=False,
    )
    onnx.checker.check_model(result.model, full_check=True)
    assert quantized_activations(result.model) == {"x": "x"} | row.activations
    tensors = initializers(result.model)
    integers = {name.removesuffix("_quantized") for name in tensors if name.endswith("_quantized")}
    assert integers == {"first", *row.weights, *row.biases}
    for name, axis in row.weights.items():
        shape = (tensors[f"{name}_quantized"].shape[axis],) if per_channel and axis is not None else ()
        assert tensors[f"{name}_scale"].shape == shape
    bits = 8 if element == "QInt8" else 16
    activations = {"x", *row.activations}
    assert result.bits == (
        dict.fromkeys(activations, bits)
        | dict.fromkeys(["first", *row.weights], bits)
        | dict.fromkeys(row.biases, 32)
    )
    tolerance = 0.05 if bits == 8 else 3e-4
    for optimized in (True, False):
        for got, wanted in zip(run(result.model, feed, optimized=optimized), run(model, feed), strict=True):
            assert got.shape == wanted.shape
            if wanted.dtype == np.float32:
                assert relative_error(wanted, got) < tolerance
            else:
                assert (got == wanted).mean() > 0.8


@pytest.mark.parametrize("op_type", ROWS)
def test_operators_behind_a_float_tensor(op_type: str) -> None:
    """Without a quantized input, pass-through operators stay float unless they are forced."""
    row = ROWS[op_type]
    model = row_model(row)
    arguments: dict[str, Any] = {"nodes_to_exclude": ["MatMul_h"], "optimize_model": False}
    feed = {"x": floats(*row.shape, seed=4)}
    passes_through = (
        "y" in row.activations and row.activations["y"] != "y" and op_type not in ("Split", "Pad")
    )
    if passes_through or op_type in ("Relu", "Clip", "Where"):
        with pytest.raises(QuantizationError, match="nothing to quantize"):
            quantize(model, feed, **arguments)
        if op_type in ("Relu", "Clip"):
            return
        arguments["extra_options"] = {"ForceQuantizeNoInputCheck": True}
    result = quantize(model, feed, **arguments)
    assert quantized_activations(result.model) == row.activations
    run(result.model, feed)


# Relu and Clip


def clipped(op_type: str, low: float | None = None, high: float | None = None) -> onnx.ModelProto:
    constants: dict[str, Array] = {"w": floats(6, 6)}
    constants |= {
        key: np.float32(value) for key, value in (("low", low), ("high", high)) if value is not None
    }
    bounds = f"{'-' if low is None else 'low'} {'-' if high is None else 'high'}"
    inputs = "h" if op_type == "Relu" else f"h {bounds}"
    return build([node("MatMul", "x w", "h"), node(op_type, inputs, "y")], {"x": ["N", 6]}, constants, "y")


CLIPS = [(-1.0, 1.0), (0.0, 6.0), (None, 1.0), (-1.0, None), (None, None), (0.0, None)]
OUTSIDE = [(0.5, 6.0), (-6.0, -0.5), (0.5, None), (None, -0.5)]


@pytest.mark.parametrize("bounds", CLIPS)
def test_clips_around_zero_are_removed(bounds: tuple[float | None, float | None]) -> None:
    model, feed = clipped("Clip", *bounds), {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    assert "Clip" not in op_types(result) and quantized_activations(result) == own("x", "y")
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


@pytest.mark.parametrize("bounds", OUTSIDE)
def test_clips_with_a_bound_on_the_wrong_side_of_zero_stay(bounds: tuple[float | None, float | None]) -> None:
    model, feed = clipped("Clip", *bounds), {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    assert "Clip" in op_types(result)
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.05


@pytest.mark.parametrize(
    "arguments",
    [
        {"extra_options": {"ActivationSymmetric": True}},
        {"extra_options": {"CalibTensorRangeSymmetric": True}},
        {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Relu", "Clip"]}},
        {"extra_options": {"QDQKeepRemovableActivations": True}},
        {"calibrate_method": "MinMSE"},
        {"calibrate_method": "NonOverflow"},
        {"calibrate_method": "Percentile"},
        {"calibrate_method": "Entropy"},
        {"extra_options": {"CalibMovingAverage": True}},
        {"activation_type": "QUInt16"},
    ],
)
@pytest.mark.parametrize("element", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("case", [("Relu", None, None), ("Clip", -0.4, 0.7), ("Clip", 0.0, 0.3)])
def test_values_stay_within_the_bounds_that_calibration_did_not_reach(
    case: tuple[str, float | None, float | None], element: str, arguments: dict[str, Any]
) -> None:
    op_type, low, high = case
    model = clipped(op_type, low, high)
    result = quantize(model, {"x": floats(64, 6, seed=1)}, **({"activation_type": element} | arguments)).model
    far = run(result, {"x": floats(64, 6, seed=2, scale=50)})[0]
    step = float(initializers(result)["y_scale"]) if "y_scale" in initializers(result) else 1e-6
    assert far.min() >= (low or 0) - step / 2
    assert high is None or far.max() <= high + step / 2


@pytest.mark.parametrize("element", ["QInt8", "QUInt8"])
def test_a_relu_that_calibration_saw_dead_still_clips(element: str) -> None:
    model = build(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        {"x": ["N", 6]},
        {"w": -np.ones((6, 6), np.float32)},
        "y",
    )
    result = quantize(model, {"x": np.abs(floats(9, 6))}, activation_type=element).model
    assert run(result, {"x": np.abs(floats(9, 6, seed=1, scale=50))})[0].max() == 0


def test_a_relu_after_a_graph_output_stays_and_leaves_it_its_range() -> None:
    model = build(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")], {"x": ["N", 6]}, {"w": floats(6, 6)}, "y h"
    )
    feed = {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    assert "Relu" in op_types(result)
    for got, wanted in zip(run(result, feed), run(model, feed), strict=True):
        assert relative_error(wanted, got) < 0.03


def test_a_relu_beside_other_readers_stays() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Add", "r h", "y")]
    model, feed = build(nodes, {"x": ["N", 6]}, {"w": floats(6, 6)}, "y"), {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    assert "Relu" in op_types(result) and quantized_activations(result) == own("x", "h", "r", "y")
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


def test_activations_in_a_row_are_all_removed() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Relu", "h", "r"),
        node("Clip", "r - high", "k"),
        node("Relu", "k", "y"),
    ]
    model = build(nodes, {"x": ["N", 6]}, {"w": floats(6, 6), "high": np.float32(0.5)}, "y")
    feed = {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    assert op_types(result).count("QuantizeLinear") == 2 and not {"Relu", "Clip"} & set(op_types(result))
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


# Weights and biases


def test_a_shared_bias_gets_a_copy_for_each_reader() -> None:
    nodes = [
        node("Gemm", "x w1 b", "h1"),
        node("Gemm", "h1 w2 b", "h2"),
        node("Gemm", "h2 w3 b", "h3"),
        node("Add", "h3 b0", "y"),
    ]
    constants = {f"w{i}": floats(6, 6, seed=i) for i in (1, 2, 3)} | {
        "b": floats(6, seed=4),
        "b0": floats(6, seed=5),
    }
    model, feed = build(nodes, {"x": ["N", 6]}, constants, "y"), {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed).model
    tensors = initializers(result)
    assert {"b_quantized", "b1_quantized", "b2_quantized", "b0_quantized"} <= tensors.keys()
    assert tensors["b0_quantized"].dtype == np.int8
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.05


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.25), (2.0, -3.0)])
@pytest.mark.parametrize("rows", [(), (1,), (1, 1)])
def test_gemm_factors_and_biases(alpha: float, beta: float, rows: tuple[int, ...], per_channel: bool) -> None:
    gemm = node("Gemm", "x w b", "y", alpha=alpha, beta=beta)
    constants = {"w": floats(6, 5), "b": floats(*rows[:-1], 5, seed=2, scale=5)}
    model, feed = build([gemm], {"x": ["N", 6]}, constants, "y"), {"x": floats(64, 6, seed=1)}
    result = quantize(model, feed, per_channel=per_channel).model
    assert initializers(result)["b_quantized"].dtype == np.int32
    for optimized in (True, False):
        assert relative_error(run(model, feed)[0], run(result, feed, optimized=optimized)[0]) < 0.02


@pytest.mark.parametrize("shape", [(5, 1), (5, 5), (1,), ()])
def test_biases_that_do_not_match_the_channels_stay_float(shape: tuple[int, ...]) -> None:
    constants = {"w": floats(6, 5), "b": np.asarray(floats(*shape, seed=2))}
    model, feed = (
        build([node("Gemm", "x w b", "y")], {"x": [5, 6]}, constants, "y"),
        {"x": floats(5, 6, seed=1)},
    )
    result = quantize(model, feed, per_channel=True)
    assert "b_quantized" not in initializers(result.model)
    assert "has not one value for each scale" in result.skipped[0].reason
    wanted = run(model, feed)[0]
    assert relative_error(wanted, run(result.model, feed)[0]) < 0.03
    assert relative_error(wanted, run(quantize(model, feed).model, feed)[0]) < 0.03


def test_a_computed_bias_stays_float_with_a_reason() -> None:
    nodes = [node("Relu", "x", "r"), node("Gemm", "x w r", "y")]
    model, feed = build(nodes, {"x": [5, 5]}, {"w": floats(5, 5)}, "y"), {"x": floats(5, 5)}
    result = quantize(model, feed)
    assert [skip.reason for skip in result.skipped] == ["bias 'r' is not a constant"]
    run(result.model, feed)


def test_a_grouped_transposed_convolution_keeps_its_bias_float_per_channel() -> None:
    nodes = [node("ConvTranspose", "x w b", "y", group=2)]
    constants = {"w": floats(4, 3, 3, 3), "b": floats(6)}
    model, feed = build(nodes, {"x": (1, 4, 5, 5)}, constants, "y"), {"x": floats(1, 4, 5, 5)}
    for per_channel in (True, False):
        result = quantize(model, feed, per_channel=per_channel).model
        assert ("b_quantized" in initializers(result)) is not per_channel
        assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


def test_weights_shared_by_layers_are_quantized_once() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h w", "a"), node("MatMul", "a w", "y")]
    model, feed = build(nodes, {"x": (6, 6)}, {"w": floats(6, 6)}, "y"), {"x": floats(6, 6, seed=1)}
    for per_channel in (False, True):
        result = quantize(model, feed, per_channel=per_channel).model
        assert op_types(result).count("DequantizeLinear") == 5
        assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


@pytest.mark.parametrize("weight_type", ["QInt8", "QInt16"])
def test_a_table_tied_to_a_layer(weight_type: str) -> None:
    """Gather's output cannot take over the scales of channels, nor those of another type."""
    nodes = [node("Gather", "w ids", "e"), node("MatMul", "x e", "h"), node("Gemm", "h w", "y", transB=1)]
    constants = {"w": floats(9, 6), "ids": np.array([1, 8, 0, 3])}
    model, feed = build(nodes, {"x": (5, 4)}, constants, "y"), {"x": floats(5, 4)}
    for per_channel in (False, True):
        result = quantize(model, feed, per_channel=per_channel, weight_type=weight_type).model
        onnx.checker.check_model(result, full_check=True)
        assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", ["MinMax", "NonOverflow"])
def test_large_biases_raise_the_weights_scale_instead_of_overflowing(per_channel: bool, method: str) -> None:
    weight = floats(6, 5, scale=1e-7)
    constants = {"w": weight, "b": np.array([3, -2, 0.5, 0, 1e-9], np.float32)}
    model, feed = (
        build([node("Gemm", "x w b", "y")], {"x": ["N", 6]}, constants, "y"),
        {"x": floats(9, 6, scale=1e-3)},
    )
    result = quantize(model, feed, per_channel=per_channel, calibrate_method=method).model
    tensors = initializers(result)
    assert np.abs(tensors["b_quantized"].astype(np.int64)).max() < 2**31 - 1
    bias = tensors["b_quantized"] * tensors["b_quantized_scale"].astype(np.float64)
    np.testing.assert_allclose(bias, constants["b"], atol=1e-8, rtol=1e-6)
    if method == "NonOverflow":
        assert (np.frexp(tensors["w_scale"])[0] == 0.5).all()
    raised = np.broadcast_to(tensors["w_scale"] > np.abs(weight).max(axis=0) / 127 * 2, (5,))
    assert raised[0] and raised[4] == (not per_channel)
    np.testing.assert_allclose(run(result, feed)[0], run(model, feed)[0], atol=0.02)


# Options


def test_graph_outputs_and_inputs_keep_their_names() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "y"), node("MaxPool", "z", "p", kernel_shape=[2])]
    model = build(nodes, {"x": ["N", 6], "z": ["N", 2, 8]}, {"w": floats(6, 6)}, "y p")
    feed = {"x": floats(4, 6), "z": floats(4, 2, 8)}
    result = quantize(model, feed, extra_options={"ForceQuantizeNoInputCheck": True}).model
    assert [value.name for value in result.graph.input] == ["x", "z"]
    assert [value.name for value in result.graph.output] == ["y", "p"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in result.graph.output
    ]
    assert shapes == [["N", 6], ["N", 2, 7]]
    run(result, feed)


def test_an_input_that_is_an_output_too_stays_what_it_is() -> None:
    model = build(
        [node("MatMul", "x w", "y")], {"x": (4, 6)}, {"w": floats(6, 6)}, "y x", output_shape=(4, 6)
    )
    feed = {"x": floats(4, 6)}
    result = quantize(model, feed).model
    np.testing.assert_array_equal(run(result, feed)[1], feed["x"])


def fork() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Sigmoid", "h", "a"),
        node("Mul", "h h", "b"),
        node("Add", "a b", "y"),
    ]
    return build(nodes, {"x": ["N", 6]}, {"w": floats(6, 6)}, "y")


def test_dedicated_pairs() -> None:
    feed = {"x": floats(16, 6)}
    shared, dedicated = (
        quantize(fork(), feed, extra_options={"DedicatedQDQPair": flag}).model for flag in (False, True)
    )
    assert op_types(shared).count("QuantizeLinear") == 5
    assert op_types(dedicated).count("QuantizeLinear") == 7
    readers = [name for one in dedicated.graph.node for name in one.input if "DequantizeLinear" in name]
    assert len(readers) == len(set(readers))
    np.testing.assert_array_equal(
        run(shared, feed, optimized=False)[0], run(dedicated, feed, optimized=False)[0]
    )


def test_pairs_on_float_weights_give_the_same_numbers() -> None:
    feed = {"x": floats(16, 6)}
    plain, pairs = (
        quantize(fork(), feed, per_channel=True, extra_options={"AddQDQPairToWeight": flag}).model
        for flag in (False, True)
    )
    np.testing.assert_array_equal(initializers(pairs)["w"], floats(6, 6))
    assert "w_quantized" not in initializers(pairs)
    np.testing.assert_array_equal(run(plain, feed, optimized=False)[0], run(pairs, feed, optimized=False)[0])


def conv_and_gemm() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w b", "c", name="conv"),
        node("Flatten", "c", "f", name="flat"),
        node("Gemm", "f v d", "y", name="fc"),
    ]
    constants = {"w": floats(3, 2, 3, 3), "b": floats(3), "v": floats(48, 5), "d": floats(5)}
    return build(nodes, {"x": (4, 2, 6, 6)}, constants, "y")


IMAGES = {"x": floats(4, 2, 6, 6)}


@pytest.mark.parametrize(
    ("arguments", "activations"),
    [
        ({}, {"x": "x", "c": "c", "f": "c", "y": "y"}),
        ({"nodes_to_exclude": ["conv"]}, own("f", "y")),
        (
            {"nodes_to_exclude": ["conv", "fc"], "extra_options": {"ForceQuantizeNoInputCheck": True}},
            {"c": "c", "f": "c"},
        ),
        ({"nodes_to_quantize": ["conv"]}, own("x", "c")),
        ({"nodes_to_quantize": ["conv", "fc"], "nodes_to_exclude": ["fc"]}, own("x", "c")),
        ({"input_nodes": ["flat"]}, own("f", "y")),
        ({"input_nodes": ["conv", "fc"], "output_nodes": ["fc"]}, {"x": "x", "c": "c", "f": "f", "y": "y"}),
        ({"output_nodes": ["conv"]}, own("x", "c")),
        ({"output_nodes": ["flat"]}, {"x": "x", "c": "c", "f": "c"}),
        ({"op_types_to_quantize": ["Gemm"]}, own("f", "y")),
        ({"op_types_to_quantize": ["Gemm", "Flatten", "Conv"]}, {"x": "x", "c": "c", "f": "c", "y": "y"}),
        ({"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]}}, own("x", "f", "y")),
        ({"extra_options": {"OpTypesToExcludeOutputQuantization": ["Gemm", "Flatten"]}}, own("x", "c", "f")),
    ],
)
def test_selections(arguments: dict[str, Any], activations: dict[str, str]) -> None:
    result = quantize(conv_and_gemm(), IMAGES, **arguments).model
    assert quantized_activations(result) == activations
    assert relative_error(run(conv_and_gemm(), IMAGES)[0], run(result, IMAGES)[0]) < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"nodes_to_exclude": ["convo"]},
            "nodes_to_exclude: the model has no node 'convo'; did you mean 'conv'?",
        ),
        ({"nodes_to_quantize": ["fs"]}, "nodes_to_quantize: the model has no node 'fs'"),
        ({"output_nodes": ["fcc"]}, "output_nodes: the model has no node 'fcc'; did you mean 'fc'?"),
        (
            {"op_types_to_quantize": ["Conf"]},
            "op_types_to_quantize: no rule for 'Conf'; did you mean 'Conv'?",
        ),
    ],
)
def test_unknown_names_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quantize(conv_and_gemm(), IMAGES, **arguments)
    assert message in str(caught.value)


def test_bounds_leave_parallel_branches_alone() -> None:
    nodes = [
        node("MatMul", "x w", "a", name="before"),
        node("Relu", "a", "r", name="relu"),
        node("MatMul", "r v", "b", name="bound"),
        node("MatMul", "x u", "c", name="beside"),
        node("Add", "b c", "y", name="behind"),
    ]
    constants = {name: floats(6, 6) for name in "wvu"}
    model = build(nodes, {"x": ["N", 6]}, constants, "y")
    feed = {"x": floats(16, 6)}
    assert quantized_activations(quantize(model, feed, input_nodes=["bound"]).model) == own(*"xrbcy")
    assert quantized_activations(quantize(model, feed, output_nodes=["bound"]).model) == own(*"xrbc")


def test_biases_can_stay_float() -> None:
    result = quantize(conv_and_gemm(), IMAGES, extra_options={"QuantizeBias": False}).model
    np.testing.assert_array_equal(initializers(result)["b"], floats(3))
    assert relative_error(run(conv_and_gemm(), IMAGES)[0], run(result, IMAGES)[0]) < 0.03


def test_only_matmuls_with_a_constant() -> None:
    nodes = [node("MatMul", "x w", "h", name="a"), node("MatMul", "h h", "y", name="b")]
    model, feed = build(nodes, {"x": (6, 6)}, {"w": floats(6, 6)}, "y"), {"x": floats(6, 6)}
    result = quantize(model, feed, extra_options={"MatMulConstBOnly": True})
    assert quantized_activations(result.model) == own("x", "h")
    assert [(skip.node, skip.reason) for skip in result.skipped] == [
        ("b", "both operands are computed (MatMulConstBOnly)")
    ]
    assert "y" in quantized_activations(quantize(model, feed).model)


@pytest.mark.parametrize("axis", [1, -1, 5])
def test_channel_axes_by_operator(axis: int) -> None:
    options = {"QDQOpTypePerChannelSupportToAxis": {"MatMul": axis}}
    model, feed = (
        build([node("MatMul", "x w", "y")], {"x": (4, 6)}, {"w": floats(6, 5)}, "y"),
        {"x": floats(4, 6)},
    )
    result = quantize(model, feed, per_channel=True, extra_options=options).model
    assert initializers(result)["w_scale"].shape == {1: (5,), -1: (5,), 5: ()}[axis]
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


@pytest.mark.parametrize("inputs", ["x w", "w x"])
def test_batched_constants_have_one_scale(inputs: str) -> None:
    model = build([node("MatMul", inputs, "y")], {"x": (2, 6, 6)}, {"w": floats(2, 6, 6)}, "y")
    feed = {"x": floats(2, 6, 6, seed=1)}
    result = quantize(model, feed, per_channel=True).model
    assert initializers(result)["w_scale"].shape == ()
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


def test_least_width_of_ranges() -> None:
    model = build([node("MatMul", "x w", "y")], {"x": (4, 6)}, {"w": floats(6, 5, scale=1e-3)}, "y")
    tensors = initializers(
        quantize(model, {"x": floats(4, 6, scale=1e-3)}, extra_options={"MinimumRealRange": 10.0}).model
    )
    assert tensors["x_scale"] == np.float32(10 / 255)
    assert tensors["w_scale"] == pytest.approx(20 / 254, rel=1e-3)  # symmetric about zero afterwards


def test_padding_with_another_value_has_a_range_of_its_own() -> None:
    constants = {"w": floats(6, 6), "pads": np.array([0, 1, 0, 1]), "value": np.float32(9)}
    nodes = [node("MatMul", "x w", "h"), node("Pad", "h pads value", "y")]
    model, feed = build(nodes, {"x": (4, 6)}, constants, "y"), {"x": floats(4, 6)}
    result = quantize(model, feed).model
    assert quantized_activations(result) == own("x", "h", "y")
    assert relative_error(run(model, feed)[0], run(result, feed)[0]) < 0.03


def test_softmax_covers_zero_to_one() -> None:
    tensors = initializers(quantize(row_model(ROWS["Softmax"]), {"x": floats(2, 4, 6, 6)}).model)
    assert (tensors["y_scale"], tensors["y_zero_point"]) == (np.float32(1 / 255), -128)


def test_a_model_without_anything_to_quantize_is_refused() -> None:
    with pytest.raises(QuantizationError, match="nothing to quantize"):
        quantize(build([node("Exp", "x", "y")], {"x": (2, 3)}, {}, "y"), {"x": floats(2, 3)})


def test_tensors_of_other_types_stay() -> None:
    nodes = [
        node("Cast", "x", "i", to=TensorProto.INT32),
        node("Add", "i i", "j"),
        node("Cast", "j", "k", to=TensorProto.FLOAT),
        node("MatMul", "k w", "y"),
    ]
    model, feed = build(nodes, {"x": (4, 6)}, {"w": floats(6, 5)}, "y"), {"x": floats(4, 6, scale=9)}
    result = quantize(model, feed).model
    assert quantized_activations(result) == own("k", "y")
    assert session(ir.from_proto(result))
