"""Adam on one array, in place, and the rules for its learning rate and its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from array_api_compat import array_namespace

from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.quadratic import Quadratic

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
_FLUSH_EVERY, _FLUSH_BELOW = 128, 1e-30


class Adam:
    """State of the optimiser (Kingma and Ba, 2015, arXiv:1412.6980) of one array.

        m ← β₁ m + (1 − β₁) g,    u ← β₂ u + (1 − β₂) g²
        x ← x − α m / (1 − β₁ᵗ) / (√(u / (1 − β₂ᵗ)) + ε)

    m and u are kept without their factors 1 − β, and ε is added before the corrections: fewer passes
    over the arrays, and the same steps but where gradients are about as small as ε.
    """

    def __init__(self, parameter: Array) -> None:
        xp = array_namespace(parameter)
        self.first = xp.zeros_like(parameter)
        self.second = xp.zeros_like(parameter)
        self.step = 0

    def update(self, parameter: Array, gradient: Array, learning_rate: float) -> None:
        """One step of `parameter`, in place; `gradient` is used as working memory."""
        xp = array_namespace(parameter)
        self.step += 1
        first = (1 - BETA1) / (1 - BETA1**self.step)
        second = (1 - BETA2) / (1 - BETA2**self.step)
        self.first *= BETA1
        self.first += gradient
        gradient *= gradient
        self.second *= BETA2
        self.second += gradient
        change = xp.sqrt(self.second)
        change += EPSILON
        change = self.first / change
        change *= learning_rate * first / math.sqrt(second)
        parameter -= change
        if self.step % _FLUSH_EVERY == 0:  # where gradients ended, m would decay to slow denormals
            self.first *= xp.astype(xp.abs(self.first) > _FLUSH_BELOW, self.first.dtype)


def adjusted_learning_rate(
    learning_rate: float, adjust: tuple[float, float] | None, quadratic: Quadratic, grid: RoundingGrid
) -> float:
    """The second of `adjust` where nearest rounding has a mean squared error above the first.

    The mean is over samples and outputs; without `adjust`, `learning_rate` it is.
    """
    if adjust is None:
        return learning_rate
    xp = array_namespace(quadratic.weight)
    threshold, other = adjust
    error = float(xp.mean(quadratic.losses(grid.round(quadratic.weight))))
    return other if error > threshold else learning_rate


@dataclass(frozen=True)
class Progress:
    """Whom to tell of the loss during the iterations.

    Attributes:
        period: Iterations between two reports.
        report: Takes the iteration and the loss of the weights as rounded then.
    """

    period: int
    report: Callable[[int, float], None]

    def is_due(self, iteration: int) -> bool:
        """Whether this iteration is to be reported."""
        return iteration % self.period == 0


class Plateau:
    """Whether a loss, told from time to time, has stopped falling."""

    def __init__(self, patience: int = 2) -> None:
        self.patience = patience
        self.least = math.inf
        self.rises = 0

    def reached(self, loss: float) -> bool:
        """True when the least loss so far was not beaten `patience` times in a row."""
        self.rises = 0 if loss < self.least else self.rises + 1
        self.least = min(self.least, loss)
        return self.rises >= self.patience
