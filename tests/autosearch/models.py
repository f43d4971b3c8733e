"""A small model, its data, and a space over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPACE = {
    "calibrate_method": ["MinMax", "Percentile"],
    "activation_type": ["QUInt8", "QInt16"],
    "per_channel": [False, True],
    "extra_options": {"Percentile": [99.0, 99.9]},
}
"""16 points, 12 distinct configurations."""

DISTINCT = 12


def write_model(path: Path, seed: int = 0) -> Path:
    """Gemm, Relu, Gemm: 6 inputs, 8 hidden units, 3 outputs."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}
    constants = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        constants,
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def make_feeds(batches: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Batches of 16 samples."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(16, 6)).astype(np.float32)} for _ in range(batches)]
