from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant.calibration.mse import _squared_errors, mse_range, mse_weight_params, weight_bounds
from quant.qparams import Grid, QuantParams, quant_params, weight_params
from quant.types import ELEMENT_TYPES, ElementType, QuantType
from tests.quant.calibration.test_statistics import of
from tests.quant.graphs import Array, floats


def _values(name: str, size: int = 6000) -> Array:
    generator = np.random.default_rng(0)
    normal = generator.normal(size=size)
    samples = {
        "normal": normal,
        "heavy tails": generator.standard_t(3, size=size),
        "relu": np.maximum(normal, 0),
        "clipped at six": np.clip(6 * normal, 0, 6),
        "gelu": normal * (1 + np.tanh(normal)) / 2,
        "shifted": normal + 3,
        "negative": -np.abs(normal) - 1,
        "one outlier": np.append(normal, 300),
        "small": normal * 1e-25,
    }
    return samples[name].astype(np.float32)


NAMES = (
    "normal",
    "heavy tails",
    "relu",
    "clipped at six",
    "gelu",
    "shifted",
    "negative",
    "one outlier",
    "small",
)


def grid_error(values: Array, low: Any, high: Any, symmetric: bool, levels: int) -> Any:
    """Mean squared error of ranges, shape (candidates,), by rounding every value."""
    low, high = np.minimum(np.atleast_1d(low), 0.0), np.maximum(np.atleast_1d(high), 0.0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    errors = []
    for scale, start in zip((high - low) / levels, low, strict=True):
        zero = round(levels / 2) if symmetric else np.rint(-start / scale)
        rounded = scale * np.clip(np.rint(values / scale), -zero, levels - zero)
        errors.append(np.mean((values - rounded) ** 2))
    return np.array(errors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_ranges_come_near_the_best_of_all(name: str, symmetric: bool, bits: int) -> None:
    values, levels = _values(name).astype(np.float64), 2**bits - 1 - symmetric
    low, high = values.min(), values.max()
    shrink = np.concatenate([np.geomspace(1e-3, 0.2, 15), np.linspace(0.2, 1, 25)])
    if symmetric or low >= 0 or high <= 0:
        ends = np.stack([shrink, shrink])
    else:
        ends = np.stack(np.meshgrid(shrink, shrink)).reshape(2, -1)
    best = grid_error(values, low * ends[0], high * ends[1], symmetric, levels).min()
    found = mse_range(of(_values(name)), symmetric, levels)
    # bins stand for the values, and steps of 2 % for all ranges
    assert grid_error(values, *map(float, found), symmetric, levels) <= 1.05 * best


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_are_within_the_extremes(name: str, symmetric: bool) -> None:
    statistics = of(_values(name))
    low, high = mse_range(statistics, symmetric, 15)
    assert low.dtype == high.dtype == np.float32
    if symmetric:
        assert -low == high <= max(abs(statistics.low), abs(statistics.high))
    else:
        assert statistics.low <= low <= high <= statistics.high


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_constant_tensor_keeps_its_value(value: float) -> None:
    low, high = mse_range(of(np.full(9, value, np.float32)), False, 255)
    assert low == high == value
    assert mse_range(of(), True, 255) == (0, 0)


def integer_type(bits: int, signed: bool = True) -> ElementType:
    """Of any width, in the memory of the next wider type."""
    qmin = -(1 << (bits - 1)) if signed else 0
    container = ELEMENT_TYPES[QuantType.QInt16 if bits > 8 else QuantType.QInt8]
    unsigned = ELEMENT_TYPES[QuantType.QUInt16 if bits > 8 else QuantType.QUInt8]
    return replace(container if signed else unsigned, bits=bits, qmin=qmin, qmax=qmin + (1 << bits) - 1)


def weight_errors(weight: Array, params: QuantParams, grid: Grid) -> Array:
    """Sum of squared errors by channel, float64."""
    axis = 0 if params.axis is None else params.axis
    channels = (
        np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1) if params.axis is not None else weight
    )
    rows = channels.reshape(params.scale.size, -1)
    scale, zero = params.scale.reshape(-1, 1), params.zero_point.reshape(-1, 1).astype(np.float32)
    integers = np.clip(np.rint(rows / scale) + zero, *weight_bounds(grid))
    errors: Array = ((rows - (integers - zero) * scale.astype(np.float64)) ** 2).sum(axis=1)
    return errors


GRIDS = [
    Grid(integer_type(bits, signed), symmetric=symmetric, reduce_range=reduce)
    for bits in (2, 4, 8, 16)
    for signed in (True, False)
    for symmetric in (True, False)
    for reduce in (True, False)
]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.bounds}-{g.symmetric}")
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_weights_are_never_worse_than_by_their_extremes(grid: Grid, axis: int | None) -> None:
    weight = np.random.default_rng(1).standard_t(4, size=(6, 5, 70)).astype(np.float32)
    weight *= np.array([1, 4, 0.1, 30, 1e-6, 0], np.float32)[:, None, None]
    found, plain = mse_weight_params(weight, grid, axis), weight_params(weight, grid, axis)
    assert found.scale.shape == found.zero_point.shape == plain.scale.shape and found.axis == axis
    better, extremes = weight_errors(weight, found, grid), weight_errors(weight, plain, grid)
    assert (better <= extremes * (1 + 1e-5) + 1e-30).all()
    assert (found.scale <= plain.scale).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_come_near_the_best_of_all_ranges(name: str, bits: int) -> None:
    weight = _values(name, 3000)
    for grid in (Grid(integer_type(bits), symmetric=True), Grid(integer_type(bits), symmetric=False)):
        shrink = np.linspace(0.003, 1, 60)
        pairs = [(a, a) for a in np.linspace(0.003, 1, 500)] + [(a, b) for a in shrink for b in shrink[::3]]
        low, high = (np.float32(weight.min()), np.float32(weight.max()))
        best = min(
            weight_errors(weight, quant_params(np.asarray(low * a), np.asarray(high * b), grid), grid)[0]
            for a, b in (pairs[:500] if grid.symmetric else pairs)
        )
        assert weight_errors(weight, mse_weight_params(weight, grid, None), grid)[0] <= 1.03 * best


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_independent_of_each_other(axis: int) -> None:
    weight = floats(4, 3, 80) * np.array([1, 4, 0.1, 30], np.float32)[:, None, None]
    grid = Grid(integer_type(4), symmetric=True)
    together = mse_weight_params(weight, grid, axis)
    for channel in range(weight.shape[axis]):
        alone = mse_weight_params(np.ascontiguousarray(weight.take(channel, axis)), grid, None)
        own = QuantParams(together.scale[channel], together.zero_point[channel])
        got, wanted = (weight_errors(weight.take(channel, axis), p, grid)[0] for p in (own, alone))
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 100_000), (100_000, 5), (3000, 70), (1, 70_001)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_of_large_weights_are_all_counted(shape: tuple[int, int], order: Any) -> None:
    rows = np.asarray(floats(*shape), order=order)
    scale = np.abs(floats(shape[0], 2, seed=1)) + np.float32(0.1)
    least, greatest = np.full((2, shape[0], 2), [[[-7]], [[7]]], np.float32)
    scaled = rows[:, None] / scale[..., None]
    wanted = ((np.clip(np.rint(scaled), -7, 7) - scaled) ** 2).sum(axis=2, dtype=np.float64) * scale**2
    np.testing.assert_allclose(_squared_errors(rows, scale, least, greatest), wanted, rtol=1e-5)


@given(
    arrays(np.float32, (3, 8), elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from(GRIDS),
    st.sampled_from([None, 0, 1]),
)
@settings(max_examples=150, deadline=None)
def test_no_weight_is_worse_than_by_its_extremes(weight: Array, grid: Grid, axis: int | None) -> None:
    found, plain = mse_weight_params(weight, grid, axis), weight_params(weight, grid, axis)
    assert (found.scale > 0).all()
    slack = 1e-5 * np.square(weight, dtype=np.float64).sum() * 1e-4
    assert (
        weight_errors(weight, found, grid) <= weight_errors(weight, plain, grid) * (1 + 1e-5) + slack
    ).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_taken(dtype: Any) -> None:
    weight, grid = floats(4, 50).astype(np.float16), Grid(integer_type(4), symmetric=True)
    wanted = mse_weight_params(weight.astype(np.float32), grid, 0)
    np.testing.assert_array_equal(mse_weight_params(weight.astype(dtype), grid, 0).scale, wanted.scale)


@pytest.mark.parametrize("axis", [None, 1])
def test_empty_weights_have_scale_one(axis: int | None) -> None:
    params = mse_weight_params(np.zeros((0, 3), np.float32), Grid(integer_type(8), symmetric=True), axis)
    assert params.scale.shape == (() if axis is None else (3,)) and (params.scale == 1).all()
