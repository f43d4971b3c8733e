"""Weights as formats see them, (out, ..., in), and as operators store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@dataclass(frozen=True)
class Arrangement:
    """From the layout of an operator's weight to one with the outputs first and the inputs last.

    Blocks of values that share an exponent or scale lie along the inputs, which are summed; a channel is
    an output.

    Attributes:
        axes: Of the stored weight, in the order of the arranged one.
        groups: Of a ConvTranspose, whose outputs lie along two axes; 1 for all others.
    """

    axes: tuple[int, ...]
    groups: int = 1

    def arrange(self, weight: NDArray[Any]) -> NDArray[Any]:
        """(out, ..., in) of a stored weight; contiguous."""
        if self.groups == 1:
            return np.ascontiguousarray(weight.transpose(self.axes))
        inputs, outputs, *kernel = weight.shape
        grouped = weight.reshape(self.groups, inputs // self.groups, outputs, *kernel)
        moved = np.moveaxis(grouped, 1, -1)  # (groups, out channels of each, kernel, in channels of each)
        return np.ascontiguousarray(moved.reshape(self.groups * outputs, *kernel, inputs // self.groups))

    def restore(self, arranged: NDArray[Any]) -> NDArray[Any]:
        """The inverse, also of something with another number of inputs; contiguous."""
        if self.groups == 1:
            return np.ascontiguousarray(arranged.transpose(np.argsort(self.axes)))
        outputs, *kernel, inputs = arranged.shape
        grouped = arranged.reshape(self.groups, outputs // self.groups, *kernel, inputs)
        moved = np.moveaxis(grouped, -1, 1)
        return np.ascontiguousarray(moved.reshape(self.groups * inputs, outputs // self.groups, *kernel))

    def stored_axis(self, axis: int) -> int | None:
        """Where an arranged axis is in the stored weight; None if it is no axis of its own there."""
        return self.axes[axis] if self.groups == 1 else None


def arrangement_of(node: ir.Node, position: int) -> Arrangement:
    """Of a node's weight, at a position among its inputs."""
    value = node.inputs[position]
    assert value is not None and value.const_value is not None
    rank = len(value.const_value.shape)
    leading = tuple(range(rank - 2))
    if node.op_type == "Conv":
        return Arrangement((0, *range(2, rank), 1))
    if node.op_type == "ConvTranspose":
        return Arrangement((1, *range(2, rank), 0), node.attributes.get_int("group", 1))
    if node.op_type == "Gemm":
        return Arrangement((0, 1) if node.attributes.get_int("transB", 0) else (1, 0))
    rows, columns = rank - 2, rank - 1
    return Arrangement((columns, *leading, rows) if position else (rows, *leading, columns))
