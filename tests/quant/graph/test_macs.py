from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from quant.graph.macs import graph_macs, shapes_read
from quant.graph.shapes import runtime_shapes
from tests.quant.graphs import build, floats, node


def macs_of(model: onnx.ModelProto, feed: dict[str, Any]) -> dict[str, int]:
    graph = ir.from_proto(model)
    return graph_macs(graph.graph, runtime_shapes(graph, shapes_read(graph.graph), feed))


@pytest.mark.parametrize(
    ("op_type", "x", "w", "attributes"),
    [
        ("Conv", (2, 4, 7, 9), (6, 4, 3, 3), {"strides": [2, 1]}),
        ("Conv", (1, 4, 8, 8), (8, 2, 3, 1), {"group": 2, "dilations": [2, 1]}),
        ("Conv", (3, 5, 11), (5, 1, 3), {"group": 5}),
        ("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), {"strides": [2, 2]}),
        ("Gemm", (5, 7), (7, 3), {}),
        ("Gemm", (7, 5), (3, 7), {"transA": 1, "transB": 1}),
        ("MatMul", (2, 3, 4, 5), (5, 6), {}),
        ("MatMul", (2, 1, 4, 5), (3, 5, 6), {}),
    ],
)
def test_with_ones_the_outputs_sum_up_to_the_number(
    op_type: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    """Every multiplication then adds one to one output; no padding, whose zeros would not."""
    model = build(
        [node(op_type, "x w", "y", "n", **attributes)], {"x": x}, {"w": np.ones(w, np.float32)}, "y"
    )
    feed = {"x": np.ones(x, np.float32)}
    (ones,) = ReferenceEvaluator(model).run(None, feed)
    assert macs_of(model, feed) == {"n": int(ones.sum())}


def test_recurrent_operators_multiply_at_every_step() -> None:
    steps, batch, inputs, hidden = 5, 3, 4, 6
    constants = {"w": floats(1, 4 * hidden, inputs), "r": floats(1, 4 * hidden, hidden)}
    nodes = [node("LSTM", "x w r", "y", "n", hidden_size=hidden)]
    model = build(nodes, {"x": (steps, batch, inputs)}, constants, "y")
    expected = steps * batch * 4 * hidden * (inputs + hidden)
    assert macs_of(model, {"x": floats(steps, batch, inputs)}) == {"n": expected}


def test_free_dimensions_are_those_of_the_feed() -> None:
    nodes = [
        node("MatMul", "x w", "h", "first"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "y", "second"),
    ]
    model = build(nodes, {"x": ["N", "T", 4]}, {"w": floats(4, 8), "v": floats(8, 2)}, "y")
    assert macs_of(model, {"x": floats(3, 5, 4)}) == {"first": 15 * 32, "second": 15 * 16}
