"""AdaQuant: the weights themselves, moved by gradients that ignore their rounding."""

from __future__ import annotations

from dataclasses import dataclass, field

from array_api_compat import array_namespace

from quant.finetune.adam import Adam, Plateau, Progress, adjusted_learning_rate
from quant.finetune.gptq import Gptq
from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.quadratic import Quadratic

WINDOW = 50
"""Iterations whose losses are averaged for an early stop."""


_LEAST_STEP = 2.0**-8
"""Of the greatest of an output."""


@dataclass(frozen=True)
class AdaQuant:
    """Minimises loss(round(V)) over the continuous weight V (Hubara et al., 2020, arXiv:2006.10518, eq. 2).

    The straight-through gradient 2 (E G + R) of all samples, E = round(V) − W, moves V by Adam; the
    saturation of the grid is passed straight through as well, so that no weight gets stuck.

    Departures: scales stay as calibrated; the bias is not trained but eliminated in closed form (see
    `finetune_layer`); V starts at what `Gptq` makes of W; and each output keeps the best rounding that it
    passed, since the straight-through gradient never comes to rest.

    Attributes:
        num_iterations: At most.
        learning_rate: α of Adam in quantization steps (distances between neighbours on the grid), so
            that it means the same for every layer, format and width. A learning rate α' of weights, as
            other tools have it, is α' / scale.
        early_stop: End when the loss, averaged over 50 iterations, has not fallen twice in a row.
        lr_adjust: (threshold, learning rate): see `adjusted_learning_rate`.
        damping: Of GPTQ.
        progress: Whom to tell of the loss, and how often.
    """

    num_iterations: int = 50
    learning_rate: float = 0.005
    early_stop: bool = False
    lr_adjust: tuple[float, float] | None = None
    damping: float = 0.01
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def solve(self, quadratic: Quadratic, grid: RoundingGrid) -> tuple[Array, int]:
        """The rounded weight, shape (groups, out, in), and the number of iterations."""
        xp = array_namespace(quadratic.weight)
        weight = quadratic.weight
        step = _steps(weight, grid)
        factor = 2 * step / quadratic.step_curvature(step)
        learning_rate = adjusted_learning_rate(self.learning_rate, self.lr_adjust, quadratic, grid)
        best, _ = Gptq(self.damping).solve(quadratic, grid)
        moved = (best - weight) / step  # (V − W) in steps
        least = quadratic.losses(best) - quadratic.constant
        adam, plateau, window = Adam(moved), Plateau(), []
        for iteration in range(1, self.num_iterations + 1):
            quantized = grid.round(weight + step * moved)
            error = quantized - weight
            gradient = error @ quadratic.gram
            gradient += quadratic.linear
            error *= gradient + quadratic.linear
            losses = xp.sum(error, axis=-1)
            better = losses < least
            if bool(xp.any(better)):
                least = xp.where(better, losses, least)
                best = xp.where(better[:, :, None], quantized, best)
            if self.progress is not None and self.progress.is_due(iteration):
                self.progress.report(iteration, float(xp.sum(losses + quadratic.constant)))
            gradient *= factor
            adam.update(moved, gradient, learning_rate)
            if self.early_stop:
                window.append(float(xp.sum(losses)))
                if len(window) == WINDOW:
                    if plateau.reached(sum(window)):
                        return best, iteration
                    window = []
        return best, self.num_iterations


def _steps(weight: Array, grid: RoundingGrid) -> Array:
    """Distance of each weight's neighbours; where saturated the greatest of its output, or 1.

    At zero a floating-point grid is so fine that no number of steps would lead anywhere, so that none
    is taken to be less than a small part of the greatest.
    """
    xp = array_namespace(weight)
    step = grid.upper(weight) - grid.lower(weight)
    greatest = xp.max(step, axis=-1, keepdims=True)
    step = xp.where(step > 0, xp.maximum(step, _LEAST_STEP * greatest), greatest)
    return xp.where(step > 0, step, xp.ones_like(step))
