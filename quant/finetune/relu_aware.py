"""Refinement of a rounded weight by the error behind the layer's activation function."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from quant.finetune.grid import Array, RoundingGrid

CLOSED_WEIGHT = 0.02
"""What a squared error counts where both outputs are cut off, against 1 elsewhere: a sample is not all."""

TOLERANCE = 1e-5
"""Least decrease that counts, as a share of the output's loss at the start."""


@dataclass(frozen=True)
class InputSample:
    """Some columns of the input of a layer whose outputs are cut off at both ends right behind it.

    Attributes:
        inputs: x of the float model, shape (groups, in, count), float32.
        quantized_inputs: x̂ of the quantized one, the same columns.
        high: Where outputs are cut off above, infinity for a Relu; below they are at 0.
    """

    inputs: Array
    quantized_inputs: Array
    high: float

    def losses(self, wanted: Array, got: Array) -> Array:
        """Mean squared error behind the activation function of outputs before it; shape (groups, out)."""
        xp = array_namespace(wanted)
        error = self._cut(wanted) - self._cut(got)
        return xp.mean(error * error, axis=-1)

    def weights(self, wanted: Array, got: Array) -> Array:
        """1 where either output is passed on, else `CLOSED_WEIGHT`; of the outputs' shape and dtype."""
        xp = array_namespace(wanted)
        passed = ((wanted > 0) | (got > 0)) & ((wanted < self.high) | (got < self.high))
        return xp.where(passed, xp.ones_like(wanted), CLOSED_WEIGHT * xp.ones_like(wanted))

    def _cut(self, outputs: Array) -> Array:
        xp = array_namespace(outputs)
        cut = xp.where(outputs > 0, outputs, xp.zeros_like(outputs))
        return (
            xp.where(cut < self.high, cut, self.high * xp.ones_like(cut)) if self.high < float("inf") else cut
        )


def refine_behind_activation(
    sample: InputSample, wanted: Array, start: Array, bias: Array, grid: RoundingGrid
) -> Array:
    """Coordinate descent on Σ_n m_n (ŷ_n − y_n)² for each output, m = `InputSample.weights` at the start.

    With e_n = m_n (ŷ_n − y_n), a value q_j alone is best at round(q_j − Σ_n e_n x̂_jn / Σ_n m_n x̂_jn²), and
    as in `coordinate_descent` every output changes the one value that gains the most, all outputs at the
    same time, at most as often as there are inputs. The second moments that m makes are of each output
    its own; they are never formed: memory is a few arrays of shape (groups, out, count).

    Args:
        sample: Of the layer's inputs.
        wanted: y = W x + b of the float model at the sample, shape (groups, out, count).
        start: Values on the grid, shape (groups, out, in).
        bias: Of the quantized layer, shape (groups, out).
        grid: Where values may lie.

    Returns:
        Values on the grid, for each output of no greater weighted loss on the sample.
    """
    xp = array_namespace(start)
    groups, outputs, inputs = start.shape
    x = sample.quantized_inputs
    count = x.shape[-1]
    transposed = xp.asarray(xp.matrix_transpose(x), copy=True)
    rows = xp.reshape(x, (groups * inputs, count))
    first_row = inputs * xp.arange(groups, device=start.device)[:, None]
    index = xp.arange(inputs, device=start.device)

    got = start @ x + bias[:, :, None]
    weights = sample.weights(wanted, got)
    curvature = weights @ (transposed * transposed)
    live = curvature > 1e-6 * xp.max(curvature, axis=-1, keepdims=True)
    inverse = xp.where(live, 1 / xp.where(live, curvature, xp.ones_like(curvature)), xp.zeros_like(curvature))
    error = (got - wanted) * weights
    tolerance = -TOLERANCE * xp.sum(error * (got - wanted), axis=-1, keepdims=True)
    quantized = xp.asarray(start, copy=True)
    for _ in range(inputs):
        half_gradient = error @ transposed
        move = grid.round(quantized - half_gradient * inverse) - quantized
        gain = move * (curvature * move + 2 * half_gradient)
        best = xp.argmin(gain, axis=-1)
        chosen = (index == best[:, :, None]) & (gain < tolerance)
        if not bool(xp.any(chosen)):
            break
        move = move * xp.astype(chosen, move.dtype)
        quantized = quantized + move
        taken = xp.take(rows, xp.reshape(first_row + best, (groups * outputs,)), axis=0)
        change = xp.sum(move, axis=-1, keepdims=True) * xp.reshape(taken, (groups, outputs, count))
        error = error + change * weights
    return grid.round(quantized)
