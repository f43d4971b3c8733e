from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import ExtraOptions
from quant.transforms.equalization import EqualizationOptions, equalize
from tests.quant.graphs import Array, build, floats, initializers, node, run, serialized

IMAGE = (2, 4, 8, 8)
ONCE = EqualizationOptions.of(ExtraOptions(CLESteps=1))


def uneven(*shape: int, axis: int = 0, seed: int = 0) -> Array:
    """Weights whose channels differ by orders of magnitude."""
    spread = [1] * len(shape)
    spread[axis] = -1
    factors = np.exp(floats(shape[axis], seed=seed + 100, scale=2.0)).reshape(spread)
    return (floats(*shape, seed=seed) * factors).astype(np.float32)


def largest(weight: Array, axis: int) -> Array:
    return np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(axis=1)


PAIRS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], tuple[int, ...], list[tuple[str, int]]]] = {
    "Conv Conv": (
        [node("Conv", "x w1 b1", "c"), node("Relu", "c", "r"), node("Conv", "r w2 b2", "y")],
        {"w1": uneven(5, 4, 3, 3), "b1": floats(5), "w2": uneven(3, 5, 3, 3, axis=1), "b2": floats(3)},
        IMAGE,
        [("w1", 0), ("w2", 1)],
    ),
    "directly": (
        [node("Conv", "x w1", "c"), node("Conv", "c w2", "y")],
        {"w1": uneven(5, 4, 3, 3), "w2": uneven(3, 5, 3, 3, axis=1)},
        IMAGE,
        [("w1", 0), ("w2", 1)],
    ),
    "LeakyRelu": (
        [node("Conv", "x w1 b1", "c"), node("LeakyRelu", "c", "r", alpha=0.2), node("Conv", "r w2", "y")],
        {"w1": uneven(5, 4, 3, 3), "b1": floats(5), "w2": uneven(3, 5, 1, 1, axis=1)},
        IMAGE,
        [("w1", 0), ("w2", 1)],
    ),
    "PRelu": (
        [node("Conv", "x w1 b1", "c"), node("PRelu", "c slope", "r"), node("Conv", "r w2", "y")],
        {
            "w1": uneven(5, 4, 3, 3),
            "b1": floats(5),
            "slope": floats(5, 1, 1),
            "w2": uneven(3, 5, 1, 1, axis=1),
        },
        IMAGE,
        [("w1", 0), ("w2", 1)],
    ),
    "triple": (
        [
            node("Conv", "x w1 b1", "c"),
            node("Relu", "c", "r"),
            node("Conv", "r w2 b2", "d", group=5),
            node("Relu", "d", "s"),
            node("Conv", "s w3 b3", "y"),
        ],
        {
            "w1": uneven(5, 4, 3, 3),
            "b1": floats(5),
            "w2": uneven(5, 1, 3, 3, seed=1),
            "b2": floats(5),
            "w3": uneven(3, 5, 1, 1, axis=1, seed=2),
            "b3": floats(3),
        },
        IMAGE,
        [("w1", 0), ("w2", 0), ("w3", 1)],
    ),
    "depthwise last": (
        [node("Conv", "x w1 b1", "c"), node("Relu", "c", "r"), node("Conv", "r w2 b2", "y", group=5)],
        {"w1": uneven(5, 4, 3, 3), "b1": floats(5), "w2": uneven(5, 1, 3, 3, seed=1), "b2": floats(5)},
        IMAGE,
        [("w1", 0), ("w2", 0)],
    ),
    "depthwise first": (
        [node("Conv", "x w1 b1", "c", group=4), node("Relu", "c", "r"), node("Conv", "r w2", "y")],
        {"w1": uneven(4, 1, 3, 3), "b1": floats(4), "w2": uneven(3, 4, 1, 1, axis=1)},
        IMAGE,
        [("w1", 0), ("w2", 1)],
    ),
    "Gemm Gemm": (
        [node("Gemm", "x w1 b1", "c"), node("Relu", "c", "r"), node("Gemm", "r w2 b2", "y")],
        {"w1": uneven(6, 7, axis=1), "b1": floats(7), "w2": uneven(7, 3), "b2": floats(3)},
        (5, 6),
        [("w1", 1), ("w2", 0)],
    ),
    "transposed Gemms": (
        [
            node("Gemm", "x w1 b1", "c", transB=1, beta=0.5),
            node("Relu", "c", "r"),
            node("Gemm", "r w2", "y", transB=1, alpha=2.0),
        ],
        {"w1": uneven(7, 6), "b1": floats(1, 7), "w2": uneven(3, 7, axis=1)},
        (5, 6),
        [("w1", 0), ("w2", 1)],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("steps", [1, 2, -1])
def test_outputs_are_kept_and_ranges_become_equal(name: str, steps: int) -> None:
    nodes, constants, shape, axes = PAIRS[name]
    model = build(nodes, {"x": shape}, constants, "y")
    source = ir.from_proto(model)
    before = serialized(source)
    equalized, _ = equalize(source, EqualizationOptions.of(ExtraOptions(CLESteps=steps)))
    x = floats(*shape, seed=9)
    wanted = run(model, {"x": x})[0]
    np.testing.assert_allclose(
        run(equalized, {"x": x})[0], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max()
    )
    weights = initializers(ir.to_proto(equalized))
    ranges = np.stack([largest(constants[weight], axis) for weight, axis in axes])
    common = np.prod(ranges.astype(np.float64), axis=0) ** (1 / len(axes))  # the geometric mean
    for weight, axis in axes:
        np.testing.assert_allclose(largest(weights[weight], axis), common, rtol=1e-5)
    assert serialized(source) == before  # left as it was


def test_each_boundary_of_a_chain_is_equalized_and_rounds_converge() -> None:
    nodes, constants, last = [], {}, "x"
    for index in range(4):
        nodes += [node("Conv", f"{last} w{index}", f"c{index}"), node("Relu", f"c{index}", f"r{index}")]
        constants[f"w{index}"] = uneven(4, 4, 1, 1, seed=index)
        last = f"r{index}"
    model = build(nodes, {"x": IMAGE}, constants, last)
    equalized, _ = equalize(ir.from_proto(model), EqualizationOptions.of(ExtraOptions(CLESteps=-1)))
    x = floats(*IMAGE)
    wanted = run(model, {"x": x})[0]
    np.testing.assert_allclose(
        run(equalized, {"x": x})[0], wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max()
    )
    weights = initializers(ir.to_proto(equalized))
    for index in range(3):
        np.testing.assert_allclose(
            largest(weights[f"w{index}"], 0), largest(weights[f"w{index + 1}"], 1), rtol=1e-3
        )


def test_zero_steps_change_nothing() -> None:
    nodes, constants, shape, _ = PAIRS["Conv Conv"]
    model = build(nodes, {"x": shape}, constants, "y")
    equalized, _ = equalize(ir.from_proto(model), EqualizationOptions.of(ExtraOptions(CLESteps=0)))
    for name, array in initializers(ir.to_proto(equalized)).items():
        np.testing.assert_array_equal(array, constants[name])


def test_dead_channels_stay() -> None:
    nodes, constants, shape, _ = PAIRS["Conv Conv"]
    constants = constants | {"w1": constants["w1"].copy()}
    constants["w1"][2] = 0
    model = build(nodes, {"x": shape}, constants, "y")
    equalized, _ = equalize(ir.from_proto(model), ONCE)
    weights = initializers(ir.to_proto(equalized))
    np.testing.assert_array_equal(weights["w2"][:, 2], constants["w2"][:, 2])
    assert np.isfinite(weights["w1"]).all()


def test_channels_below_the_threshold_on_both_sides_stay() -> None:
    nodes, constants, shape, _ = PAIRS["directly"]
    options = ExtraOptions(CLESteps=1, CLEScaleUseThreshold=True, CLEWeightThreshold=2.0)
    model = build(nodes, {"x": shape}, constants, "y")
    equalized, _ = equalize(ir.from_proto(model), EqualizationOptions.of(options))
    weights = initializers(ir.to_proto(equalized))
    ranges = np.maximum(largest(constants["w1"], 0), largest(constants["w2"], 1))
    stayed = (weights["w1"] == constants["w1"]).all(axis=(1, 2, 3))
    assert 0 < (ranges < 2).sum() < ranges.size
    np.testing.assert_array_equal(stayed, ranges < 2)


def test_the_bias_counts_when_it_is_asked_for() -> None:
    nodes, constants, shape, _ = PAIRS["Conv Conv"]
    model = build(nodes, {"x": shape}, constants | {"b1": np.full(5, 1e4, np.float32)}, "y")
    equalized, _ = equalize(
        ir.from_proto(model), EqualizationOptions.of(ExtraOptions(CLESteps=1, CLEScaleAppendBias=True))
    )
    weights = initializers(ir.to_proto(equalized))
    np.testing.assert_allclose(np.abs(weights["b1"]), largest(weights["w2"], 1), rtol=1e-5)


A, B = node("Conv", "x w1", "c", name="a"), node("Conv", "c w2", "y", name="b")
LEFT: dict[str, tuple[list[onnx.NodeProto], str, str]] = {
    "graph output": ([A, B], "y c", "output 'c' has other readers"),
    "two readers": ([A, B, node("Relu", "c", "r")], "y r", "output 'c' has other readers"),
    "nothing after": ([A], "c", "output 'c' has other readers"),
    "activation read twice": (
        [A, node("Relu", "c", "r"), node("Conv", "r w2", "y"), node("Sigmoid", "r", "s")],
        "y s",
        "output 'r' has other readers",
    ),
    "other operator": ([A, node("Sigmoid", "c", "s"), node("Conv", "s w2", "y")], "y", "followed by Sigmoid"),
    "Clip": ([A, node("Clip", "c", "s"), node("Conv", "s w2", "y")], "y", "followed by Clip"),
    "two activations": (
        [A, node("Relu", "c", "r"), node("LeakyRelu", "r", "l"), node("Conv", "l w2", "y")],
        "y",
        "followed by two activations",
    ),
    "shared weight": (
        [node("Conv", "x w1", "c", name="a"), node("Conv", "c w1", "y")],
        "y",
        "weight 'w1' is shared",
    ),
    "grouped": ([A, node("Conv", "c w3", "y", name="b", group=2)], "y", "'b' is grouped"),
    "as a weight": ([A, node("Conv", "x c", "y", name="b")], "y", "followed by Conv"),
    "computed weights": (
        [A, node("Relu", "w2", "w"), node("Conv", "c w", "y")],
        "y",
        "weights are not constants",
    ),
    "Gemm after Conv": (
        [A, node("Gemm", "c w4", "y")],
        "y",
        "Conv followed by Gemm",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_reasons_for_leaving_a_layer(name: str) -> None:
    nodes, outputs, reason = LEFT[name]
    constants = {
        "w1": uneven(4, 4, 1, 1),
        "w2": uneven(4, 4, 1, 1, seed=1),
        "w3": uneven(4, 2, 1, 1),
        "w4": floats(4, 4),
    }
    read = {source for one in nodes for source in one.input}
    constants = {name: array for name, array in constants.items() if name in read}
    if name == "Gemm after Conv":  # only the kinds are looked at, the graph would not run
        model = ir.from_proto(
            onnx.helper.make_model(
                onnx.helper.make_graph(
                    nodes,
                    "g",
                    [onnx.helper.make_tensor_value_info("x", 1, IMAGE)],
                    [onnx.helper.make_tensor_value_info("y", 1, None)],
                    [onnx.numpy_helper.from_array(array, key) for key, array in constants.items()],
                )
            )
        )
    else:
        model = ir.from_proto(build(nodes, {"x": (2, 4, 4, 4)}, constants, outputs))
    equalized, skipped = equalize(model, ONCE)
    assert reason in [skip.reason for skip in skipped]
    for key, array in initializers(ir.to_proto(equalized)).items():
        np.testing.assert_array_equal(array, constants[key])


@pytest.mark.parametrize("bias", [floats(1), floats(5, 1), np.float32(3)])
def test_gemm_biases_that_are_no_row_are_left(bias: Array) -> None:
    nodes = [node("Gemm", "x w1 b", "c"), node("Gemm", "c w2", "y")]
    constants = {"w1": uneven(6, 7, axis=1), "b": np.asarray(bias), "w2": uneven(7, 3)}
    model = build(nodes, {"x": (5, 6)}, constants, "y")
    _, skipped = equalize(ir.from_proto(model), ONCE)
    assert skipped[0].reason == "transposed input, or a bias that is not a row"
