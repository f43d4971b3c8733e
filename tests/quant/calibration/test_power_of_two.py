from __future__ import annotations

import numpy as np
import pytest

from quant.calibration.power_of_two import min_mse_params, min_mse_weight_params
from quant.qparams import Grid, QuantParams, dequantize, quant_params, quantize
from quant.types import INTEGER_TYPES, ElementType
from tests.quant.calibration.test_statistics import of
from tests.quant.graphs import Array, floats

TYPES = list(INTEGER_TYPES.values())
VALUES: dict[str, Array] = {
    "normal": floats(3000),
    "heavy tails": np.random.default_rng(0).standard_t(3, size=3000).astype(np.float32),
    "relu": np.maximum(floats(3000, seed=2), 0),
    "shifted": floats(3000, seed=3) * 0.1 - 5,
    "small": floats(3000, seed=4) * 1e-20,
}


def mean_squared_error(values: Array, params: QuantParams, element: ElementType) -> float:
    return float(
        np.mean((values - dequantize(quantize(values, params, element), params).astype(np.float64)) ** 2)
    )


def brute_force(values: Array, grid: Grid, exponents: range) -> float:
    """The least error of all exponents, and of all zero points where they are free."""
    qmin, qmax = grid.bounds
    zeros = range(qmin, qmax + 1, 1) if not grid.symmetric else [round((qmin + qmax) / 2)]
    return min(
        mean_squared_error(
            values,
            QuantParams(np.asarray(2.0**exponent, np.float32), np.asarray(zero, grid.type.numpy)),
            grid.type,
        )
        for exponent in exponents
        for zero in zeros
    )


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("element", TYPES, ids=repr)
def test_symmetric_weights_have_the_least_error_of_all_exponents(name: str, element: ElementType) -> None:
    values, grid = VALUES[name], Grid(element, symmetric=True, power_of_two=True)
    params = min_mse_weight_params(values, grid, None)
    top = int(np.log2(np.abs(values).max())) + 2
    best = brute_force(values, grid, range(top - 26, top))
    assert np.frexp(params.scale)[0] == 0.5
    assert mean_squared_error(values, params, element) <= best * (1 + 1e-6)


@pytest.mark.parametrize("name", ["normal", "relu", "shifted"])
def test_free_zero_points_come_near_the_best(name: str) -> None:
    values, element = VALUES[name][:300], TYPES[0]
    grid = Grid(element, symmetric=False, power_of_two=True)
    params = min_mse_weight_params(values, grid, None)
    assert mean_squared_error(values, params, element) <= 1.1 * brute_force(values, grid, range(-9, 1))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_never_worse_than_the_scale_that_does_not_overflow(name: str, symmetric: bool) -> None:
    for element in TYPES:
        grid = Grid(element, symmetric=symmetric, power_of_two=True)
        values = VALUES[name]
        plain = quant_params(np.asarray(values.min()), np.asarray(values.max()), grid)
        best = min_mse_weight_params(values, grid, None)
        assert mean_squared_error(values, best, element) <= mean_squared_error(values, plain, element)


@pytest.mark.parametrize("name", ["normal", "heavy tails", "relu"])
def test_activations_by_their_histogram_come_near_the_values(name: str) -> None:
    values, grid = VALUES[name], Grid(TYPES[0], symmetric=True, power_of_two=True)
    by_histogram = mean_squared_error(values, min_mse_params(of(values), grid), grid.type)
    by_values = mean_squared_error(values, min_mse_weight_params(values, grid, None), grid.type)
    assert by_histogram <= 1.05 * by_values


def test_a_relus_output_starts_at_the_least_integer() -> None:
    for element in TYPES:
        grid = Grid(element, symmetric=False, power_of_two=True)
        assert min_mse_params(of(VALUES["relu"]), grid).zero_point == element.qmin
        assert min_mse_params(of(np.zeros(4, np.float32)), grid).zero_point == element.qmin


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_independent(axis: int) -> None:
    weight = floats(4, 5, 9) * np.array([1, 4, 0.1, 30], np.float32)[:, None, None]
    grid = Grid(TYPES[0], symmetric=True, power_of_two=True)
    together = min_mse_weight_params(weight, grid, axis)
    assert together.scale.shape == together.zero_point.shape == (weight.shape[axis],)
    for channel in range(weight.shape[axis]):
        assert together.scale[channel] == min_mse_weight_params(weight.take(channel, axis), grid, None).scale


@pytest.mark.parametrize(
    "weight", [np.float32(1.5), np.zeros((0, 3), np.float32), np.zeros((3, 2), np.float32)]
)
@pytest.mark.parametrize("axis", [None, 1])
def test_odd_shapes(weight: Array, axis: int | None) -> None:
    weight = np.asarray(weight)
    if weight.ndim == 0:
        axis = None
    params = min_mse_weight_params(weight, Grid(TYPES[0], symmetric=True, power_of_two=True), axis)
    assert params.scale.shape == (() if axis is None else (weight.shape[1],))
    assert (params.scale > 0).all()
