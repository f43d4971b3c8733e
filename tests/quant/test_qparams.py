from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType, quantize_nparray

from quant.qparams import Grid, dequantize, next_power_of_two, quant_params, quantize, weight_params
from quant.types import INTEGER_TYPES, ElementType
from tests.quant.graphs import Array, floats

TYPES = list(INTEGER_TYPES.values())
ONNXRUNTIMES = [element for element in TYPES if element.bits > 2]
FLOAT32 = {"allow_nan": False, "allow_infinity": False, "width": 32}
reals = st.floats(**FLOAT32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 6.0, -1.0, 3.4e38, -3.4e38])


def grids(types: list[ElementType] = TYPES, **fixed: bool) -> st.SearchStrategy[Grid]:
    choices = {name: st.booleans() for name in ("symmetric", "reduce_range", "power_of_two")}
    choices |= {name: st.just(value) for name, value in fixed.items()}
    return st.builds(
        Grid,
        type=st.sampled_from(types),
        minimum_real_range=st.none() | st.sampled_from([1e-4, 0.5, 100.0]),
        **choices,
    )


def onnx_type(element: ElementType) -> int:
    return int(element.ir)


@given(reals, reals, grids(ONNXRUNTIMES, power_of_two=False))
@settings(max_examples=300, deadline=None)
def test_scale_and_zero_point_are_onnxruntimes(first: float, second: float, grid: Grid) -> None:
    low, high = np.float32(min(first, second)), np.float32(max(first, second))
    qmin, qmax = get_qmin_qmax_for_qType(onnx_type(grid.type), grid.reduce_range, grid.symmetric)
    assert grid.bounds == (qmin, qmax)
    qmin, qmax = (np.asarray(bound).astype(grid.type.numpy) for bound in (qmin, qmax))
    zero_point, scale = compute_scale_zp(
        np.array(low), np.array(high), qmin, qmax, grid.symmetric, grid.minimum_real_range
    )
    got = quant_params(np.asarray(low), np.asarray(high), grid)
    assert got.scale.dtype == np.float32 and got.zero_point.dtype == grid.type.numpy
    assert got.scale.tobytes() == np.float32(scale).tobytes()
    assert got.zero_point == zero_point


@given(reals, reals, grids())
@settings(max_examples=300, deadline=None)
def test_zero_is_exact_and_scales_are_usable(first: float, second: float, grid: Grid) -> None:
    low, high = np.float32(min(first, second)), np.float32(max(first, second))
    params = quant_params(np.asarray(low), np.asarray(high), grid)
    assert np.isfinite(params.scale) and params.scale > 0
    zero = quantize(np.zeros(1, np.float32), params, grid.type)
    assert zero == params.zero_point
    assert dequantize(zero, params) == 0
    if grid.power_of_two:
        assert np.frexp(params.scale)[0] == 0.5


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), grids(reduce_range=False))
@settings(max_examples=200, deadline=None)
def test_round_trip_is_within_half_a_step(low: float, width: float, grid: Grid) -> None:
    low_, high_ = np.float32(low), np.float32(low + width)
    params = quant_params(np.asarray(low_), np.asarray(high_), grid)
    values = np.linspace(min(low_, 0), max(high_, 0), 101, dtype=np.float32)
    error = np.abs(dequantize(quantize(values, params, grid.type), params).astype(np.float64) - values)
    # a rounded zero point moves the ends of the grid by up to another half step; the rest is float32
    ends = 0.5 * params.scale * ((values == values[0]) | (values == values[-1]))
    assert (error <= 0.5 * params.scale * 1.001 + ends + np.abs(values) * 2e-6).all()


@pytest.mark.parametrize("element", TYPES, ids=repr)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_agrees_with_the_onnx_reference(element: ElementType, axis: int | None) -> None:
    values = floats(5, 7, seed=3, scale=10)
    values[0, 0] = 200  # saturates
    params = weight_params(floats(5, 7, seed=4, scale=4), Grid(element, symmetric=False), axis)
    integer = onnx_type(element)
    attributes = {} if axis is None else {"axis": axis}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("z", integer, None),
        ],
        [
            helper.make_tensor_value_info("q", integer, None),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    reference = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)]))
    zero_point = params.zero_point.astype(element.ir.numpy())
    wanted, back = reference.run(None, {"x": values, "s": params.scale, "z": zero_point})
    got = quantize(values, params, element)
    np.testing.assert_array_equal(got.astype(np.float32), wanted.astype(np.float32))
    np.testing.assert_array_equal(dequantize(got, params), back)


@pytest.mark.parametrize("element", ONNXRUNTIMES, ids=repr)
def test_weights_are_quantized_as_onnxruntime_does(element: ElementType) -> None:
    weight = floats(6, 4, 3, 3)
    params = weight_params(weight, Grid(element, symmetric=False), None)
    wanted = quantize_nparray(onnx_type(element), weight, params.scale, params.zero_point)
    np.testing.assert_array_equal(quantize(weight, params, element), wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_channel_is_quantized_as_if_it_were_alone(axis: int) -> None:
    weight = floats(4, 5, 6) * np.arange(1, 7, dtype=np.float32)
    grid = Grid(TYPES[0], symmetric=True)
    together = quantize(weight, weight_params(weight, grid, axis), grid.type)
    for channel in range(weight.shape[axis]):
        alone = weight.take(channel, axis)
        np.testing.assert_array_equal(
            together.take(channel, axis), quantize(alone, weight_params(alone, grid, None), grid.type)
        )


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40])
def test_ranges_too_narrow_for_a_scale_get_one(value: float) -> None:
    params = quant_params(np.float32(value), np.float32(value), Grid(TYPES[0], symmetric=False))
    assert (params.scale, params.zero_point) == (1, 0)


@pytest.mark.parametrize(
    "weight", [np.float32(1.5), np.zeros((0, 3), np.float32), np.zeros((3, 2), np.float32)]
)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_odd_shapes(weight: Array, power_of_two: bool) -> None:
    grid = Grid(TYPES[0], symmetric=False, power_of_two=power_of_two)
    params = weight_params(np.asarray(weight), grid, None)
    integers = quantize(np.asarray(weight), params, grid.type)
    assert integers.shape == np.shape(weight)
    np.testing.assert_allclose(dequantize(integers, params), weight, atol=params.scale / 2)


@given(st.integers(-120, 120), st.floats(1, 2, exclude_max=True))
def test_next_power_of_two(exponent: int, mantissa: float) -> None:
    value = np.ldexp(mantissa, exponent)
    wanted = 2.0**exponent if mantissa == 1 else 2.0 ** (exponent + 1)
    assert next_power_of_two(np.asarray(value)) == wanted


def test_next_power_of_two_of_zero_is_zero() -> None:
    assert next_power_of_two(np.zeros(2)).tolist() == [0, 0]
