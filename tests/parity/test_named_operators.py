"""Operators that are quantized only where a configuration names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from quant.graph.operators import NAMED, TABLE
from tests.parity.reference import assert_same_numbers, both
from tests.quant.graphs import (
    Array,
    Feed,
    build,
    floats,
    node,
    quantized_activations,
    relative_error,
    run,
)

FUSED = {"EmbedLayerNormalization"}
"""Made by onnxruntime's own optimiser, in its own domain: no float model has it."""

POSITIVE = {"Sqrt", "Div", "Pow"}
SECOND: dict[str, Array] = {
    "Div": np.abs(floats(4, 1, 1, seed=2)) + 1,
    "Max": floats(4, 1, 1, seed=2),
    "Mean": floats(4, 1, 1, seed=2),
    "Min": floats(4, 1, 1, seed=2),
    "PRelu": np.abs(floats(4, 1, 1, seed=2)),
    "Pow": np.float32(2),
    "Sub": floats(4, 1, 1, seed=2),
    "Sum": floats(4, 1, 1, seed=2),
    "Expand": np.array([2, 4, 6, 6]),
    "Tile": np.array([1, 1, 2, 1]),
    **{name: np.array([2, 3]) for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
}
ATTRIBUTES = {"DepthToSpace": {"blocksize": 2}, "SpaceToDepth": {"blocksize": 2}}


def layer(op_type: str) -> tuple[onnx.ModelProto, Sequence[Feed]]:
    """The operator behind a quantized tensor, in front of one that is never quantized."""
    inputs = "p second" if op_type in SECOND else "p"
    positive = [node("MatMul", "x w", "h"), node("Sigmoid", "h", "p")]
    nodes = [
        *(positive if op_type in POSITIVE else [node("MatMul", "x w", "p")]),
        node(op_type, inputs, "q", **ATTRIBUTES.get(op_type, {})),
        node("Cos", "q", "y"),
    ]
    constants: dict[str, Array] = {"w": floats(6, 6, seed=1, scale=0.4)}
    constants |= {"second": SECOND[op_type]} if op_type in SECOND else {}
    model = build(nodes, {"x": (2, 4, 6, 6)}, constants, "y")
    return model, [{"x": floats(2, 4, 6, 6, seed=seed)} for seed in range(2)]


def test_the_table_is_onnxruntimes_registry() -> None:
    assert set(TABLE) == (QDQRegistry.keys() | QLinearOpsRegistry.keys()) - FUSED
    assert not TABLE.keys() & NAMED.keys()


@pytest.mark.parametrize("op_type", NAMED)
def test_operators_by_name(op_type: str, tmp_path: Path) -> None:
    model, feeds = layer(op_type)
    ours, theirs = both(model, feeds, tmp_path, op_types_to_quantize=["MatMul", "Sigmoid", op_type])
    assert_same_numbers(ours, theirs)
    assert {"p", "q"} <= quantized_activations(ours).keys()
    assert relative_error(run(model, feeds[0])[0], run(ours, feeds[0])[0]) < 0.1


@pytest.mark.parametrize("op_type", NAMED)
def test_they_stay_float_by_default(op_type: str, tmp_path: Path) -> None:
    ours, theirs = both(*layer(op_type), tmp_path)
    assert_same_numbers(ours, theirs)
    quantized = quantized_activations(ours)
    assert "p" in quantized and "q" not in quantized
