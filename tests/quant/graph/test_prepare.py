from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quant import ModelError, load_float_model
from quant.graph.prepare import OPSET, prepare
from tests.parity.models import EXAMPLE
from tests.quant.graphs import (
    build,
    floats,
    initializers,
    node,
    op_types,
    quantize,
    relative_error,
    run,
    serialized,
)

X = floats(2, 3, 8, 8, seed=7)


def small_cnn(opset: int) -> onnx.ModelProto:
    """In words that every opset from 7 understands."""
    normalization = {
        "gamma": floats(4) + 2,
        "beta": floats(4),
        "mean": floats(4),
        "var": np.abs(floats(4)) + 1,
    }
    nodes = [
        node("Conv", "x w b", "c", kernel_shape=[3, 3]),
        node("BatchNormalization", "c gamma beta mean var", "n"),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "m shape", "f"),
        node("Gemm", "f v d", "g", transB=1),
        node("Softmax", "g", "y", axis=1),
    ]
    constants = {
        "w": floats(4, 3, 3, 3),
        "b": floats(4),
        "shape": np.array([0, -1]),
        "v": floats(5, 36),
        "d": floats(5),
    }
    return build(nodes, {"x": (2, 3, 8, 8)}, constants | normalization, "y", opset=opset, ir_version=8)


@pytest.mark.parametrize("opset", range(7, 24))
@pytest.mark.parametrize("optimize", [True, False])
def test_models_of_every_opset_keep_their_outputs(opset: int, optimize: bool) -> None:
    model = small_cnn(opset)
    source = ir.from_proto(model)
    before = serialized(source)
    prepared, skipped = prepare(source, optimize)
    result = ir.to_proto(prepared)
    assert result.opset_import[0].version == max(opset, OPSET)
    assert ("BatchNormalization" in op_types(result)) is not optimize
    assert not skipped and serialized(source) == before
    onnx.checker.check_model(result, full_check=True)
    np.testing.assert_allclose(run(result, {"x": X})[0], run(model, {"x": X})[0], rtol=1e-5, atol=1e-6)


def test_the_example_keeps_its_outputs() -> None:
    source = load_float_model(EXAMPLE / "digits_cnn.onnx")
    prepared, skipped = prepare(source.model, optimize=True)
    assert not skipped and "BatchNormalization" not in op_types(ir.to_proto(prepared))
    spec = source.inputs[0]
    x = floats(*(size or 4 for size in spec.shape or ()))
    feed = {spec.name: x}
    np.testing.assert_allclose(
        run(prepared, feed)[0], run(onnx.load(source.path), feed)[0], rtol=1e-4, atol=1e-4
    )


def test_conversion_that_onnx_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raise RuntimeError(f"no adapter to {opset}")

    monkeypatch.setattr("onnx.version_converter.convert_version", lacking)
    with pytest.raises(ModelError, match="onnx cannot convert it from opset 9 to 21: no adapter to 21"):
        prepare(ir.from_proto(small_cnn(9)), True)


def test_constant_nodes_become_initializers() -> None:
    value = numpy_helper.from_array(floats(3, 4), "value")
    nodes = [
        node("Constant", "", "w", value=value),
        node("Constant", "", "k", value_float=2.0),
        node("Identity", "x", "i"),
        node("MatMul", "i w", "h"),
        node("Mul", "h k", "y"),
    ]
    model = build(nodes, {"x": (2, 3)}, {}, "y")
    prepared, _ = prepare(ir.from_proto(model), True)
    result = ir.to_proto(prepared)
    assert op_types(result) == ["MatMul", "Mul"]
    assert set(initializers(result)) == {"w", "k"}
    x = floats(2, 3)
    np.testing.assert_array_equal(run(result, {"x": x})[0], run(model, {"x": x})[0])
    assert op_types(quantize(model, {"x": x}).model).count("DequantizeLinear") == 5


def test_initializers_that_are_inputs_become_constants() -> None:
    model = build(
        [node("MatMul", "x w", "y")], {"x": (2, 3)}, {"w": floats(3, 4)}, "y", opset=8, ir_version=8
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (3, 4)))
    model.ir_version = 3
    prepared, _ = prepare(ir.from_proto(model), True)
    assert [value.name for value in prepared.graph.inputs] == ["x"]
    assert "w_quantized" in initializers(quantize(model, {"x": floats(2, 3)}).model)


@pytest.mark.parametrize("names", [("", "", ""), ("a", "a", "a"), ("Relu_1", "", "Relu_1")])
def test_nodes_get_names_of_their_own(names: tuple[str, str, str]) -> None:
    nodes = [
        node("Relu", "x", "a", name=names[0]),
        node("Relu", "a", "b", name=names[1]),
        node("Sigmoid", "b", "y", name=names[2]),
    ]
    model = build(nodes, {"x": (2, 3)}, {}, "y")
    found = [
        [one.name for one in prepare(ir.from_proto(model), optimize)[0].graph] for optimize in (True, False)
    ]
    assert len(set(found[0])) == 3 and all(found[0])
    assert found[0] == found[1]
    assert found[0][0] == (names[0] or "Relu_0")


@pytest.mark.parametrize("opset", [21, 25])
def test_nodes_have_the_names_of_their_positions_in_the_model_as_it_was(opset: int) -> None:
    """Onnx replaces a Softmax of opset 12 by four nodes, one of which is at the place of another's name."""
    nodes = [
        node("Relu", "x", "a", name=""),
        node("Softmax", "a", "b", name="", axis=1),
        node("Relu", "b", "c", name="Flatten_2"),
        node("Sigmoid", "c", "y", name=""),
    ]
    model = build(nodes, {"x": (2, 3, 4)}, {}, "y", opset=12)
    prepared, _ = prepare(ir.from_proto(model), optimize=False, opset=opset)
    names = {one.outputs[0].name: one.name for one in prepared.graph}
    assert len(prepared.graph) > len(nodes)
    assert len(set(names.values())) == len(prepared.graph)
    assert {output: names[output] for output in "acy"} == {"a": "Relu_0", "c": "Flatten_2", "y": "Sigmoid_3"}


def test_names_that_quantization_gives_are_freed() -> None:
    nodes = [
        node("MatMul", "x x_scale", "x_zero_point"),
        node("Relu", "x_zero_point", "x_quantized"),
        node("MatMul", "x_quantized w_quantized", "y"),
        node("Add", "y w", "z"),
    ]
    constants = {"x_scale": floats(4, 5), "w_quantized": floats(5, 3), "w": floats(3)}
    model = build(nodes, {"x": (8, 4)}, constants, "z")
    feed = {"x": floats(8, 4, seed=2)}
    wanted = run(model, feed)[0]
    result = quantize(model, feed).model
    onnx.checker.check_model(result, full_check=True)
    assert relative_error(wanted, run(result, feed)[0]) < 0.03
    np.testing.assert_array_equal(run(model, feed)[0], wanted)  # the source's tensors kept their names


def _branch(name: str, outer: str, factor: str) -> onnx.GraphProto:
    output = f"{name}_out"
    return helper.make_graph(
        [helper.make_node("Mul", [outer, factor], [output])],
        name,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


def with_if(opset: int = 21) -> onnx.ModelProto:
    """If(condition): h * w, else h * k, where h and w are also used outside."""
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node(
            "If",
            ["condition"],
            ["y"],
            name="if",
            then_branch=_branch("then", "h", "w"),
            else_branch=_branch("else", "h", "k"),
        ),
        node("Relu", "h", "r"),
        node("Add", "y r", "z"),
    ]
    constants = {"w": floats(4, 4), "k": np.float32(3), "condition": np.array(True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(nodes, {"x": (4, 4)}, constants, "z", opset=opset, ir_version=8)


def with_loop(opset: int = 21) -> onnx.ModelProto:
    """Three times h = h w."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [4, 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4, 4]),
        ],
    )
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("Loop", ["n", "true", "h"], ["l"], name="loop", body=body),
        node("Add", "l x", "y"),
    ]
    constants = {"w": floats(4, 4, scale=0.4), "n": np.array(3), "true": np.array(True)}
    return build(nodes, {"x": (4, 4)}, constants, "y", output_shape=(4, 4), opset=opset, ir_version=8)


@pytest.mark.parametrize("make", [with_if, with_loop])
@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("options", [{}, {"DedicatedQDQPair": True}, {"AddQDQPairToWeight": True}])
def test_subgraphs_survive(make: Any, opset: int, options: dict[str, bool]) -> None:
    model = make(opset)
    feed = {"x": floats(4, 4, seed=3)}
    wanted = run(model, feed)[0]
    for optimize in (True, False):
        prepared, _ = prepare(ir.from_proto(model), optimize)
        np.testing.assert_allclose(run(prepared, feed)[0], wanted, rtol=1e-5)
    result = quantize(model, feed, extra_options=options).model
    onnx.checker.check_model(result, full_check=True)
    for optimized in (True, False):
        assert relative_error(wanted, run(result, feed, optimized=optimized)[0]) < 0.03
