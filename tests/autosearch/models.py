"""A small model, its data, a space over it, and the command that searches it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]

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


def write_job(folder: Path, **changes: Any) -> Path:
    """A search.yaml over the small model, with model and data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.onnx")
    x = np.concatenate([feed["x"] for feed in make_feeds()])
    np.savez(folder / "calibration.npz", x=x, labels=np.arange(len(x)) % 3)
    content = {
        "model_input": "model.onnx",
        "calibration_data": {"path": "calibration.npz", "batch_size": 16},
        "search_space": SPACE,
        **changes,
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_command(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`autosearch` in a process of its own."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "autosearch", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Imports from this working tree; one thread, as tests run beside each other."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
