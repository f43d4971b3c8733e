from __future__ import annotations

import numpy as np

from quant.finetune import corrected_bias
from tests.quant.finetune.problems import grid_for, layer


def test_is_the_least_squares_bias() -> None:
    a = layer(0, groups=2)
    quantized = grid_for(a.weight, bits=3).round(a.weight.astype(np.float32))
    bias = corrected_bias(a.weight, quantized, a.bias, a.moments())
    np.testing.assert_allclose(a.errors(quantized, bias).mean(axis=1), 0, atol=1e-9)
    least = a.losses(quantized, bias)
    assert np.all(least < a.losses(quantized, a.bias))
    for shift in (-1e-3, 1e-3):
        assert np.all(least < a.losses(quantized, bias + shift))


def test_keeps_the_dtype_of_the_bias() -> None:
    a = layer(0)
    bias = corrected_bias(a.weight.astype(np.float32), a.weight, a.bias.astype(np.float32), a.moments())
    assert bias.dtype == np.float32
