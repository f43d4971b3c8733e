"""Finetuning of one layer: which loss, which algorithm, and never worse than before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from array_api_compat import array_namespace

from quant.errors import DataError
from quant.finetune.bias import corrected_bias
from quant.finetune.coordinate_descent import coordinate_descent
from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.moments import InputMoments
from quant.finetune.quadratic import Quadratic
from quant.finetune.relu_aware import InputSample, refine_behind_activation


class Algorithm(Protocol):
    """What rounds a weight: `AdaRound`, `AdaQuant`, `Gptq`."""

    def solve(self, quadratic: Quadratic, grid: RoundingGrid) -> tuple[Array, int]:
        """A weight on the grid, shape (groups, out, in), and the number of iterations."""


@dataclass(frozen=True)
class LayerProblem:
    """A layer y = W x + b to be quantized.

    Attributes:
        weight: W, shape (groups, out, in), floating point; an ordinary layer has one group.
        moments: Of its inputs.
        grid: The values that W may take, each weight's own.
        bias: b, shape (groups, out), or None where the layer has none.
        sample: Of its inputs, if its weight is to be refined by the error behind its Relu or Clip.

    Raises:
        ValueError: If shapes do not agree.
        DataError: If weight or moments are not finite.
    """

    weight: Array
    moments: InputMoments
    grid: RoundingGrid
    bias: Array | None = None
    sample: InputSample | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 3:
            raise ValueError(f"weight: shape {self.weight.shape}; reshape it to (groups, out, in)")
        groups, outputs, inputs = self.weight.shape
        square, vector, rows = (groups, inputs, inputs), (groups, inputs), (groups, outputs)
        shift = self.moments.shift
        expected = {
            "moments.gram": (self.moments.gram, square),
            "moments.cross": (self.moments.cross, square),
            "moments.float_gram": (self.moments.float_gram, square),
            "moments.mean": (self.moments.mean, vector),
            "moments.quantized_mean": (self.moments.quantized_mean, vector),
            "moments.shift.product": (shift and shift.product, (*rows, inputs)),
            "moments.shift.mean": (shift and shift.mean, rows),
            "moments.shift.power": (shift and shift.power, rows),
            "bias": (self.bias, rows),
            "weight": (self.weight, (*rows, inputs)),
        }
        for name, (array, shape) in expected.items():
            if array is not None:
                _check(name, array, shape)


@dataclass(frozen=True)
class LayerResult:
    """A finetuned layer.

    Attributes:
        weight: Values on the grid, of shape and dtype of the problem's weight.
        bias: The corrected one, or the problem's (None too) where it was not to be updated.
        loss_before: Mean squared error, summed over the outputs, of nearest rounding with the given
            bias.
        loss_after: The same of `weight` and `bias`; never above `loss_before`.
        iterations: Of the algorithm.
        kept_outputs: Outputs for which nearest rounding was at least as good, and stays.
    """

    weight: Array
    bias: Array | None
    loss_before: float
    loss_after: float
    iterations: int
    kept_outputs: int

    @property
    def fell_back(self) -> bool:
        """Whether the whole layer keeps nearest rounding."""
        groups, outputs, _ = self.weight.shape
        return bool(self.kept_outputs == groups * outputs)


def finetune_layer(
    problem: LayerProblem, algorithm: Algorithm, *, update_bias: bool = False, refine: bool = True
) -> LayerResult:
    """Rounds the weight of a layer so that its outputs stay as near as may be to the float model's.

    The loss is E|W x + b − Q x̂ − b'|². With the bias fixed (b' = b) that is the quadratic of the plain
    moments. With the bias updated, b' = b + W x̄ − Q x̂̄ is the best one for any Q, and what remains is
    the same quadratic of the *centred* moments: the algorithm minimises that one, where errors of the
    mean cost nothing, and the bias follows in closed form. This is exact for every algorithm, so none
    of them needs to know of the bias. A layer without a bias is treated as with a fixed one.

    The outputs' losses are independent, so each one takes the better of its finetuned and its nearest
    rounding, judged in the dtype of the moments. Of what `refine_behind_activation` makes of that with a
    sample, it takes what has a smaller error behind the activation function too.

    Args:
        problem: The layer.
        algorithm: `AdaRound(...)`, `AdaQuant(...)` or `Gptq(...)`.
        update_bias: Whether the bias may change.
        refine: Follow with `coordinate_descent`.
    """
    xp = array_namespace(problem.weight)
    weight, grid, bias = problem.weight, problem.grid, problem.bias
    update_bias = update_bias and bias is not None
    exact = Quadratic.of(weight, problem.moments.centred() if update_bias else problem.moments)
    working = exact.astype(weight.dtype)
    nearest = grid.round(weight)
    finetuned, iterations = algorithm.solve(working, grid)
    if refine:
        finetuned, _ = coordinate_descent(working, grid, finetuned)
    finetuned = grid.round(finetuned)  # sums of moves may be off the grid by an ulp

    before, after = (exact.losses(xp.astype(q, exact.weight.dtype)) for q in (nearest, finetuned))
    better = after < before
    quantized = xp.where(better[:, :, None], finetuned, nearest)
    if problem.sample is not None:
        refined = _refined(problem, problem.sample, quantized, update_bias)
        after = exact.losses(xp.astype(refined, exact.weight.dtype))
        quantized = xp.where((after < before)[:, :, None], refined, quantized)
        after = exact.losses(xp.astype(quantized, exact.weight.dtype))
        better = after < before
    after = xp.where(better, after, before)
    loss_after = float(xp.sum(after))
    loss_before = float(xp.sum(before))
    if update_bias:
        plain = Quadratic.of(weight, problem.moments)
        loss_before = float(xp.sum(plain.losses(xp.astype(nearest, plain.weight.dtype))))
        bias = corrected_bias(weight, quantized, bias, problem.moments)
    kept = int(xp.sum(xp.astype(~better, xp.int64)))
    return LayerResult(quantized, bias, loss_before, loss_after, iterations, kept)


def _refined(problem: LayerProblem, sample: InputSample, start: Array, update_bias: bool) -> Array:
    """`start`, or for outputs where it has a smaller error behind the activation function, another weight."""
    xp = array_namespace(start)
    weight, zero = problem.weight, xp.zeros_like(problem.weight[:, :, 0])
    bias = zero if problem.bias is None else problem.bias

    def bias_for(quantized: Array) -> Array:
        return corrected_bias(weight, quantized, bias, problem.moments) if update_bias else bias

    wanted = weight @ sample.inputs + bias[:, :, None]
    refined = refine_behind_activation(sample, wanted, start, bias_for(start), problem.grid)
    before, after = (
        sample.losses(wanted, quantized @ sample.quantized_inputs + bias_for(quantized)[:, :, None])
        for quantized in (start, refined)
    )
    return xp.where((after < before)[:, :, None], refined, start)


def _check(name: str, array: Array, shape: tuple[int, ...]) -> None:
    xp = array_namespace(array)
    if tuple(array.shape) != shape:
        raise ValueError(f"{name}: shape {tuple(array.shape)}, but the weight needs {shape}")
    if not bool(xp.all(xp.isfinite(array))):
        raise DataError(f"{name}: has NaN or infinite values; look for them in the calibration data")
