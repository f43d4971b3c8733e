from __future__ import annotations

import numpy as np
import pytest

from quant.finetune import Quadratic
from tests.quant.finetune.problems import grid_for, layer


@pytest.mark.parametrize("groups", [1, 3])
def test_losses_are_those_of_the_samples(groups: int) -> None:
    a = layer(0, groups=groups)
    quantized = grid_for(a.weight).round(a.weight.astype(np.float32)).astype(np.float64)
    losses = Quadratic.of(a.weight, a.moments()).losses(quantized)
    np.testing.assert_allclose(losses, a.losses(quantized), rtol=1e-9)


def test_losses_in_float32_keep_their_digits_at_8_bits() -> None:
    a = layer(0, inputs=64, samples=500, noise=0.001)
    quantized = grid_for(a.weight, bits=8).round(a.weight.astype(np.float32))
    losses = Quadratic.of(a.weight, a.moments()).astype(np.float32).losses(quantized)
    np.testing.assert_allclose(losses, a.losses(quantized), rtol=1e-4)


def test_without_float_gram_a_constant_is_missing() -> None:
    a = layer(0)
    quantized = grid_for(a.weight).round(a.weight.astype(np.float32))
    increase = Quadratic.of(a.weight, a.moments(float_gram=False)).losses(quantized)
    np.testing.assert_allclose(increase, a.losses(quantized) - a.losses(a.weight), rtol=1e-9)


def test_gradient_against_finite_differences() -> None:
    a = layer(3, groups=2)
    quadratic = Quadratic.of(a.weight, a.moments())
    point, h = a.weight + 0.1, 1e-5
    gradient = 2 * quadratic.half_gradient(point)
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = h
        slope = (a.losses(point + shift).sum() - a.losses(point - shift).sum()) / (2 * h)
        assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_optimum_is_least_squares() -> None:
    a = layer(4, samples=200)
    optimum = Quadratic.of(a.weight, a.moments()).optimum(1e-12)
    wanted = a.inputs[0] @ a.weight[0].T
    expected = np.linalg.lstsq(a.quantized_inputs[0], wanted, rcond=None)[0].T
    np.testing.assert_allclose(optimum[0], expected, rtol=1e-5, atol=1e-6)


def test_optimum_of_float_inputs_is_the_weight() -> None:
    a = layer(4, noise=0.0)
    np.testing.assert_array_equal(Quadratic.of(a.weight, a.moments()).optimum(0.01), a.weight)


def test_damping_pulls_the_optimum_to_the_weight() -> None:
    a = layer(4, noise=0.5)
    quadratic = Quadratic.of(a.weight, a.moments())
    distances = [np.linalg.norm(quadratic.optimum(damping) - a.weight) for damping in (0.01, 1.0, 100.0)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.1 * distances[0]
