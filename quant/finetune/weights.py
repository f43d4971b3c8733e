"""A layer's weight as the matrix that multiplies its columns, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.finetune.columns import constant_shape, weight_position


def weight_matrix(node: ir.Node, weight: NDArray[Any]) -> NDArray[Any]:
    """W of Y = W X, shape (groups, out / groups, in), of the weight's type; possibly a view.

    Args:
        node: A layer that `layer_columns` accepts.
        weight: In the layout of the node's own weight; another may take its place.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        if node.op_type == "ConvTranspose":  # (groups, in channels, out channels, kernel)
            grouped = grouped.swapaxes(1, 2)
        return grouped.reshape(*grouped.shape[:2], -1)
    return (weight.T if _inputs_first(node) else weight)[None]


def from_matrix(node: ir.Node, matrix: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `weight_matrix`: contiguous, in the layout and shape of the node's own weight."""
    shape = constant_shape(node, weight_position(node))
    if node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        grouped = matrix.reshape(groups, shape[1], shape[0] // groups, *shape[2:])
        matrix = grouped.swapaxes(1, 2)
    elif _inputs_first(node):
        matrix = matrix[0].T
    return np.ascontiguousarray(matrix.reshape(shape))


def _inputs_first(node: ir.Node) -> bool:
    """Whether a matrix product has its weight as (in, out)."""
    if node.op_type == "Gemm":
        return not node.attributes.get_int("transB", 0)
    return node.op_type == "MatMul" and weight_position(node) == 1
