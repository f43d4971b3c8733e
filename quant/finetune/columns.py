"""The columns that a layer's weight matrix multiplies (im2col), block by block.

A layer is Y = W X for each of its groups, with W of shape (out, in) and one column of X for each output
position. Its rows run over the group's input channels, then over the kernel's positions, as the weights
of a Conv lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.errors import QuantizationError
from quant.finetune.block import Array, Block, Columns, Draw
from quant.finetune.convolution import Convolution
from quant.finetune.windows import WindowColumns


def layer_columns(node: ir.Node) -> Columns:
    """Of a Conv, ConvTranspose, Gemm or MatMul with a constant weight.

    Raises:
        QuantizationError: If the layer is not of the form Y = W X, with the reason.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        return WindowColumns(Convolution.of(node, constant_shape(node, 1)))
    if node.op_type == "Gemm":
        return gemm_columns(node)
    if node.op_type == "MatMul":
        return matmul_columns(node)
    raise refusal(node, f"{node.op_type} has no weight matrix")


def weight_position(node: ir.Node) -> int:
    """Which input of a layer is its weight: of a MatMul the right one, unless only the left is constant."""
    if node.op_type == "MatMul" and not _is_constant(node.inputs[1]):
        return 0
    return 1


def constant_shape(node: ir.Node, position: int) -> tuple[int, ...]:
    """Shape of a constant input.

    Raises:
        QuantizationError: If it is not constant.
    """
    value = node.inputs[position]
    if value is None or value.const_value is None:
        raise refusal(node, "its weight is not constant")
    return tuple(int(size) for size in value.const_value.shape.numpy())


def refusal(node: ir.Node, reason: str) -> QuantizationError:
    """The error to raise for a layer that has no columns."""
    return QuantizationError(f"layer {node.name!r}: {reason}")


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


@dataclass(frozen=True)
class MatrixColumns:
    """Of a matrix product: the input's rows or columns, as they are.

    Attributes:
        inputs: Length of a column.
        axis: Of the input that runs along a column: -1, or -2 if the input is the right operand.
        factor: Multiplies the columns: a Gemm's alpha.
    """

    inputs: int
    axis: int
    factor: float = 1.0

    groups = 1
    taps = 1

    def blocks(self, x: NDArray[Any], max_bytes: int) -> Iterator[Block]:
        del max_bytes  # they take no more than the input
        yield self._block(self._rows(x))

    def drawn(self, x: NDArray[Any], draw: Draw) -> Iterator[Block]:
        rows = self._rows(x)
        yield self._block(rows[draw.of(len(rows))])

    def count(self, shape: tuple[int, ...]) -> int:
        return prod(shape) // self.inputs

    def unfold(self, rows: NDArray[Any], axis: int) -> NDArray[Any]:
        return rows.reshape(*rows.shape[:axis], self.inputs, *rows.shape[axis + 2 :])

    def _block(self, rows: Array) -> Block:
        columns = np.ascontiguousarray(rows.T)
        if self.factor != 1:
            columns = columns * np.float32(self.factor)
        return Block(columns[None, :, None, :], 1, 1, 1)

    def _rows(self, x: NDArray[Any]) -> Array:
        """The columns of the input as rows, a view if they lie so."""
        return np.moveaxis(np.asarray(x, np.float32), self.axis, -1).reshape(-1, self.inputs)


def gemm_columns(node: ir.Node) -> MatrixColumns:
    """Of Y = alpha A' B' + beta C: alpha A' in columns. B is the weight; C has no part in it."""
    shape = constant_shape(node, 1)
    inputs = shape[1] if node.attributes.get_int("transB", 0) else shape[0]
    axis = -2 if node.attributes.get_int("transA", 0) else -1
    return MatrixColumns(inputs, axis, node.attributes.get_float("alpha", 1.0))


def matmul_columns(node: ir.Node) -> MatrixColumns:
    """Of a product with one constant matrix, on either side."""
    position = weight_position(node)
    shape = constant_shape(node, position)
    if _is_constant(node.inputs[1 - position]):
        raise refusal(node, "both operands are constant")
    if len(shape) != 2:
        raise refusal(node, f"its constant operand has shape {shape}; only a matrix is one weight for all")
    return MatrixColumns(shape[0], -1) if position else MatrixColumns(shape[1], -2)
