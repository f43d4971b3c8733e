from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant.transforms.batch_norm import fold_batch_norms
from tests.quant.graphs import Array, build, floats, node, op_types, run, serialized


def statistics(channels: int) -> dict[str, Array]:
    return {
        "gamma": floats(channels, seed=11) + 2,
        "beta": floats(channels, seed=12),
        "mean": floats(channels, seed=13),
        "var": np.abs(floats(channels, seed=14)) + 0.1,
    }


BATCH_NORM = node("BatchNormalization", "c gamma beta mean var", "y", epsilon=1e-3)

IMAGE, ROW = (2, 4, 6, 6), (5, 6)
LAYERS: dict[str, tuple[onnx.NodeProto, dict[str, Array], tuple[int, ...], int]] = {
    "Conv": (node("Conv", "x w b", "c"), {"w": floats(6, 4, 3, 3), "b": floats(6)}, IMAGE, 6),
    "Conv without bias": (node("Conv", "x w", "c"), {"w": floats(6, 4, 3, 3)}, IMAGE, 6),
    "grouped Conv": (
        node("Conv", "x w b", "c", group=2),
        {"w": floats(6, 2, 3, 3), "b": floats(6)},
        IMAGE,
        6,
    ),
    "depthwise Conv": (node("Conv", "x w", "c", group=4), {"w": floats(8, 1, 3, 3)}, IMAGE, 8),
    "ConvTranspose": (
        node("ConvTranspose", "x w b", "c", strides=[2, 2]),
        {"w": floats(4, 5, 2, 2), "b": floats(5)},
        IMAGE,
        5,
    ),
    "grouped ConvTranspose": (
        node("ConvTranspose", "x w", "c", group=2),
        {"w": floats(4, 3, 3, 3)},
        IMAGE,
        6,
    ),
    "Gemm": (node("Gemm", "x w b", "c"), {"w": floats(6, 7), "b": floats(7)}, ROW, 7),
    "Gemm with transB": (node("Gemm", "x w", "c", transB=1), {"w": floats(7, 6)}, ROW, 7),
    "Gemm with alpha and beta": (
        node("Gemm", "x w b", "c", transB=1, alpha=0.5, beta=3.0),
        {"w": floats(7, 6), "b": floats(1, 7)},
        ROW,
        7,
    ),
    "Gemm with one bias": (node("Gemm", "x w b", "c", beta=2.0), {"w": floats(6, 7), "b": floats(1)}, ROW, 7),
    "Conv1D": (node("Conv", "x w", "c"), {"w": floats(6, 4, 3)}, (2, 4, 9), 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folding_keeps_the_outputs(name: str) -> None:
    layer, constants, shape, channels = LAYERS[name]
    model = build([layer, BATCH_NORM], {"x": shape}, constants | statistics(channels), "y")
    source = ir.from_proto(model)
    before = serialized(source)
    folded, skipped = fold_batch_norms(source)
    assert not skipped
    result = ir.to_proto(folded)
    assert op_types(result) == [layer.op_type]
    onnx.checker.check_model(result, full_check=True)
    x = floats(*shape, seed=5)
    np.testing.assert_allclose(run(result, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-4, atol=1e-4)
    assert serialized(source) == before  # left as it was


def test_a_shared_weight_keeps_its_values_for_the_other_reader() -> None:
    nodes = [
        node("Conv", "x w b", "c"),
        BATCH_NORM,
        node("Conv", "x w b", "other"),
    ]
    constants = {"w": floats(4, 4, 3, 3), "b": floats(4)} | statistics(4)
    model = build(nodes, {"x": IMAGE}, constants, "y other")
    folded, _ = fold_batch_norms(ir.from_proto(model))
    x = floats(*IMAGE)
    for got, wanted in zip(run(folded, {"x": x}), run(model, {"x": x}), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_two_in_a_row_are_both_folded() -> None:
    second = node("BatchNormalization", "y gamma beta mean var", "z")
    constants = {"w": floats(4, 4, 1, 1)} | statistics(4)
    model = build([node("Conv", "x w", "c"), BATCH_NORM, second], {"x": IMAGE}, constants, "z")
    folded, skipped = fold_batch_norms(ir.from_proto(model))
    assert not skipped and op_types(ir.to_proto(folded)) == ["Conv"]
    x = floats(*IMAGE)
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-3, atol=1e-3)


CONV = node("Conv", "x w b", "c", name="conv")
LEFT: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "first": ([node("Relu", "x", "c"), BATCH_NORM], {"outputs": "y"}, "not after Conv, ConvTranspose, Gemm"),
    "graph input": (
        [node("BatchNormalization", "x gamma beta mean var", "y")],
        {"outputs": "y"},
        "not after Conv, ConvTranspose, Gemm",
    ),
    "training": (
        [CONV, node("BatchNormalization", "c gamma beta mean var", "y m v", training_mode=1)],
        {"outputs": "y"},
        "in training mode",
    ),
    "two readers": (
        [CONV, BATCH_NORM, node("Relu", "c", "r")],
        {"outputs": "y r"},
        "output 'c' of 'conv' has other readers",
    ),
    "graph output": ([CONV, BATCH_NORM], {"outputs": "y c"}, "output 'c' of 'conv' has other readers"),
    "computed weights": (
        [node("Relu", "w", "w2"), node("Conv", "x w2 b", "c", name="conv"), BATCH_NORM],
        {"outputs": "y"},
        "weights or statistics are not constants",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_reasons_for_leaving_one(name: str) -> None:
    nodes, arguments, reason = LEFT[name]
    constants = {"w": floats(4, 4, 1, 1), "b": floats(4)} | statistics(4)
    model = build(nodes, {"x": IMAGE}, constants, **arguments)
    folded, skipped = fold_batch_norms(ir.from_proto(model))
    assert [skip.reason for skip in skipped] == [reason]
    assert op_types(ir.to_proto(folded)) == op_types(model)


def test_a_gemm_bias_for_each_row_is_left() -> None:
    model = build(
        [node("Gemm", "x w b", "c", name="fc"), BATCH_NORM],
        {"x": ROW},
        {"w": floats(6, 7), "b": floats(5, 1)} | statistics(7),
        "y",
    )
    _, skipped = fold_batch_norms(ir.from_proto(model))
    assert skipped[0].reason == "the bias of 'fc' is not one number for each column"
