"""Small layers with known inputs, and what is computed from these directly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.finetune import InputMoments, LayerProblem, UniformGrid, repeat_blocks

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """W (groups, out, in), b (groups, out), inputs x and x̂ (groups, samples, in); float64."""

    weight: Array
    bias: Array
    inputs: Array
    quantized_inputs: Array

    def moments(self, float_gram: bool = True) -> InputMoments:
        x, y = self.inputs, self.quantized_inputs
        n = x.shape[1]
        gram = x.swapaxes(1, 2) @ x / n if float_gram else None
        return InputMoments(
            y.swapaxes(1, 2) @ y / n, x.swapaxes(1, 2) @ y / n, x.mean(axis=1), y.mean(axis=1), gram
        )

    def errors(self, quantized: Array, bias: Array | None = None) -> Array:
        """W x + b − Q x̂ − b', shape (groups, samples, out)."""
        shift = 0.0 if bias is None else (self.bias - bias)[:, None, :]
        wanted = self.inputs @ self.weight.swapaxes(1, 2)
        return wanted + shift - self.quantized_inputs @ np.asarray(quantized, np.float64).swapaxes(1, 2)

    def losses(self, quantized: Array, bias: Array | None = None) -> Array:
        """Mean squared error of each output, from the samples themselves; shape (groups, out)."""
        return np.asarray((self.errors(quantized, bias) ** 2).mean(axis=1))

    def problem(self, grid: UniformGrid, dtype: Any = np.float32, float_gram: bool = True) -> LayerProblem:
        return LayerProblem(
            self.weight.astype(dtype), self.moments(float_gram), grid, self.bias.astype(dtype)
        )


def layer(
    seed: int, groups: int = 1, outputs: int = 3, inputs: int = 8, samples: int = 50, noise: float = 0.05
) -> Layer:
    """Correlated inputs that are not negative, as behind a Relu; x̂ = x + noise."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((groups, samples, inputs)) @ rng.standard_normal((groups, inputs, inputs))
    x = np.maximum(mixed + 0.5, 0)
    y = x + noise * rng.standard_normal(x.shape)
    weight = rng.standard_normal((groups, outputs, inputs)).astype(np.float32).astype(np.float64)
    bias = rng.standard_normal((groups, outputs)).astype(np.float32).astype(np.float64)
    return Layer(weight, bias, x, y)


def grid_for(
    weight: Array,
    bits: int = 4,
    granularity: str = "channel",
    symmetric: bool = True,
    dtype: Any = np.float32,
) -> UniformGrid:
    """One scale for the tensor, for each channel, or for each block of three inputs of a channel."""
    groups, outputs, inputs = weight.shape
    blocks = weight[..., None, :]
    if granularity == "block":
        padded = np.pad(weight, ((0, 0), (0, 0), (0, -inputs % 3)))
        blocks = padded.reshape(groups, outputs, -1, 3)
    axes = None if granularity == "tensor" else -1
    low, high = np.minimum(blocks.min(axis=axes), 0), np.maximum(blocks.max(axis=axes), 0)
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    width = 2 * np.maximum(-low, high) if symmetric else high - low
    scale = np.where(width > 0, width / (qmax - qmin), 1.0).astype(dtype)
    zero_point = np.zeros_like(scale) if symmetric else np.rint(qmin - low / scale)
    zero_point = zero_point.astype(np.int32)
    if granularity == "block":
        scale, zero_point = (repeat_blocks(p, 3, inputs) for p in (scale, zero_point))
    return UniformGrid(scale, zero_point, qmin, qmax)


def roundings(*choices: Array) -> Array:
    """All ways to round one output, each value to one of its choices; these of shape (in,)."""
    return np.array(list(product(*zip(*choices, strict=True))))
