"""EnableSubgraph: the bodies of If, Loop and Scan are quantized as the main graph is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from quant import CalibrationData, Pipeline, QuantConfig, QuantizedModel, load_float_model
from tests.parity.models import EXPORTED, random_feed
from tests.quant.bodies import (
    BOOL,
    INT64,
    body,
    branch,
    conditional,
    feeds,
    graphs,
    loop,
    nested,
    scan,
    sign_test,
    taken,
    unrolled,
    value,
)
from tests.quant.bodies import model as make
from tests.quant.graphs import Array, Feed, floats, node, quantize, relative_error

LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
BOTH_SIGNS = [*feeds(2, 4, 6, 6, 6, shift=1), *feeds(2, 4, 6, 6, 6, shift=-1)]


def quantized_within(model: onnx.ModelProto, data: list[Feed], **config: Any) -> QuantizedModel:
    extra = {"EnableSubgraph": True, **config.pop("extra_options", {})}
    quantized = quantize(model, data, extra_options=extra, **config)
    onnx.checker.check_model(quantized.model)
    return quantized


def numbers(model: onnx.ModelProto) -> dict[str, Array]:
    """Scales, zero points and integers of all scopes; their names are unique over all of them."""
    tensors = [tensor for graph in graphs(model.graph) for tensor in graph.initializer]
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def kinds(graph: onnx.GraphProto) -> list[str]:
    return [each.op_type for each in graph.node]


def outputs(model: onnx.ModelProto, feed: Feed, level: ort.GraphOptimizationLevel = LEVELS[0]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


CASES = {
    "conditional": (conditional(), BOTH_SIGNS),
    "loop": (loop(3), feeds(3, 4, 8)),
    "nested": (nested(), feeds(3, 4, 8)),
    "scan": (scan(), [{"x": floats(4, 5, 4, seed=s), "first": floats(4, 3, seed=s + 9)} for s in range(3)]),
}
TYPES = [("QInt8", "QInt8"), ("QUInt8", "QInt8"), ("QInt16", "QInt8"), ("QBFloat16", "QInt4")]


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options", [{}, {"DedicatedQDQPair": True, "AddQDQPairToWeight": True}], ids=["", "dedicated"]
)
def test_same_at_every_optimisation_level_and_near_float(
    case: str, types: tuple[str, str], options: dict[str, bool]
) -> None:
    model, data = CASES[case]
    activation, weight = types
    quantized = quantized_within(
        model, data, activation_type=activation, weight_type=weight, per_channel=True, extra_options=options
    )
    inner = [graph for graph in graphs(quantized.model.graph) if graph is not quantized.model.graph]
    rounding = "Cast" if activation == "QBFloat16" else "QuantizeLinear"
    assert any(rounding in kinds(graph) for graph in inner)
    if case != "nested":  # whose condition is a threshold, so that a step more or less decides
        bound = 0.5 if weight == "QInt4" else 0.1
        for feed in data:
            wanted, plain = outputs(model, feed), outputs(quantized.model, feed)
            for real, rounded in zip(wanted, plain, strict=True):
                assert relative_error(real, rounded) < bound
            for level in LEVELS[1:]:
                for rounded, fused in zip(plain, outputs(quantized.model, feed, level), strict=True):
                    assert relative_error(rounded, fused) < 0.05
    for level in LEVELS:
        assert all(np.isfinite(output).all() for output in outputs(quantized.model, data[0], level))


def test_bodies_are_left_as_they_are_without_it() -> None:
    for model, data in (CASES[case] for case in ("conditional", "nested", "scan")):
        bodies = [
            [sorted(graph.SerializeToString() for graph in graphs(each.graph) if graph is not each.graph)]
            for each in (quantize(model, data, optimize_model=optimize).model for optimize in (True, False))
        ]
        assert bodies[0] == bodies[1]
        quantized = quantize(model, data).model
        inner = [graph for graph in graphs(quantized.graph) if graph is not quantized.graph]
        wanted = [graph for graph in graphs(model.graph) if graph is not model.graph]
        assert [kinds(graph) for graph in inner] == [kinds(graph) for graph in wanted]


@pytest.mark.parametrize("attribute", ["then_branch", "else_branch"])
def test_each_branch_has_the_numbers_of_the_model_without_the_condition(attribute: str) -> None:
    """With data that takes one branch only; the other one stays float, but for what has a range."""
    data = BOTH_SIGNS[:2] if attribute == "then_branch" else BOTH_SIGNS[2:]
    within = quantized_within(conditional(), data)
    plain = numbers(quantize(taken(conditional(), attribute), data).model)
    plain = {name: array for name, array in plain.items() if name.endswith(("_scale", "_quantized"))}
    renamed = {"same": "same_in_decide_then_branch"} if attribute == "then_branch" else {}
    found = numbers(within.model)
    for name, array in plain.items():
        tensor = name.split("_scale")[0]
        # sessions of graphs that are fused differently differ in the last bit
        ours = found[name.replace(tensor, renamed.get(tensor, tensor))]
        np.testing.assert_allclose(ours, array, rtol=1e-6)
    assert any("no sample of the calibration data computes it" in skip.reason for skip in within.skipped)


def test_both_branches_are_calibrated_with_what_takes_them() -> None:
    found = numbers(quantized_within(conditional(), BOTH_SIGNS).model)
    assert {"same_in_decide_then_branch_scale", "same_relu_scale", "bent_scale"} & found.keys()
    other = numbers(quantize(taken(conditional(), "else_branch"), BOTH_SIGNS[2:]).model)
    np.testing.assert_array_equal(found["same_scale"], other["same_scale"])
    np.testing.assert_array_equal(found["bent_scale"], other["bent_scale"])


def test_the_other_branch_still_works_when_calibration_never_took_it() -> None:
    model = conditional()
    quantized = quantized_within(model, BOTH_SIGNS[:2]).model
    feed = BOTH_SIGNS[2]
    for level in LEVELS:
        assert relative_error(outputs(model, feed)[0], outputs(quantized, feed, level)[0]) < 0.3


def test_a_weight_lies_beside_what_reads_it() -> None:
    model = quantized_within(conditional(), BOTH_SIGNS).model
    found = numbers(model)
    assert {tensor.name for tensor in model.graph.initializer} & {"own", "own_quantized", "shared"} == set()
    assert "own_quantized" in found and "shared_quantized" in found
    copy = found["shared_in_decide_then_branch_quantized"]
    np.testing.assert_array_equal(copy, found["shared_quantized"])


@pytest.mark.parametrize("types", TYPES[:2], ids="-".join)
def test_a_loop_has_the_numbers_of_its_unrolled_form(types: tuple[str, str]) -> None:
    """Ranges are the hulls of those of the single steps; weights are the same."""
    data, (activation, weight) = feeds(3, 4, 8), types
    config = {"activation_type": activation, "weight_type": weight}
    found = numbers(quantized_within(loop(3), data, **config).model)
    flat = quantize(unrolled(3), data, **config)
    steps = numbers(flat.model)
    for name in ("w", "w2"):
        np.testing.assert_array_equal(found[f"{name}_quantized"], steps[f"{name}_quantized"])
    low, high = np.iinfo(found["s_zero_point"].dtype).min, np.iinfo(found["s_zero_point"].dtype).max
    for name, parts in {"r": "r", "s": "s", "next": "h"}.items():
        each = [f"{parts}{i}" for i in range(3)] if parts != "h" else ["h1", "h2", "y"]
        ranges = [
            ((float(low) - steps[f"{p}_zero_point"]) * steps[f"{p}_scale"],
             (float(high) - steps[f"{p}_zero_point"]) * steps[f"{p}_scale"])
            for p in each
        ]  # fmt: skip
        width = max(top for _, top in ranges) - min(bottom for bottom, _ in ranges)
        np.testing.assert_allclose(found[f"{name}_scale"], width / (high - low), rtol=0.02)


def test_a_loop_of_one_trip_has_exactly_the_numbers_of_its_body() -> None:
    data = feeds(3, 4, 8)
    found, steps = (
        numbers(quantized_within(loop(1), data).model),
        numbers(quantize(unrolled(1), data).model),
    )
    for inner, outer in {"r": "r0", "s": "s0", "next": "y", "h": "x"}.items():
        np.testing.assert_array_equal(found[f"{inner}_scale"], steps[f"{outer}_scale"])
        np.testing.assert_array_equal(found[f"{inner}_zero_point"], steps[f"{outer}_zero_point"])
    for name in ("w_quantized", "w2_quantized", "b_quantized", "b2_quantized"):
        np.testing.assert_array_equal(found[name], steps[name])


def test_a_loop_that_never_runs_in_calibration_still_works() -> None:
    data = [feed | {"trips": np.array(0)} for feed in feeds(2, 4, 8)]
    model = loop(None)
    quantized = quantized_within(model, [data[0]], op_types_to_quantize=["Gemm"])
    assert quantized.bits and all(bits in (8, 32) for bits in quantized.bits.values())
    feed = data[0] | {"trips": np.array(3)}
    for level in LEVELS:
        assert relative_error(outputs(model, feed)[0], outputs(quantized.model, feed, level)[0]) < 0.1


@pytest.mark.parametrize("activation", ["QInt8", "QUInt8"])
def test_operators_in_bodies_become_integer_kernels(activation: str, tmp_path: Path) -> None:
    quantized = quantized_within(conditional(), BOTH_SIGNS, activation_type=activation)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    ort.InferenceSession(quantized.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    decide = next(each for each in onnx.load(tmp_path / "optimised.onnx").graph.node if each.op_type == "If")
    types = [kinds(attribute.g) for attribute in decide.attribute]
    assert all("QLinearConv" in kind and "Conv" not in kind for kind in types)


def test_selection_and_overrides_reach_into_bodies() -> None:
    data = feeds(3, 4, 8)
    assert "s" not in quantized_within(loop(3), data, nodes_to_exclude=["Add_s", "Gemm_next"]).bits
    bits = quantized_within(
        loop(3), data, extra_options={"TensorQuantOverrides": {"r": {"quant_type": "QInt16"}}}
    ).bits
    assert bits["r"] == 16 and bits["s"] == 8
    recur = quantized_within(nested(), data, output_nodes=["recur"]).bits
    assert "up" in recur and "y" not in recur
    assert "up" not in quantized_within(nested(), data, input_nodes=["MatMul_y"], output_nodes=[]).bits


@pytest.mark.parametrize("calibrate", ["Entropy", "MinMSE", "LayerWisePercentile"])
@pytest.mark.parametrize(
    "transforms", [{}, {"include_cle": True, "include_sq": True}], ids=["", "transforms"]
)
def test_methods_and_transforms(calibrate: str, transforms: dict[str, bool]) -> None:
    for model, data in (CASES["conditional"], CASES["loop"]):
        quantized = quantized_within(model, data, calibrate_method=calibrate, **transforms)
        assert relative_error(outputs(model, data[0])[0], outputs(quantized.model, data[0])[0]) < 0.3


def test_an_exported_model() -> None:
    path = EXPORTED / "branches_script16.onnx"
    source = load_float_model(path)
    data = [random_feed(source.inputs, seed, batch=4 + seed) for seed in range(3)]
    pipeline = Pipeline(source, CalibrationData(data), threads=1)
    quantized = pipeline.quantize(QuantConfig(extra_options={"EnableSubgraph": True}))
    assert quantized.bits["body.weight"] == 8 and quantized.bits["/Add_output_0"] == 8
    assert "body.weight" not in pipeline.quantize(QuantConfig()).bits  # one pipeline serves both
    model = onnx.load(path)
    for feed in data:
        for level in LEVELS:
            assert relative_error(outputs(model, feed)[0], outputs(quantized.model, feed, level)[0]) < 0.05


def _same_names() -> onnx.ModelProto:
    """Both branches call a weight `k` and a tensor `m`; one has a loop inside, which calls its own so too."""
    cell = body(
        [node("MatMul", "h k", "m"), node("Sigmoid", "m", "next"), node("Identity", "go", "go_on")],
        [value("go_on", BOOL, []), value("next", shape=["n", 8])],
        [value("index", INT64, []), value("go", BOOL, []), value("h", shape=["n", 8])],
        {"k": floats(8, 8, seed=11)},
    )
    loop_node = helper.make_node("Loop", ["trips", "yes", "r"], ["l"], "inner", body=cell)
    constants = {"trips": np.array(3), "yes": np.array(True)}
    then = branch(node("MatMul", "r k", "m"), node("Sigmoid", "m", "s"), k=floats(8, 8, seed=12))
    other = branch(
        loop_node, node("MatMul", "l k2", "m2"), node("Sigmoid", "m2", "s2"), k2=floats(8, 8, seed=13)
    )
    choice = helper.make_node("If", ["positive"], ["i"], "decide", then_branch=then, else_branch=other)
    return make(
        [node("Relu", "x", "r"), *sign_test("x"), choice, node("MatMul", "i w", "y")],
        [value("x", shape=["n", 8])],
        {"zero": np.zeros((), np.float32), "w": floats(8, 4, seed=14), **constants},
        [value("y", shape=["n", 4])],
    )


def test_names_that_scopes_share_are_told_apart() -> None:
    data = [*feeds(2, 4, 8, shift=1), *feeds(2, 4, 8, shift=-1)]
    quantized = quantized_within(_same_names(), data, activation_type="QInt16", weight_type="QInt16")
    found = numbers(quantized.model)
    weights = [name for name in found if name.startswith("k") and name.endswith("_quantized")]
    assert len(weights) == 3 and len([name for name in quantized.bits if name.startswith("m")]) == 3
    for feed in data:
        for level in LEVELS:
            wanted, got = outputs(_same_names(), feed)[0], outputs(quantized.model, feed, level)[0]
            assert relative_error(wanted, got) < 1e-3
