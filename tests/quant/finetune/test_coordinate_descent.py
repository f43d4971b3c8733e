from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.finetune import Quadratic, coordinate_descent
from tests.quant.finetune.problems import Layer, grid_for, layer


def assert_local_minimum(a: Layer, quantized: np.ndarray, scale: np.ndarray, low: float, high: float) -> None:
    """No single step up or down lowers the loss, measured on the samples."""
    scale = np.broadcast_to(scale, quantized.shape)
    losses = a.losses(quantized)
    for index in np.ndindex(quantized.shape):
        for step in (-1, 1):
            changed = quantized.astype(np.float64)
            changed[index] += step * scale[index]
            if not low * scale[index] * 1.01 <= changed[index] <= high * scale[index] * 1.01:
                continue
            assert a.losses(changed)[index[:2]] > losses[index[:2]] * (1 - 1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([1, 3]), st.sampled_from(["tensor", "channel", "block"]))
def test_ends_in_a_local_minimum(seed: int, groups: int, granularity: str) -> None:
    a = layer(seed, groups=groups, inputs=7)
    grid = grid_for(a.weight, granularity=granularity)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    start = grid.round(quadratic.weight)
    quantized, changes = coordinate_descent(quadratic, grid, start, max_changes=1000)
    assert changes < 1000
    assert np.all(a.losses(quantized) <= a.losses(start) * (1 + 1e-6))
    assert_local_minimum(a, quantized, grid.scale, grid.qmin, grid.qmax)


def test_every_change_lowers_the_loss() -> None:
    a = layer(5, outputs=1, inputs=12, noise=0.3)
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    losses = []
    for changes in range(6):
        quantized, made = coordinate_descent(quadratic, grid, np.zeros_like(quadratic.weight), changes)
        assert made == changes
        losses.append(float(a.losses(quantized)[0, 0]))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_finds_the_exact_minimum_where_inputs_are_uncorrelated() -> None:
    a = layer(6, inputs=5)
    x = np.eye(5)[None] * np.arange(1, 6)
    a = Layer(a.weight, a.bias, x, x)
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    start = np.zeros_like(quadratic.weight)
    quantized, _ = coordinate_descent(quadratic, grid, start)
    np.testing.assert_allclose(quantized, grid.round(quadratic.weight), rtol=1e-6)


@pytest.mark.parametrize("start", ["nearest", "far"])
def test_inputs_that_are_always_zero_keep_their_weights(start: str) -> None:
    a = layer(7)
    x = a.inputs * (np.arange(8) != 2)
    a = Layer(a.weight, a.bias, x, x)
    grid = grid_for(a.weight)
    quadratic = Quadratic.of(a.weight, a.moments()).astype(np.float32)
    rounded = grid.round(quadratic.weight) if start == "nearest" else np.zeros_like(quadratic.weight)
    quantized, _ = coordinate_descent(quadratic, grid, rounded)
    np.testing.assert_array_equal(quantized[:, :, 2], rounded[:, :, 2])
