from __future__ import annotations

import math

import numpy as np
import pytest

from quant.finetune import Quadratic
from quant.finetune.adam import BETA1, BETA2, EPSILON, Adam, Plateau, adjusted_learning_rate
from tests.quant.finetune.problems import grid_for, layer


def test_steps_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(5)
    expected, m, u = x.copy(), np.zeros(5), np.zeros(5)
    adam = Adam(x)
    for step in range(1, 300):
        gradient = rng.standard_normal(5)
        m = BETA1 * m + (1 - BETA1) * gradient
        u = BETA2 * u + (1 - BETA2) * gradient**2
        expected -= 0.01 * (m / (1 - BETA1**step)) / (np.sqrt(u / (1 - BETA2**step)) + EPSILON)
        adam.update(x, gradient.copy(), 0.01)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_where_gradients_end_nothing_becomes_denormal() -> None:
    x = np.ones(4, dtype=np.float32)
    adam = Adam(x)
    for step in range(2000):
        adam.update(x, np.full(4, 1.0 if step < 3 else 0.0, dtype=np.float32), 0.1)
    assert np.all(adam.first == 0)
    assert np.all(adam.second > np.finfo(np.float32).tiny)


def test_plateau() -> None:
    plateau = Plateau(patience=2)
    assert [plateau.reached(loss) for loss in (3.0, 2.0, 2.5, 1.0, 1.0, 1.5)] == [False] * 5 + [True]


@pytest.mark.parametrize(("factor", "expected"), [(0.99, 0.2), (1.01, 0.1)])
def test_learning_rate_by_the_mean_squared_error(factor: float, expected: float) -> None:
    a = layer(0)
    grid = grid_for(a.weight, dtype=np.float64)
    quadratic = Quadratic.of(a.weight, a.moments())
    threshold = factor * float(np.mean(a.losses(grid.round(a.weight))))
    assert adjusted_learning_rate(0.1, (threshold, 0.2), quadratic, grid) == expected
    assert adjusted_learning_rate(0.1, None, quadratic, grid) == 0.1
    assert math.isclose(adjusted_learning_rate(0.1, (0.0, 0.3), quadratic, grid), 0.3)
