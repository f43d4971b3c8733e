from __future__ import annotations

import dataclasses
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from quant.finetune import Gptq, LayerProblem, UniformGrid, finetune_layer
from quant.finetune.relu_aware import CLOSED_WEIGHT, InputSample, refine_behind_activation
from tests.quant.finetune.problems import Array, Layer, grid_for, layer


def sample_of(a: Layer, high: float = np.inf) -> InputSample:
    inputs = (
        np.ascontiguousarray(part.swapaxes(1, 2), np.float32) for part in (a.inputs, a.quantized_inputs)
    )
    return InputSample(*inputs, high)


def behind(a: Layer, quantized: Array, bias: Array, high: float) -> Array:
    """Mean squared error behind the activation function, from the samples; shape (groups, out)."""
    wanted = a.inputs @ a.weight.swapaxes(1, 2) + a.bias[:, None, :]
    got = a.quantized_inputs @ np.asarray(quantized, np.float64).swapaxes(1, 2) + bias[:, None, :]
    return np.asarray(((np.clip(wanted, 0, high) - np.clip(got, 0, high)) ** 2).mean(axis=1))


@pytest.mark.parametrize("update_bias", [False, True])
@pytest.mark.parametrize("high", [np.inf, 3.0])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("granularity", ["tensor", "block"])
def test_no_output_gets_worse_behind_the_activation_function(
    groups: int, high: float, granularity: str, update_bias: bool
) -> None:
    lower = []
    for seed in range(6):
        a = layer(seed, groups=groups, outputs=6, inputs=9, samples=300)
        grid = grid_for(a.weight, 3, granularity)
        problem = a.problem(grid)
        plain = finetune_layer(problem, Gptq(), update_bias=update_bias)
        refined = finetune_layer(
            dataclasses.replace(problem, sample=sample_of(a, high)), Gptq(), update_bias=update_bias
        )
        before, after = (behind(a, each.weight, each.bias, high) for each in (plain, refined))
        assert np.all(after <= before * (1 + 1e-5))
        np.testing.assert_array_equal(grid.round(refined.weight), refined.weight)
        loss = a.losses(refined.weight, refined.bias)
        assert np.all(loss <= a.losses(grid.round(problem.weight)) * (1 + 1e-5))
        assert refined.loss_after == pytest.approx(loss.sum(), rel=1e-4)
        lower.append(after.sum() / before.sum())
    assert np.mean(lower) < 0.97 or update_bias  # the mean of all errors, which stays 0, is worth more there


def test_no_change_of_a_single_value_lowers_the_weighted_loss() -> None:
    a = layer(3, outputs=4, inputs=8, samples=200)
    grid, sample = grid_for(a.weight, 4), sample_of(a)
    start, bias = grid.round(a.weight.astype(np.float32)), a.bias.astype(np.float32)
    wanted = (a.weight.astype(np.float32) @ sample.inputs) + bias[:, :, None]
    weights = sample.weights(wanted, start @ sample.quantized_inputs + bias[:, :, None])
    assert set(np.unique(weights)) == {np.float32(CLOSED_WEIGHT), np.float32(1)}

    def loss(values: Array) -> Array:
        error = values @ sample.quantized_inputs + bias[:, :, None] - wanted
        return np.asarray((weights * error**2).sum(axis=-1, dtype=np.float64))

    found = refine_behind_activation(sample, wanted, start, bias, grid)
    least = loss(found)
    assert np.all(least <= loss(start)) and least.sum() < 0.9 * loss(start).sum()
    for index in range(8):
        for step in (-1, 1):
            other = found.copy()
            other[..., index] += step * grid.scale[..., 0]
            assert np.all(loss(grid.round(other)) >= least - 2e-5 * loss(start))


def test_the_same_in_the_strictest_namespace() -> None:
    a = layer(1, groups=2, inputs=10)
    grid = grid_for(a.weight)
    problem = dataclasses.replace(a.problem(grid), sample=sample_of(a, 2.0))
    put: Any = lambda array: strict.asarray(np.array(array))  # noqa: E731
    parts = vars(problem.moments).values()
    moments = type(problem.moments)(*(None if part is None else put(part) for part in parts))
    sample = sample_of(a, 2.0)
    other = LayerProblem(
        put(problem.weight),
        moments,
        UniformGrid(put(grid.scale), put(grid.zero_point), grid.qmin, grid.qmax),
        put(problem.bias),
        InputSample(put(sample.inputs), put(sample.quantized_inputs), 2.0),
    )
    expected, found = (finetune_layer(each, Gptq(), update_bias=True) for each in (problem, other))
    np.testing.assert_allclose(np.asarray(found.weight), expected.weight, rtol=1e-5, atol=1e-6)
    assert found.loss_after == pytest.approx(expected.loss_after, rel=1e-4)
