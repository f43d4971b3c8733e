from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from quant.finetune.weights import weight_matrix
from quant.layers.arrangement import Arrangement, arrangement_of
from tests.quant.graphs import floats

OPERATORS: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any]]] = {
    "conv": ("Conv", (6, 4, 3, 2), 1, {}),
    "grouped conv": ("Conv", (6, 2, 3, 3), 1, {"group": 2}),
    "conv1d": ("Conv", (6, 4, 3), 1, {}),
    "transposed": ("ConvTranspose", (4, 6, 3, 2), 1, {}),
    "grouped transposed": ("ConvTranspose", (4, 3, 2, 2), 1, {"group": 2}),
    "gemm": ("Gemm", (4, 6), 1, {}),
    "transposed gemm": ("Gemm", (6, 4), 1, {"transB": 1}),
    "right": ("MatMul", (4, 6), 1, {}),
    "left": ("MatMul", (6, 4), 0, {}),
    "batched": ("MatMul", (3, 4, 6), 1, {}),
}


def made(case: str) -> tuple[ir.Node, int, np.ndarray]:
    op_type, shape, position, attributes = OPERATORS[case]
    weight = floats(*shape)
    constant = ir.Value(name="w", const_value=ir.tensor(weight))
    inputs = [ir.Value(name="x"), constant] if position else [constant, ir.Value(name="x")]
    return ir.node(op_type, inputs, attributes=attributes), position, weight


@pytest.mark.parametrize("case", OPERATORS)
def test_outputs_first_and_inputs_last(case: str) -> None:
    node, position, weight = made(case)
    arrangement = arrangement_of(node, position)
    arranged = arrangement.arrange(weight)
    assert (arranged.shape[0], arranged.shape[-1]) == (6, 2 if "grouped" in case else 4)
    np.testing.assert_array_equal(arrangement.restore(arranged), weight)
    if case != "batched":  # rows of the layer's matrix are the outputs, group by group
        matrix = weight_matrix(node, weight).reshape(6, -1)
        np.testing.assert_array_equal(np.sort(arranged.reshape(6, -1)), np.sort(matrix))


@pytest.mark.parametrize("case", OPERATORS)
def test_axes_in_the_stored_layout(case: str) -> None:
    node, position, weight = made(case)
    arrangement = arrangement_of(node, position)
    sizes = [arrangement.stored_axis(axis) for axis in (0, -1)]
    if case == "grouped transposed":
        assert sizes == [None, None]
        return
    channels, inputs = (weight.shape[axis] for axis in sizes if axis is not None)
    assert (channels, inputs) == (6, 2 if case == "grouped conv" else 4)


def test_blocks_keep_their_place() -> None:
    """A scale for each block of inputs is restored as the weight itself is."""
    arrangement = Arrangement((0, 2, 3, 1))
    assert arrangement.restore(floats(6, 3, 2, 1)).shape == (6, 1, 3, 2)
