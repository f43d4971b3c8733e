from __future__ import annotations

import numpy as np
import pytest

from quant.finetune import InputMoments
from tests.quant.finetune.problems import Layer, layer

PARTS = ("gram", "cross", "mean", "quantized_mean", "float_gram")


def assert_equal_moments(a: InputMoments, b: InputMoments, tolerance: float = 1e-10) -> None:
    for part in PARTS:
        np.testing.assert_allclose(getattr(a, part), getattr(b, part), rtol=tolerance, atol=tolerance)


def test_centred_are_those_of_the_centred_inputs() -> None:
    a = layer(1, groups=2)
    x, y = a.inputs, a.quantized_inputs
    shifted = Layer(a.weight, a.bias, x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True))
    assert_equal_moments(a.moments().centred(), shifted.moments())


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_dropped_is_the_mean_over_all_masks(ratio: float) -> None:
    a = layer(2, groups=2, inputs=4, samples=10)
    expected = {part: np.zeros_like(getattr(a.moments(), part)) for part in PARTS}
    for bits in range(2**4):
        mask = np.array([bits >> i & 1 for i in range(4)], dtype=bool)
        probability = np.prod(np.where(mask, ratio, 1 - ratio))
        mixed = Layer(a.weight, a.bias, a.inputs, np.where(mask, a.quantized_inputs, a.inputs)).moments()
        for part in PARTS:
            expected[part] += probability * getattr(mixed, part)
    assert_equal_moments(a.moments().dropped(ratio), InputMoments(**expected))


def test_dropping_needs_the_float_gram() -> None:
    with pytest.raises(ValueError, match="float_gram"):
        layer(0).moments(float_gram=False).dropped(0.5)
    layer(0).moments(float_gram=False).dropped(1.0)
