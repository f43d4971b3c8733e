from __future__ import annotations

import numpy as np
import pytest

from quant.finetune import AdaRound, Gptq, Quadratic
from quant.finetune.adaround import _Relaxation
from tests.quant.finetune.problems import grid_for, layer, roundings


def rectified_sigmoid(v: np.ndarray) -> np.ndarray:
    return np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_gradient_against_finite_differences_of_the_papers_objective(penalty: float) -> None:
    a = layer(1, groups=2, inputs=5)
    grid = grid_for(a.weight, dtype=np.float64)
    quadratic = Quadratic.of(a.weight, a.moments())
    relaxation = _Relaxation(quadratic, grid, quadratic.optimum(0.01))
    rng = np.random.default_rng(0)
    relaxation.logits[...] = rng.uniform(-2, 2, relaxation.logits.shape)
    beta, h = 3.5, 1e-6
    step = relaxation.upper - relaxation.lower
    unit = 100 * np.mean(step**2 * quadratic.curvature, axis=-1)

    def objective(v: np.ndarray) -> float:
        up = rectified_sigmoid(v)
        losses = a.losses(relaxation.lower + up * step) / unit
        return float(losses.sum() + penalty * np.sum(1 - np.abs(2 * up - 1) ** beta))

    gradient = relaxation.gradient(penalty, beta)
    for index in np.ndindex(gradient.shape):
        shift = np.zeros_like(gradient)
        shift[index] = 2 * h  # logits are V / 2
        v = 2 * relaxation.logits
        slope = (objective(v + shift) - objective(v - shift)) / (2 * h)
        assert gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_starts_at_the_values_given() -> None:
    a = layer(1, noise=0.0)
    grid = grid_for(a.weight, bits=8, dtype=np.float64)
    relaxation = _Relaxation(Quadratic.of(a.weight, a.moments()), grid, a.weight)
    up = rectified_sigmoid(2 * relaxation.logits)
    start = relaxation.lower + up * (relaxation.upper - relaxation.lower)
    inside = relaxation.upper > relaxation.lower
    assert inside.mean() > 0.5
    np.testing.assert_allclose(start[inside], a.weight[inside], atol=1e-12)


def test_near_the_best_of_all_roundings() -> None:
    excess = []
    for seed in range(8):
        a = layer(seed, outputs=2, inputs=9, noise=0.0)
        grid = grid_for(a.weight, bits=3)
        weight = a.weight.astype(np.float32)
        quadratic = Quadratic.of(weight, a.moments()).astype(np.float32)
        quantized, _ = AdaRound(num_iterations=300).solve(quadratic, grid)
        lower, upper, nearest = grid.lower(weight), grid.upper(weight), grid.round(weight)
        for output in range(2):
            every = roundings(lower[0, output], upper[0, output])
            errors = (every - a.weight[0, output]) @ a.inputs[0].T
            best = (errors**2).mean(axis=1).min()
            reached, before = a.losses(quantized)[0, output], a.losses(nearest)[0, output]
            excess.append((reached - best) / max(before - best, 1e-9 * best))
    assert np.median(excess) < 0.1
    assert np.mean(excess) < 0.3


def test_no_better_than_the_best_of_all_roundings_up_to_two_steps_away() -> None:
    for seed in range(4):
        a = layer(seed, outputs=2, inputs=7, noise=0.1)
        grid = grid_for(a.weight, bits=3)
        quadratic = Quadratic.of(a.weight, a.moments())
        quantized, _ = AdaRound(num_iterations=300).solve(quadratic.astype(np.float32), grid)
        for output in range(2):
            steps = (grid.round(a.weight + n * grid.scale)[0, output] for n in range(-2, 3))
            every = roundings(*steps).astype(np.float64)[None]
            weight, linear, constant = (
                part[:, output : output + 1]
                for part in (quadratic.weight, quadratic.linear, quadratic.constant)
            )
            alone = Quadratic(weight, quadratic.gram, linear, constant)
            best = alone.losses(every).min()
            assert best * (1 - 1e-6) <= a.losses(quantized)[0, output] <= 1.5 * best


def test_rounds_to_neighbours_of_what_gptq_rounds_and_never_worse() -> None:
    for seed in range(8):
        a = layer(seed, noise=0.2)
        grid = grid_for(a.weight)
        quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
        quantized, _ = AdaRound(num_iterations=100).solve(quadratic, grid)
        first, shifted = Gptq(0.01).pass_over(quadratic, grid)
        np.testing.assert_array_equal(first, grid.round(shifted))
        assert np.all((quantized == grid.lower(shifted)) | (quantized == grid.upper(shifted)))
        assert np.all(a.losses(quantized) <= a.losses(first) * (1 + 1e-6))


def test_schedule_of_beta() -> None:
    algorithm = AdaRound(num_iterations=100, warm_start=0.2, beta_range=(20.0, 2.0))
    assert algorithm.beta(19) is None
    assert algorithm.beta(20) == 20
    assert algorithm.beta(60) == pytest.approx(11)
    assert algorithm.beta(99) == pytest.approx(2, abs=0.01)


def test_ends_when_everything_is_decided() -> None:
    a = layer(3, inputs=2, outputs=1)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    grid = grid_for(a.weight)
    decided, iterations = AdaRound(num_iterations=5000, reg_param=1.0).solve(quadratic, grid)
    assert iterations < 5000
    assert np.all((decided == grid.lower(decided)) | (decided == grid.upper(decided)))


def test_early_stop_is_earlier() -> None:
    a = layer(4, inputs=30, outputs=10, noise=0.2)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    grid = grid_for(a.weight)
    quantized, iterations = AdaRound(1000, early_stop=True).solve(quadratic, grid)
    _, all_iterations = AdaRound(1000).solve(quadratic, grid)
    assert 200 < iterations < all_iterations
    assert a.losses(quantized).sum() < a.losses(grid.round(quadratic.weight)).sum()


def test_saturated_weights_stay_at_the_end_of_the_grid() -> None:
    a = layer(5)
    grid = grid_for(a.weight / 4)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    quantized, _ = AdaRound(num_iterations=50, damping=1e6).solve(quadratic, grid)
    beyond = quadratic.weight > grid.scale * (grid.qmax + 1)
    assert np.any(beyond)
    np.testing.assert_array_equal(
        quantized[beyond], np.broadcast_to(grid.scale * grid.qmax, beyond.shape)[beyond]
    )


def test_beta_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="beta_range"):
        AdaRound(beta_range=(20.0, 0.5))
