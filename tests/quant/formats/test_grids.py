"""The grids that finetuning rounds weights to, for every format."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from quant.finetune.adaround import AdaRound
from quant.finetune.gptq import Gptq
from quant.finetune.grid import RoundingGrid
from quant.finetune.quadratic import Quadratic
from quant.formats.grids import FloatGrid, PowerGrid, ResidualGrid, leading_power_of
from quant.formats.rounding import FloatShape
from tests.quant.finetune.problems import layer
from tests.quant.formats.cases import CALIBRATED, CASES, F32, Case, case, values, weights

WITHOUT_NEAREST = ("minifloat_denorm", "ternary", "binary_residual", "log", "block_log")
"""Their `round` is a rule of its own; the others take the nearer neighbour."""

OFF_GRID = ("minifloat_denorm", "binary_residual", "ternary")
"""Their `round` moves some numbers of the grid, or passes neighbours by."""


def grid_of(own: Case, weight: F32, groups: int = 1) -> RoundingGrid:
    made = own.of("weight").fit(weight)
    return made.grid(weight, groups)


@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_rounds_the_weight_as_the_format_does(own: Case, groups: int) -> None:
    for weight in (weights(6, 3, 20), values(6, 3, 20, exponents=(-12, 6)).clip(-500, 500)):
        weight[np.abs(weight) < 2.0**-120] = 0
        rounded = grid_of(own, weight, groups).round(weight.reshape(groups, 6 // groups, -1))
        expected = own.of("weight").fit(weight).round(weight)
        np.testing.assert_array_equal(rounded.reshape(weight.shape), expected)


@pytest.mark.parametrize("own", CASES, ids=str)
def test_neighbours_enclose(own: Case) -> None:
    weight = weights(6, 40)
    grid = grid_of(own, weight)
    x = np.concatenate([weights(6, 40, seed=1), weight], axis=0).reshape(2, 6, 40)
    lower, upper, rounded = grid.lower(x), grid.upper(x), grid.round(x)
    bottom, top = grid.lower(np.full_like(x, -1e30)), grid.upper(np.full_like(x, 1e30))
    assert np.all(lower <= upper)
    slack = 1e-6 * np.abs(x)
    assert np.all((lower <= x + slack) | (lower == bottom)) and np.all((x <= upper + slack) | (upper == top))
    if own not in CALIBRATED:  # whose scales are no powers of two, so that divisions by them round
        inside = (bottom <= x) & (x <= top)
        np.testing.assert_array_equal(grid.lower(lower), lower)
        np.testing.assert_array_equal(grid.upper(lower)[inside], upper[inside])
    if own.name in OFF_GRID:
        return
    assert np.all((rounded == lower) | (rounded == upper))
    np.testing.assert_array_equal(grid.round(lower), lower)
    np.testing.assert_array_equal(grid.round(upper), upper)
    if own.name not in WITHOUT_NEAREST:
        nearer = np.minimum(np.abs(x - lower), np.abs(x - upper))
        np.testing.assert_allclose(np.abs(x - rounded), nearer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.parametrize("index", [slice(3, 9), np.array([20, 0, 7])], ids=["slice", "list"])
def test_columns_round_as_the_whole(own: Case, index: Any) -> None:
    weight = weights(6, 40)
    grid = grid_of(own, weight)
    x = weights(6, 40, seed=2)[None]
    for whole, part in (
        (grid.round(x), grid.columns(index).round(x[:, :, index])),
        (grid.lower(x), grid.columns(index).lower(x[:, :, index])),
        (grid.upper(x), grid.columns(index).upper(x[:, :, index])),
    ):
        np.testing.assert_array_equal(part, whole[:, :, index])


STRICT = [
    case("minifloat_ieee", width=12, exponent_width=8),
    case("minifloat_denorm", width=6, exponent_width=3),
    case("log", width=4),
    case("block_log", width=4, exponent_bias_width=6),
    case("mxfp", exponent_width=2, frac_width=1),
    case("ternary"),
    case("binary_residual"),
]


@pytest.mark.parametrize("own", STRICT, ids=str)
def test_follows_the_array_api(own: Case) -> None:
    weight = weights(6, 40)
    grid = grid_of(own, weight)
    moved = _moved(grid)
    x = weights(6, 40, seed=3)[None]
    for name in ("lower", "upper", "round"):
        got = getattr(moved.columns(slice(2, 30)), name)(strict.asarray(x[:, :, 2:30]))
        expected = getattr(grid.columns(slice(2, 30)), name)(x[:, :, 2:30])
        np.testing.assert_array_equal(np.asarray(got), expected)


def _moved(grid: RoundingGrid) -> RoundingGrid:
    """With arrays of the strict namespace."""
    members: dict[str, Any] = vars(grid)
    return type(grid)(
        **{
            name: strict.asarray(value) if isinstance(value, np.ndarray) else value
            for name, value in members.items()
        }
    )


@pytest.mark.parametrize("own", CASES, ids=str)
def test_finetuning_stays_on_the_grid_and_lowers_the_loss(own: Case) -> None:
    data = layer(0, outputs=6, inputs=18)
    weight = np.float32(data.weight)
    grid = grid_of(own, weight[0])
    quadratic = Quadratic.of(data.weight, data.moments()).astype(np.float32)
    nearest = float(np.sum(data.losses(grid.round(weight))))
    for algorithm in (Gptq(), AdaRound(num_iterations=60)):
        solved, _ = algorithm.solve(quadratic, grid)
        ends = np.stack([grid.lower(solved), grid.upper(solved)])
        assert np.all(np.any(np.isclose(ends, solved, rtol=1e-5, atol=1e-7), axis=0))
        assert float(np.sum(data.losses(solved))) <= 1.3 * nearest + 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leading_power_is_exact(dtype: Any) -> None:
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)
    powers = np.ldexp(dtype(1), exponents)
    near = [powers, np.nextafter(powers, dtype(np.inf)), np.nextafter(powers, dtype(0)), powers * dtype(1.5)]
    x = np.concatenate(near)
    x = x[(x > 0) & np.isfinite(x)]
    expected = np.ldexp(dtype(1), np.frexp(x)[1] - 1)
    np.testing.assert_array_equal(leading_power_of(x, large=True), expected)
    small = x < info.max * info.eps / 4
    np.testing.assert_array_equal(leading_power_of(x[small]), expected[small])


def test_float_grid_at_its_edges() -> None:
    grid = FloatGrid(np.ones((1, 1, 1), np.float32), FloatShape(1, 0, 6.0))
    x = np.float32([[[-7, -6, -4, -3.5, -0.2, 0, 0.5, 2, 2.1, 6, 9]]])
    assert grid.lower(x).tolist() == [[[-6, -6, -4, -4, -0.5, 0, 0.5, 2, 2, 6, 6]]]
    assert grid.upper(x).tolist() == [[[-4, -4, -3, -3, 0, 0.5, 1, 3, 3, 6, 6]]]


def test_power_grid_at_its_edges() -> None:
    grid = PowerGrid(np.full((1, 1, 1), 0.25, np.float32), np.full((1, 1, 1), 2, np.float32))
    x = np.float32([[[-5, -2, -0.3, -0.25, -0.1, 0, 0.2, 0.25, 1.9, 2, 7]]])
    assert grid.lower(x).tolist() == [[[-2, -2, -0.5, -0.25, -0.25, -0.25, -0.25, 0.25, 1, 2, 2]]]
    assert grid.upper(x).tolist() == [[[-1, -1, -0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 2, 2, 2]]]


def test_residual_grid_has_all_sums() -> None:
    grid = ResidualGrid(np.float32([2, 1]).reshape(2, 1, 1, 1))
    x = np.float32([[[-9, -2, 0, 0.5, 2, 3]]])
    assert grid.lower(x).tolist() == [[[-3, -3, -1, -1, 1, 3]]]
    assert grid.upper(x).tolist() == [[[-1, -1, 1, 1, 3, 3]]]
