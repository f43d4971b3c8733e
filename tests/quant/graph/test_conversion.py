"""Models of old opsets: what onnx's converter makes of them computes the same, or is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from quant import ModelError
from quant.graph.conversion import check_conversion
from quant.graph.prepare import OPSET, prepare
from tests.quant.graphs import Array, build, floats, node, quantize, relative_error, run

SHAPE = (2, 3, 8, 8)
FEED = {"x": floats(*SHAPE, seed=7)}


def scales(height: float, width: float) -> dict[str, Array]:
    return {"s": np.array([1, 1, height, width], np.float32)}


AFFINE = {"g": floats(3) + 2, "b": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 1}
DENSE = {"w": floats(192, 5), "b": floats(5)}
CORNERS = {"coordinate_transformation_mode": "align_corners"}
CAST = node("Cast", "c", "y", to=TensorProto.FLOAT)

CASES: dict[str, tuple[tuple[int, ...], list[onnx.NodeProto], dict[str, Array]]] = {
    "Upsample": ((7, 8), [node("Upsample", "x", "y", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])], {}),
    "Upsample, linear": (
        (7, 8),
        [node("Upsample", "x", "y", mode="linear", scales=[1.0, 1.0, 2.0, 2.0])],
        {},
    ),
    "Upsample by an input": ((9,), [node("Upsample", "x s", "y", mode="nearest")], scales(2, 2)),
    "Upsample by an input, linear": ((9,), [node("Upsample", "x s", "y", mode="linear")], scales(2, 3)),
    "Resize": ((10,), [node("Resize", "x s", "y", mode="nearest")], scales(2, 2)),
    "Resize, linear": ((10,), [node("Resize", "x s", "y", mode="linear")], scales(2.5, 0.5)),
    "Resize, smaller": ((10,), [node("Resize", "x s", "y", mode="nearest")], scales(0.6, 0.4)),
    "Resize with corners": (
        (11, 12),
        [node("Resize", "x r s", "y", mode="linear", **CORNERS)],
        {"r": np.array([], np.float32)} | scales(2.5, 2),
    ),
    "Slice": ((7, 9), [node("Slice", "x", "y", starts=[1, 0], ends=[3, -2], axes=[2, 3])], {}),
    "Slice without axes": ((7, 9), [node("Slice", "x", "y", starts=[0, 1], ends=[1, 2**31])], {}),
    "Clip": ((7, 10), [node("Clip", "x", "y", min=-0.5, max=0.3)], {}),
    "Clip from below": ((7, 10), [node("Clip", "x", "y", min=0.0)], {}),
    "Pad": ((7, 10), [node("Pad", "x", "y", pads=[0, 0, 1, 1, 0, 0, 2, 2], value=1.5)], {}),
    "Pad, reflect": ((7, 10), [node("Pad", "x", "y", pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect")], {}),
    "Dropout": ((7, 10, 11), [node("Dropout", "x", "y", ratio=0.5)], {}),
    "Softmax of flattened axes": ((7, 11, 12), [node("Softmax", "x", "y", axis=1)], {}),
    "Softmax by default": ((7, 12), [node("Softmax", "x", "y")], {}),
    "LogSoftmax": ((7, 12), [node("LogSoftmax", "x", "y", axis=2)], {}),
    "Squeeze and Unsqueeze": (
        (7, 11, 12),
        [
            node("ReduceMean", "x", "h", axes=[2]),
            node("Squeeze", "h", "q", axes=[2]),
            node("Unsqueeze", "q", "y", axes=[0, 4]),
        ],
        {},
    ),
    "ReduceSum": ((7, 11, 12), [node("ReduceSum", "x", "y", axes=[1, 3], keepdims=0)], {}),
    "ReduceSum of all": ((7, 12), [node("ReduceSum", "x", "y", keepdims=0)], {}),
    "BatchNormalization": ((7, 8), [node("BatchNormalization", "x g b m v", "y", spatial=1)], AFFINE),
    "Gemm": ((7, 8, 9, 10), [node("Flatten", "x", "f"), node("Gemm", "f w b", "y")], DENSE),
    "Split": (
        (7, 11, 12),
        [node("Split", "x", "c d", axis=2, split=[3, 5]), node("Concat", "d c", "y", axis=2)],
        {},
    ),
    "TopK": ((7, 9), [node("TopK", "x", "y i", k=3, axis=3)], {}),
    "MaxPool": (
        (7, 8, 10, 11),
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "AveragePool": ((7, 10, 11), [node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "ArgMax": ((7, 11, 12), [node("ArgMax", "x", "c", axis=1), CAST], {}),
    "Greater": ((7, 11), [node("Greater", "x z", "c"), CAST], {"z": np.float32(0)}),
    "ConvTranspose": (
        (7, 10, 11),
        [node("ConvTranspose", "x w", "y", strides=[2, 2], output_padding=[1, 1])],
        {"w": floats(3, 4, 3, 3)},
    ),
}
RUNS = [(name, opset) for name, (opsets, _, _) in CASES.items() for opset in opsets]


def old(
    nodes: list[onnx.NodeProto], opset: int, constants: dict[str, Array] | None = None
) -> onnx.ModelProto:
    return build(nodes, {"x": SHAPE}, constants or {}, "y", opset=opset, ir_version=8)


@pytest.mark.parametrize(("name", "opset"), RUNS)
def test_converted_models_compute_the_same(name: str, opset: int) -> None:
    _, nodes, constants = CASES[name]
    model = old(nodes, opset, constants)
    prepared, _ = prepare(ir.from_proto(model), True)
    assert prepared.opset_imports[""] == OPSET
    np.testing.assert_allclose(run(prepared, FEED)[0], run(model, FEED)[0], rtol=1e-5, atol=1e-6)
    check_conversion(ir.from_proto(model), prepared, FEED, threads=1)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 22, 26])
@pytest.mark.parametrize("types", [("QInt8", "QInt8"), ("QUInt16", "QInt16")])
def test_quantized_models_of_any_opset_run(opset: int, types: tuple[str, str]) -> None:
    nodes = [
        node("Conv", "x w b", "c", kernel_shape=[3, 3]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f v", "y") if opset >= 11 else node("Gemm", "f v d", "y"),
    ]
    constants = {"w": floats(4, 3, 3, 3), "b": floats(4), "v": floats(144, 5), "d": floats(5)}
    model = old(nodes, opset, constants)
    activation, weight = types
    result = quantize(model, FEED, activation_type=activation, weight_type=weight, per_channel=True).model
    assert result.opset_import[0].version == max(opset, OPSET)
    assert relative_error(run(model, FEED)[0], run(result, FEED)[0]) < 0.05


def test_a_conversion_that_changes_the_function_is_refused() -> None:
    model = old([node("Conv", "x w", "c"), node("Hardmax", "c", "y", axis=1)], 12, {"w": floats(3, 3, 1, 1)})
    message = (
        r"onnx's conversion from opset 12 to 21 changes output 'y': 0.0 becomes 1.0 at \(0, 0, 0, 1\); export"
    )
    with pytest.raises(ModelError, match=message):
        quantize(model, FEED)


def test_a_conversion_that_onnx_refuses_names_both_opsets() -> None:
    constants = {name: np.abs(floats(*SHAPE[1:], seed=i)) + 1 for i, name in enumerate("gbmv")}
    model = old([node("BatchNormalization", "x g b m v", "y", spatial=0)], 8, constants)
    with pytest.raises(ModelError, match=r"onnx cannot convert it from opset 8 to 21.*spatial"):
        quantize(model, FEED)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"mode": "linear"}, "changes output 'y': .* becomes"),
        ({"scales": [1.0, 1.0, 2.0, 3.0]}, r"changes output 'y' from float32 .* to float32 \(2, 3, 16, 24\)"),
    ],
)
def test_differences_of_values_and_shapes(change: dict[str, Any], complaint: str) -> None:
    attributes = {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}
    model = old([node("Upsample", "x", "y", **attributes)], 8)
    other, _ = prepare(ir.from_proto(old([node("Upsample", "x", "y", **attributes | change)], 8)), True)
    with pytest.raises(ModelError, match=complaint):
        check_conversion(ir.from_proto(model), other, FEED, threads=1)


def noise(seed: float) -> onnx.ModelProto:
    return old([node("RandomNormalLike", "x", "r", seed=seed), node("Add", "x r", "y")], 12)


def test_models_that_cannot_be_compared_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    gemm = old([node("Flatten", "x", "f"), node("Gemm", "f w b", "y", broadcast=1)], 6, DENSE)
    with caplog.at_level(logging.WARNING, logger="quant.graph.conversion"):
        for model, converted in ((noise(1.0), noise(2.0)), (gemm, gemm)):
            prepared, _ = prepare(ir.from_proto(converted), True)
            check_conversion(ir.from_proto(model), prepared, FEED, threads=1)
    assert "two runs of the model differ" in caplog.messages[0]
    assert (
        "from opset 6 to 21 is not checked: before it, model: onnxruntime cannot run it" in caplog.messages[1]
    )
