from __future__ import annotations

import numpy as np
import pytest

from quant.finetune import AdaQuant, Gptq, Quadratic
from tests.quant.finetune.problems import grid_for, layer


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_lowers_the_loss(noise: float) -> None:
    a = layer(0, outputs=6, inputs=20, samples=200, noise=noise)
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    quantized, iterations = AdaQuant().solve(quadratic, grid)
    assert iterations == 50
    np.testing.assert_array_equal(grid.round(quantized), quantized)
    assert np.all(a.losses(quantized) <= a.losses(Gptq(0.01).solve(quadratic, grid)[0]) * (1 + 1e-5))
    assert a.losses(quantized).sum() < 0.8 * a.losses(grid.round(quadratic.optimum(0.01))).sum()


def test_can_leave_the_neighbours_of_the_weight() -> None:
    a = layer(1, outputs=4, inputs=16, noise=0.5)
    grid = grid_for(a.weight, bits=6)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    quantized, _ = AdaQuant(learning_rate=0.05, damping=1e6).solve(quadratic, grid)
    assert np.max(np.abs(quantized - quadratic.weight) / grid.scale) > 1


def test_the_learning_rate_is_in_steps() -> None:
    """The same roundings whatever the magnitude of the weights."""
    a = layer(2, inputs=12, noise=0.0)
    results = []
    for factor in (1.0, 2.0**-10):
        weight = (a.weight * factor).astype(np.float32)
        grid = grid_for(weight)
        quantized, _ = AdaQuant(num_iterations=50).solve(
            Quadratic.of(weight, a.moments()).astype(np.float32), grid
        )
        results.append(grid.integers(quantized))
    np.testing.assert_array_equal(*results)


def test_early_stop() -> None:
    a = layer(3, inputs=12)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    _, iterations = AdaQuant(num_iterations=3000, early_stop=True).solve(quadratic, grid_for(a.weight))
    assert iterations < 3000 and iterations % 50 == 0
