from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant.finetune import UniformGrid, repeat_blocks
from quant.qparams import QuantParams, dequantize, quantize
from quant.types import INTEGER_TYPES, QuantType
from tests.quant.finetune.problems import Array, grid_for, layer

weights = arrays(np.float32, (2, 3, 4), elements=st.floats(-100, 100, width=32))


@given(weights)
def test_nearest_rounding_is_onnx_quantize_linear(values: Array) -> None:
    element = INTEGER_TYPES[QuantType.QUInt8]
    params = QuantParams(np.float32([0.3, 0.7, 1.1]), np.uint8([0, 128, 200]), axis=1)
    grid = UniformGrid(params.scale[:, None], params.zero_point[:, None], element.qmin, element.qmax)
    integers = quantize(values, params, element)
    np.testing.assert_array_equal(grid.integers(values), integers)
    np.testing.assert_array_equal(grid.round(values), dequantize(integers, params))


@given(weights)
def test_neighbours_enclose(values: Array) -> None:
    grid = UniformGrid(np.float32(0.37), np.int8(3), -128, 127)
    lower, upper, nearest = grid.lower(values), grid.upper(values), grid.round(values)
    inside = (values / 0.37 > -130) & (values / 0.37 < 123)
    assert np.all((lower <= values + 1e-5) & (values - 1e-5 <= upper) | ~inside)
    assert np.all((nearest == lower) | (nearest == upper))
    assert np.all(np.isclose(upper - lower, 0.37, atol=1e-4) | ((upper == lower) & ~inside))
    for q in (lower, upper, nearest):
        np.testing.assert_array_equal(grid.round(q), q)


def test_saturates() -> None:
    grid = UniformGrid(np.float32(1), np.int8(0), -8, 7)
    far = np.float32([[[-100, 100]]])
    for ends in (grid.lower(far), grid.upper(far), grid.round(far)):
        assert ends.tolist() == [[[-8, 7]]]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("index", [slice(2, 5), np.array([7, 0, 3])])
def test_columns_round_as_the_whole(granularity: str, index: Any) -> None:
    weight = layer(0, groups=2).weight.astype(np.float32)
    grid = grid_for(weight, granularity=granularity, symmetric=False)
    np.testing.assert_array_equal(
        grid.columns(index).round(weight[:, :, index]), grid.round(weight)[:, :, index]
    )


def test_repeat_blocks() -> None:
    assert repeat_blocks(np.array([[1, 2, 3]]), 3, 7).tolist() == [[1, 1, 1, 2, 2, 2, 3]]
