"""Small ONNX models, written where a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: dict[str, NDArray[Any]] | None = None,
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tensor(name: str, shape: Sequence[int | str], element_type: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, list(shape))


def affine(path: Path, scale: float = 1.0, shift: float = 0.0, shape: Sequence[int | str] = ("N", 4)) -> Path:
    """y = scale x + shift, so that a test decides what a model returns by what it feeds."""
    return save(
        path,
        [helper.make_node("Mul", ["x", "a"], ["ax"]), helper.make_node("Add", ["ax", "b"], ["y"])],
        [tensor("x", shape)],
        [tensor("y", shape)],
        {"a": np.float32(scale), "b": np.float32(shift)},
    )


def two_outputs(path: Path, scale: float, names: Sequence[str] = ("same", "scaled")) -> Path:
    """One output equal to the input, one scaled."""
    return save(
        path,
        [helper.make_node("Identity", ["x"], [names[0]]), helper.make_node("Mul", ["x", "a"], [names[1]])],
        [tensor("x", ["N", 4])],
        [tensor(name, ["N", 4]) for name in names],
        {"a": np.float32(scale)},
    )


def one_node(
    path: Path, op_type: str, output_type: int, output_shape: Sequence[int | str], **attributes: Any
) -> Path:
    """x (N, 4) -> y, by one operator."""
    return save(
        path,
        [helper.make_node(op_type, ["x"], ["y"], **attributes)],
        [tensor("x", ["N", 4])],
        [tensor("y", output_shape, output_type)],
    )
