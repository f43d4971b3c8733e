from __future__ import annotations

import numpy as np
import pytest

from quant.finetune import Gptq, Quadratic, UniformGrid
from tests.quant.finetune.problems import Array, grid_for, layer


def gptq_with_inverse(target: Array, hessian: Array, grid: UniformGrid) -> Array:
    """The columns of the GPTQ paper, alg. 1, literally: one output-by-input matrix, no blocks."""
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    work, rounded = target.copy(), np.zeros_like(target)
    for j in range(target.shape[1]):
        column = grid.columns(slice(j, j + 1)).round(work[None, :, j : j + 1])[0, :, 0]
        rounded[:, j] = column
        error = (work[:, j] - column) / factor[j, j]
        work[:, j:] -= np.outer(error, factor[j, j:])
    return rounded


@pytest.mark.parametrize("inputs", [10, 300])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_columns_of_the_paper(inputs: int, noise: float) -> None:
    a = layer(0, inputs=inputs, samples=500, noise=noise)
    grid = grid_for(a.weight, dtype=np.float64)
    quadratic = Quadratic.of(a.weight, a.moments())
    rounded, _ = Gptq(damping=0.05, act_order=False).solve(quadratic, grid)
    expected = gptq_with_inverse(quadratic.optimum(0.05)[0], quadratic.damped_gram(0.05)[0], grid)
    np.testing.assert_allclose(rounded[0], expected, atol=1e-12)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
def test_groups_are_independent(act_order: bool, granularity: str) -> None:
    a = layer(1, groups=3)
    for group in range(3):  # the order is shared, so let it be the same for all
        a.inputs[group], a.quantized_inputs[group] = (
            a.inputs[0] * (group + 1),
            a.quantized_inputs[0] * (group + 1),
        )
    grid = grid_for(a.weight, granularity=granularity, dtype=np.float64)
    rounded, _ = Gptq(act_order=act_order).solve(Quadratic.of(a.weight, a.moments()), grid)
    for group in range(3):
        one = slice(group, group + 1)
        own = UniformGrid(
            np.broadcast_to(grid.scale, a.weight.shape)[one],
            np.broadcast_to(grid.zero_point, a.weight.shape)[one],
            grid.qmin,
            grid.qmax,
        )
        quadratic = Quadratic.of(a.weight, a.moments())
        alone = Quadratic(*(part[one] for part in vars(quadratic).values()))
        np.testing.assert_array_equal(Gptq(act_order=act_order).solve(alone, own)[0], rounded[one])


def test_act_order_takes_the_strongest_input_first() -> None:
    a = layer(2, inputs=6)
    a.inputs[..., 4] *= 50
    a.quantized_inputs[...] = a.inputs
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    rounded, _ = Gptq(act_order=True).solve(quadratic, grid)
    np.testing.assert_array_equal(rounded[..., 4], grid.round(quadratic.weight)[..., 4])


def test_lowers_the_loss() -> None:
    a = layer(3, outputs=16, inputs=40, samples=300)
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    rounded, _ = Gptq().solve(quadratic, grid)
    assert a.losses(rounded).sum() < 0.7 * a.losses(grid.round(quadratic.weight)).sum()
