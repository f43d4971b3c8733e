from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import CalibrationData, DataError, Pipeline, QuantConfig, StageCache
from quant.calibration.channel_maxima import collect_channel_maxima
from quant.graph.prepare import prepare
from quant.transforms.skip import Skip
from quant.transforms.smooth_quant import SmoothOptions, smooth, smoothed_tensors, smoothing_scales
from tests.quant.graphs import (
    Array,
    Feed,
    build,
    float_model,
    floats,
    initializers,
    node,
    op_types,
    pipeline,
    quantize,
    quantized_activations,
    relative_error,
    run,
    serialized,
)

WIDTH = 16
OUTLIERS = {1: 50.0, 6: 100.0, 11: 80.0}
"""Channel -> how much larger it is than the others."""


def transformer_block(*, opset: int = 21, outliers: bool = False) -> onnx.ModelProto:
    """Pre-normalised attention with q, k, v and biases, then an MLP; both with residuals.

    With outliers, channels of the normalised activations are far wider, and the weights that read
    them as much narrower, as in trained transformers: the function is the same.
    """
    nodes = [
        node("LayerNormalization", "x gamma1 beta1", "n1"),
        *(
            made
            for name in "qkv"
            for made in (
                node("MatMul", f"n1 w{name}", f"{name}0"),
                node("Add", f"{name}0 b{name}", name),
            )
        ),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "scores"),
        node("Mul", "scores factor", "scaled"),
        node("Softmax", "scaled", "p", axis=-1),
        node("MatMul", "p v", "o"),
        node("MatMul", "o wo", "projected0"),
        node("Add", "bo projected0", "projected"),
        node("Add", "x projected", "h"),
        node("LayerNormalization", "h gamma2 beta2", "n2"),
        node("MatMul", "n2 w1", "f0"),
        node("Add", "f0 b1", "f"),
        node("Relu", "f", "r"),
        node("MatMul", "r w2", "m"),
        node("Add", "h m", "y"),
    ]
    square = (WIDTH, WIDTH)
    constants = {f"w{name}": floats(*square, seed=i, scale=0.3) for i, name in enumerate("qkvo")}
    constants |= {f"b{name}": floats(WIDTH, seed=10 + i) for i, name in enumerate("qkvo")}
    for i in (1, 2):
        constants |= {f"gamma{i}": floats(WIDTH, seed=20 + i, scale=0.1) + 1}
        constants |= {f"beta{i}": floats(WIDTH, seed=30 + i, scale=0.1)}
    constants |= {"w1": floats(WIDTH, 32, seed=40, scale=0.3), "b1": floats(32, seed=41)}
    constants |= {"w2": floats(32, WIDTH, seed=42, scale=0.2), "factor": np.float32(0.25)}
    for channel, factor in OUTLIERS.items() if outliers else ():
        for name in ("gamma1", "beta1", "gamma2", "beta2"):
            constants[name][channel] *= factor
        for name in ("wq", "wk", "wv", "w1"):
            constants[name][channel] /= factor
    return build(nodes, {"x": ["N", "S", WIDTH]}, constants, "y", opset=opset, ir_version=8)


def ragged() -> list[Feed]:
    """Batches and sequences of several lengths, one of them empty."""
    shapes = [(4, 6), (2, 9), (0, 6), (1, 3)]
    return [{"x": floats(*shape, WIDTH, seed=seed)} for seed, shape in enumerate(shapes)]


def smoothed(
    model: onnx.ModelProto, feeds: list[Feed], alpha: float = 0.5
) -> tuple[onnx.ModelProto, tuple[Skip, ...]]:
    """The prepared model after the transform, which must leave its argument as it is."""
    prepared, _ = prepare(ir.from_proto(model), optimize=False)
    before = serialized(prepared)
    maxima = collect_channel_maxima(prepared, smoothed_tensors(prepared), feeds)
    result, skipped = smooth(prepared, maxima, SmoothOptions(alpha))
    assert serialized(prepared) == before
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    return proto, skipped


def reasons(skipped: tuple[Skip, ...]) -> dict[str, str]:
    return {skip.node: skip.reason for skip in skipped}


def assert_same_function(model: onnx.ModelProto, other: onnx.ModelProto, feeds: list[Feed]) -> None:
    for feed in feeds:
        for wanted, got in zip(run(model, feed), run(other, feed), strict=True):
            scale = np.abs(wanted).max(initial=0)
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("outliers", [False, True])
def test_a_transformer_block_keeps_its_outputs(alpha: float, outliers: bool) -> None:
    model = transformer_block(outliers=outliers)
    result, skipped = smoothed(model, ragged(), alpha)
    assert_same_function(model, result, ragged())
    assert reasons(skipped) == {
        "MatMul_scores": "both operands are computed",
        "MatMul_o": "both operands are computed",
    }
    # folded into the normalizations and, through Relu and Add, into w1; nothing in front of wo takes it
    assert [n.name for n in result.graph.node if n.op_type == "Mul"] == ["Mul_scaled", "o_smooth"]
    assert len(result.graph.node) == len(model.graph.node) + 1


def test_older_opsets_are_prepared_first() -> None:
    model = transformer_block(opset=17, outliers=True)
    result, _ = smoothed(model, ragged())
    assert_same_function(model, result, ragged())
    assert op_types(result).count("Mul") == 2


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_scales_against_the_formula_channel_by_channel(alpha: float) -> None:
    model, feeds = transformer_block(outliers=True), ragged()
    result, _ = smoothed(model, feeds, alpha)
    given, changed = initializers(model), initializers(result)
    scale = np.ones(WIDTH)
    for j in range(WIDTH):
        x = max(np.abs(normalised(model, feed)[..., j]).max(initial=0) for feed in feeds)
        w = max(np.abs(given[name][j]).max() for name in ("wq", "wk", "wv"))
        scale[j] = x**alpha / w ** (1 - alpha)
    for name in ("wq", "wk", "wv"):
        np.testing.assert_allclose(changed[name], given[name] * scale[:, None], rtol=1e-4)
    np.testing.assert_allclose(changed["gamma1_folded"], given["gamma1"] / scale, rtol=1e-4)
    np.testing.assert_allclose(changed["beta1_folded"], given["beta1"] / scale, rtol=1e-4)


def normalised(model: onnx.ModelProto, feed: Feed) -> Array:
    """The first LayerNormalization, by hand."""
    constants, x = initializers(model), feed["x"].astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    result: Array = centred / deviation * constants["gamma1"] + constants["beta1"]
    return result


def test_alpha_decides_which_side_becomes_even() -> None:
    activations, weights = np.abs(floats(9, seed=1)).astype(float), np.abs(floats(9, seed=2)).astype(float)
    np.testing.assert_allclose(activations / smoothing_scales(activations, weights, 1.0), 1)
    np.testing.assert_allclose(weights * smoothing_scales(activations, weights, 0.0), 1)
    half = smoothing_scales(activations, weights, 0.5)
    np.testing.assert_allclose(activations / half, weights * half)  # eq. 5: both as wide


def test_channels_without_a_range_stay_and_extremes_are_clipped() -> None:
    activations, weights = np.array([0, 3, 0, 1e30, 1e-30, 4]), np.array([2, 0, 0, 1e-30, 1e30, 1.0])
    np.testing.assert_array_equal(smoothing_scales(activations, weights, 0.5), [1, 1, 1, 1e5, 1e-5, 2])


def test_dead_channels_of_a_model_stay() -> None:
    weight = floats(6, 4)
    weight[2] = 0
    model = build([node("MatMul", "x w", "y")], {"x": ["N", 6]}, {"w": weight}, "y")
    feed = {"x": floats(8, 6) * np.array([1, 0, 5, 1, 9, 1], np.float32)}
    result, _ = smoothed(model, [feed])
    factor = initializers(result)["x_smoothing"]
    assert factor[1] == factor[2] == 1 and np.isfinite(factor).all()
    assert_same_function(model, result, [feed, {"x": floats(8, 6)}])


ROW = (5, 6)
FOLDED: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], tuple[int, ...]]] = {
    "Gemm after Gemm, both transposed": (
        [node("Gemm", "x w1 b1", "h", transB=1, alpha=0.5, beta=2.0), node("Gemm", "h w2 b2", "y", transB=1)],
        {"w1": floats(7, 6), "b1": floats(7), "w2": floats(3, 7), "b2": floats(3)},
        ROW,
    ),
    "Gemm with a bias of one row": (
        [node("Gemm", "x w1 b1", "h"), node("LeakyRelu", "h", "r"), node("Gemm", "r w2", "y", alpha=3.0)],
        {"w1": floats(6, 7), "b1": floats(1, 7), "w2": floats(7, 3)},
        ROW,
    ),
    "MatMul, Add, Relu": (
        [
            node("MatMul", "x w1", "h"),
            node("Add", "b1 h", "a"),
            node("Relu", "a", "r"),
            node("MatMul", "r w2", "y"),
        ],
        {"w1": floats(6, 7), "b1": floats(7), "w2": floats(7, 3)},
        (2, 5, 6),
    ),
    "scale and offset": (
        [
            node("Sigmoid", "x", "s"),
            node("Mul", "gamma s", "m"),
            node("Add", "m beta", "a"),
            node("MatMul", "a w2", "y"),
        ],
        {"gamma": floats(6), "beta": floats(1, 6), "w2": floats(6, 3)},
        ROW,
    ),
    "normalization without a bias": (
        [node("LayerNormalization", "x gamma", "n"), node("Gemm", "n w2", "y")],
        {"gamma": floats(6), "w2": floats(6, 3)},
        ROW,
    ),
    "normalization over two axes": (
        [node("LayerNormalization", "x gamma beta", "n", axis=1), node("MatMul", "n w2", "y")],
        {"gamma": floats(5, 6), "beta": floats(5, 6), "w2": floats(6, 3)},
        (2, 5, 6),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_in_front_takes_the_factor(name: str) -> None:
    nodes, constants, shape = FOLDED[name]
    model = build(nodes, {"x": shape}, constants, "y")
    feeds = [{"x": floats(*shape, seed=seed)} for seed in range(2)]
    result, skipped = smoothed(model, feeds, alpha=0.7)
    first = node("Mul", "x x_smoothing", "x_smoothed", name="x_smooth")
    expected = [first] if "w1" in constants else []  # of the layer that reads the graph's input
    assert op_types(result) == op_types_of(expected) + op_types(model)
    assert not skipped
    assert_same_function(model, result, feeds)
    assert not np.array_equal(initializers(result)["w2"], constants["w2"])


def op_types_of(nodes: list[onnx.NodeProto]) -> list[str]:
    return [one.op_type for one in nodes]


NORM = node("LayerNormalization", "x gamma beta", "n")
MATMUL = node("MatMul", "n w", "y")
UNFOLDED: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "a residual reads it": ([NORM, MATMUL, node("Add", "n x", "z")], "y z"),
    "graph output": ([NORM, MATMUL], "y n"),
    "a Gemm adds it": ([NORM, node("Gemm", "n w n", "y")], "y"),
    "another operator": ([node("Sigmoid", "x", "n"), MATMUL], "y"),
    "graph input": ([node("MatMul", "x w", "y")], "y"),
    "a factor for all channels": ([node("Mul", "x one", "n"), MATMUL], "y"),
    "a computed factor": ([node("Mul", "x x", "n"), MATMUL], "y"),
    "a computed term": ([node("Add", "x x", "n"), MATMUL], "y"),
    "an offset of something that cannot take it": ([node("Add", "x beta", "n"), MATMUL], "y"),
    "a term whose other reader needs it": (
        [node("Mul", "x gamma", "m"), node("Add", "m beta", "n"), MATMUL, node("Relu", "m", "z")],
        "y z",
    ),
    "a Gemm with a bias for each row": ([node("Gemm", "x w2 column", "n"), MATMUL], "y"),
    "a Gemm with a computed weight": ([node("Gemm", "x x", "n"), MATMUL], "y"),
}


@pytest.mark.parametrize("name", UNFOLDED)
def test_one_mul_is_inserted_where_nothing_takes_the_factor(name: str) -> None:
    nodes, outputs = UNFOLDED[name]
    constants = {"w": floats(6, 6), "gamma": floats(6, seed=1) + 2, "beta": floats(6, seed=2)}
    constants |= {"one": np.float32(0.5), "column": floats(6, 1), "w2": floats(6, 6, seed=3)}
    used = {name for one in nodes for name in one.input}
    constants = {name: array for name, array in constants.items() if name in used}
    model = build(nodes, {"x": (6, 6)}, constants, outputs)
    feeds = [{"x": floats(6, 6, seed=seed)} for seed in range(2)]
    result, _ = smoothed(model, feeds)
    source = (
        nodes[-1 if outputs == "y" else 1].input[0] if name != "a term whose other reader needs it" else "n"
    )
    assert f"{source}_smooth" in [one.name for one in result.graph.node]
    assert_same_function(model, result, feeds)


def test_readers_of_one_activation_share_the_mul() -> None:
    nodes = [
        node("Sigmoid", "x", "s"),
        node("MatMul", "s a", "ya"),
        node("Gemm", "s b", "yb", transB=1),
        node("MatMul", "s a", "yc"),
        node("Relu", "s", "yd"),
    ]
    constants = {"a": floats(6, 4), "b": floats(3, 6, seed=1)}
    model = build(nodes, {"x": ROW}, constants, "ya yb yc yd")
    feeds = [{"x": floats(*ROW)}]
    result, skipped = smoothed(model, feeds)
    assert not skipped and op_types(result).count("Mul") == 1
    readers = {one.name: one.input[0] for one in result.graph.node if one.op_type != "Mul"}
    assert [readers[name] for name in ("MatMul_ya", "Gemm_yb", "MatMul_yc")] == ["s_smoothed"] * 3
    assert readers["Relu_yd"] == "s"
    assert_same_function(model, result, feeds)


def test_constants_that_others_read_keep_their_values_for_them() -> None:
    nodes = [
        NORM,
        MATMUL,
        node("LayerNormalization", "x gamma beta", "other"),
        node("Mul", "x gamma", "z"),
    ]
    constants = {"w": floats(6, 3), "gamma": floats(6, seed=1), "beta": floats(6, seed=2)}
    model = build(nodes, {"x": ROW}, constants, "y other z")
    feeds = [{"x": floats(*ROW)}]
    result, _ = smoothed(model, feeds)
    assert op_types(result) == op_types(model)
    assert_same_function(model, result, feeds)


LEFT: dict[str, tuple[list[onnx.NodeProto], dict[str, str]]] = {
    "computed operands": ([node("MatMul", "x x", "y")], {"MatMul_y": "both operands are computed"}),
    "constant in front": ([node("MatMul", "w x", "y")], {"MatMul_y": "weight 'x' is not a constant"}),
    "computed weight": ([node("Gemm", "x x", "y")], {"Gemm_y": "weight 'x' is not a constant"}),
    "constant product": (
        [node("MatMul", "w w2", "p"), node("Add", "x p", "y")],
        {"MatMul_p": "both operands are constants"},
    ),
    "transposed": ([node("Gemm", "x w", "y", transA=1)], {"Gemm_y": "activation 'x' is transposed"}),
    "batched": ([node("MatMul", "x batched", "y")], {"MatMul_y": "weight 'batched' has 3 axes"}),
    "shared between activations": (
        [node("MatMul", "x w", "h"), node("MatMul", "h w", "y")],
        {
            "MatMul_h": "weight 'w' has other readers than layers of 'x'",
            "MatMul_y": "weight 'w' has other readers than layers of 'h'",
        },
    ),
    "shared with another operator": (
        [node("MatMul", "x w", "h"), node("Add", "h w", "y")],
        {"MatMul_h": "weight 'w' has other readers than layers of 'x'"},
    ),
    "shared both ways round": (
        [node("Gemm", "x w", "h"), node("Gemm", "x w", "g", transB=1), node("Add", "h g", "y")],
        {
            "Gemm_h": "weight 'w' has other readers than layers of 'x'",
            "Gemm_g": "weight 'w' has other readers than layers of 'x'",
        },
    ),
    "convolution": ([node("Conv", "image kernel", "y")], {}),
}


@pytest.mark.parametrize("name", LEFT)
def test_reasons_for_leaving_a_layer(name: str) -> None:
    nodes, expected = LEFT[name]
    constants = {"w": floats(6, 6), "w2": floats(6, 6, seed=1), "batched": floats(2, 6, 6)}
    constants |= {"kernel": floats(3, 2, 1, 1)}
    used = {value for one in nodes for value in one.input}
    constants = {key: array for key, array in constants.items() if key in used}
    shapes = {"x": (6, 6), "image": (1, 2, 4, 4)}
    inputs = {key: shape for key, shape in shapes.items() if key in used}
    model = build(nodes, inputs, constants, "y")
    feed = {key: floats(*shape) for key, shape in inputs.items()}
    result, skipped = smoothed(model, [feed])
    assert reasons(skipped) == expected
    assert op_types(result) == op_types(model)
    for key, array in initializers(result).items():
        np.testing.assert_array_equal(array, constants[key])


def test_layers_without_values_or_without_a_range_are_left() -> None:
    model = build([node("MatMul", "x w", "y")], {"x": ["N", 6]}, {"w": floats(6, 3)}, "y")
    for batch, reason in (
        (np.empty((0, 6), np.float32), "activation 'x' has no values in the calibration data"),
        (np.zeros((4, 6), np.float32), "every channel of 'x' stays as it is"),
    ):
        result, skipped = smoothed(model, [{"x": batch}])
        assert reasons(skipped) == {"MatMul_y": reason}
        assert op_types(result) == ["MatMul"]


def digest(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


SMOOTH: dict[str, Any] = {"include_sq": True, "extra_options": {"SmoothAlpha": 0.5}}


@pytest.mark.parametrize("types", [("QInt8", "QInt8"), ("QUInt8", "QInt8"), ("QUInt8", "QUInt8")])
@pytest.mark.parametrize("per_channel", [False, True])
def test_outlier_channels_cost_int8_little_once_they_are_smoothed(
    types: tuple[str, str], per_channel: bool
) -> None:
    model, feeds = transformer_block(outliers=True), ragged()
    plain, smoother = errors(
        model, feeds, activation_type=types[0], weight_type=types[1], per_channel=per_channel
    )
    assert smoother < plain / 10, (plain, smoother)


def errors(model: onnx.ModelProto, feeds: list[Feed], **config: Any) -> tuple[float, float]:
    """L2 without and with SmoothQuant."""
    shared = pipeline(model, feeds)
    wanted = run(model, feeds[0])[0]
    results = (shared.quantize(QuantConfig(**config, **more)).model for more in ({}, SMOOTH))
    plain, smoother = (float(((run(result, feeds[0])[0] - wanted) ** 2).mean()) for result in results)
    return plain, smoother


def outlier_activation(front: list[onnx.NodeProto], last: str) -> onnx.ModelProto:
    """An operator that makes outliers and has nothing to fold into, and a layer that reads them."""
    factors = np.ones(WIDTH, np.float32)
    factors[list(OUTLIERS)] = list(OUTLIERS.values())
    constants = {"kernel": (np.diag(factors)[:, :, None]).astype(np.float32)}
    constants["w"] = floats(WIDTH, 8, seed=5) / factors[:, None]
    nodes = [node("Conv", "x kernel", "c"), *front, node("MatMul", f"{last} w", "y")]
    return build(nodes, {"x": ["N", WIDTH, "S"]}, constants, "y")


FRONTS = {
    "pass-through": ([node("Transpose", "c", "t", perm=[0, 2, 1])], "t"),
    "Relu": ([node("Transpose", "c", "t", perm=[0, 2, 1]), node("Relu", "t", "r")], "r"),
    "Sum": ([node("Transpose", "c", "t", perm=[0, 2, 1]), node("Add", "t t", "r")], "r"),
}


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("types", ["QInt8", "QUInt8"])
def test_an_inserted_mul_reads_the_activation_before_it_is_rounded(name: str, types: str) -> None:
    front, last = FRONTS[name]
    model = outlier_activation(front, last)
    feeds = [{"x": floats(4, WIDTH, 6, seed=seed)} for seed in range(3)]
    result = quantize(model, feeds, activation_type=types, **SMOOTH).model
    (mul,) = (one for one in result.graph.node if one.op_type == "Mul")
    assert mul.name == f"{last}_smooth" and mul.input[0] == last
    activations = quantized_activations(result)
    assert last not in activations and mul.output[0] in activations
    if name != "Sum":  # whose input is an Add's and rounded, outliers and all
        plain, smoother = errors(model, feeds, activation_type=types, per_channel=True)
        assert smoother < plain / 10, (plain, smoother)


TRANSPOSE = node("Transpose", "c", "t", perm=[0, 2, 1])
BEHIND: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "Relu and pooling": ([node("Relu", "c", "r"), node("MaxPool", "r", "p", kernel_shape=[1])], "y"),
    "rounded in front": (
        [node("Add", "c x", "z"), TRANSPOSE, node("Relu", "t", "r"), node("Transpose", "r", "p")],
        "y z",
    ),
    "rounded in front, pooling": (
        [node("Add", "c x", "z"), TRANSPOSE, node("Relu", "t", "r"), node("MaxPool", "r", "p")],
        "y z",
    ),
    "rounded passes through": ([node("Add", "c x", "z"), node("Transpose", "c", "p")], "y z"),
    "Relu with readers of both kinds": (
        [node("Relu", "c", "r"), node("Add", "r x", "z"), node("MaxPool", "r", "p", kernel_shape=[1])],
        "y z",
    ),
    "output of the graph": ([node("Relu", "c", "p")], "y p"),
}
BEHIND["rounded in front"][0][-1].attribute.append(onnx.helper.make_attribute("perm", [1, 0, 2]))
BEHIND["rounded passes through"][0][-1].attribute.append(onnx.helper.make_attribute("perm", [0, 2, 1]))
BEHIND["rounded in front, pooling"][0][-1].attribute.append(onnx.helper.make_attribute("kernel_shape", [1]))


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("types", ["QInt8", "QUInt8", "QInt16"])
@pytest.mark.parametrize("dedicated", [False, True])
def test_a_mul_behind_operators_that_follow_their_input(name: str, types: str, dedicated: bool) -> None:
    nodes, outputs = BEHIND[name]
    nodes = [node("Conv", "x kernel", "c"), *nodes, node("MatMul", "p w", "y")]
    model = build(nodes, {"x": (4, 4, 4)}, {"kernel": floats(4, 4, 1), "w": floats(4, 3)}, outputs)
    feeds = [{"x": floats(4, 4, 4, seed=seed)} for seed in range(2)]
    options = {"DedicatedQDQPair": dedicated}
    quantized = quantize(model, feeds, activation_type=types, include_sq=True, extra_options=options)
    result = quantized.model
    onnx.checker.check_model(result, full_check=True)
    assert "p_smooth" in [one.name for one in result.graph.node]
    for wanted, got in zip(run(model, feeds[0]), run(result, feeds[0]), strict=True):
        assert relative_error(wanted, got) < 0.05


def test_other_readers_get_the_rounded_activation() -> None:
    nodes = [
        node("Conv", "x kernel", "c"),
        node("Relu", "c", "r"),
        node("MatMul", "r w", "y"),
        node("Add", "r x", "z"),
    ]
    constants = {"kernel": floats(4, 4, 1), "w": floats(6, 3)}
    model = build(nodes, {"x": (2, 4, 6)}, constants, "y z")
    feeds = [{"x": floats(2, 4, 6, seed=seed)} for seed in range(2)]
    result = quantize(model, feeds, **SMOOTH).model
    inputs = {one.name: one.input[0] for one in result.graph.node}
    assert inputs["r_smooth"] == "r" and inputs["Add_z"] == "r_DequantizeLinear_Output"
    assert "Relu" in op_types(result)  # the float reader needs it
    for wanted, got in zip(run(model, feeds[0]), run(result, feeds[0]), strict=True):
        assert relative_error(wanted, got) < 0.05


def test_the_same_configuration_gives_the_same_bytes() -> None:
    model, feeds = transformer_block(outliers=True), ragged()
    config = QuantConfig(per_channel=True, include_cle=True, **SMOOTH)
    first, second = pipeline(model, feeds), pipeline(model, feeds)
    second.quantize(QuantConfig(include_sq=True, extra_options={"SmoothAlpha": 0.2}))
    results = {digest(p.quantize(config).model) for p in (first, first, second)}
    assert len(results) == 1


def test_alphas_share_the_pass_for_the_channel_maxima() -> None:
    model, feeds = transformer_block(), ragged()
    shared = pipeline(model, feeds)
    results = set()
    for _ in range(2):
        for alpha in (0.3, 0.5, 0.7):
            for per_channel in (False, True):
                options = {"SmoothAlpha": alpha}
                config = QuantConfig(per_channel=per_channel, include_sq=True, extra_options=options)
                results.add(digest(shared.quantize(config).model))
    assert len(results) == 6
    assert shared.cache.counts["channel maxima"].computed == 1
    assert shared.cache.counts["statistics"].computed == shared.cache.counts["transform"].computed == 3
    shared.quantize(QuantConfig())
    assert shared.cache.counts["statistics"].computed == 4


def test_the_smoothed_graph_depends_on_the_samples_that_are_used() -> None:
    model, feeds = transformer_block(), ragged()
    wide = [{"x": feed["x"] * np.linspace(1, 9, WIDTH, dtype=np.float32)} for feed in feeds]
    cache = StageCache()
    keys = set()
    for data, size in ((feeds, None), (wide, None), (feeds, 4)):
        shared = Pipeline(float_model(model), CalibrationData(data), cache, threads=1)
        config = QuantConfig(include_sq=True, extra_options={"CalibDataSize": size})
        keys.add(shared.transform(config).key)
    assert len(keys) == 3
    assert cache.counts["transform"].computed == cache.counts["channel maxima"].computed == 3


def test_equalization_comes_first() -> None:
    nodes = [node("Gemm", "x w1 b1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2", "y")]
    constants = {"w1": floats(6, 7), "b1": floats(7), "w2": floats(7, 3)}
    model, feeds = build(nodes, {"x": ["N", 6]}, constants, "y"), [{"x": floats(9, 6)}]
    shared = pipeline(model, feeds)
    plain = shared.transform(QuantConfig(include_cle=True))
    both = shared.transform(QuantConfig(include_cle=True, **SMOOTH))
    assert both.key[: len(plain.key)] == plain.key and both.inserted == ("x_smooth",)
    maxima = collect_channel_maxima(plain.model, smoothed_tensors(plain.model), feeds)
    wanted, _ = smooth(plain.model, maxima, SmoothOptions(0.5))
    assert serialized(both.model) == serialized(wanted)
    assert_same_function(model, ir.to_proto(both.model), feeds)


def test_channel_maxima_come_back_from_disk(tmp_path: Path) -> None:
    model, feeds = transformer_block(), ragged()
    digests, computed = set(), []
    for _ in range(2):
        cache = StageCache(tmp_path)
        shared = Pipeline(float_model(model), CalibrationData(feeds), cache, threads=1)
        digests.add(digest(shared.quantize(QuantConfig(**SMOOTH)).model))
        computed.append(cache.counts["channel maxima"].computed)
    assert len(digests) == 1 and computed == [1, 0]


def test_values_that_are_not_finite_are_refused() -> None:
    nodes = [node("Exp", "x", "e"), node("MatMul", "e w", "y")]
    model = build(nodes, {"x": (2, 4)}, {"w": floats(4, 3)}, "y")
    with pytest.raises(DataError, match="tensor 'e': NaN or infinite"):
        quantize(model, {"x": np.full((2, 4), 1000, np.float32)}, **SMOOTH)


def test_skipped_layers_are_reported() -> None:
    result = quantize(transformer_block(), ragged(), **SMOOTH)
    assert reasons(result.skipped)["MatMul_scores"] == "both operands are computed"
