"""AdaRound: whether each weight rounds down or up, learned by gradient descent on a relaxation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from array_api_compat import array_namespace

from quant.finetune.adam import Adam, Plateau, Progress, adjusted_learning_rate
from quant.finetune.gptq import Gptq
from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.quadratic import Quadratic

STRETCH = 1.2
"""ζ − γ of the rectified sigmoid with ζ = 1.1 and γ = −0.1."""

LOSS_UNIT = 100.0
"""Unit of the loss that the regulariser is added to, in `Quadratic.step_curvature`.

So chosen that the paper's λ = 0.01 lies within the range in which the result hardly depends on it:
0.003 to 0.1, measured on layers of 9 to 192 inputs at 4 and 8 bits."""

CHECK_EVERY = 50
"""Iterations between looks at whether to stop."""


@dataclass(frozen=True)
class AdaRound:
    """Minimises loss(Q(V)) + λ Σ (1 − |2 h(V) − 1|^β) over V, with Q(V) = lower + h(V) (upper − lower).

    h(V) = clip(σ(V) (ζ − γ) + γ, 0, 1) is the rectified sigmoid, β falls along half a cosine over
    `beta_range`, and the optimiser is Adam with the gradient over all samples, 2 (E G + R). Rounds
    up where h(V) >= 1/2 in the end (Nagel et al., 2020, arXiv:2004.10568, eqs. 21 to 24).

    Departures: V starts not from W but from what `Gptq` rounds, whose neighbours on the grid lower and upper
    are, and each output takes GPTQ's rounding if its loss is smaller in the end. W's own neighbours can
    undo little of the errors of the inputs and of each other; so half as many iterations lead further. Each
    output's loss is counted in units of `LOSS_UNIT` × `Quadratic.step_curvature`, so that λ fits layers
    of any magnitude.

    Attributes:
        num_iterations: At most; it ends as soon as every h is 0 or 1, when nothing could change.
        learning_rate: α of Adam on V.
        reg_param: λ.
        beta_range: β at the start and at the end, both at least 1.
        warm_start: Share of the iterations without the regulariser.
        early_stop: End too when, after the warm start, the loss of the weights as they would now be
            rounded has not fallen at four successive looks, 50 iterations apart.
        lr_adjust: (threshold, learning rate): see `adjusted_learning_rate`.
        damping: Of GPTQ.
        progress: Whom to tell of the loss, and how often.
    """

    num_iterations: int = 50
    learning_rate: float = 0.1
    reg_param: float = 0.01
    beta_range: tuple[float, float] = (20.0, 2.0)
    warm_start: float = 0.2
    early_stop: bool = False
    lr_adjust: tuple[float, float] | None = None
    damping: float = 0.01
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.beta_range) < 1:
            raise ValueError(f"beta_range: {self.beta_range}: the penalty needs exponents of at least 1")

    def solve(self, quadratic: Quadratic, grid: RoundingGrid) -> tuple[Array, int]:
        """The rounded weight, shape (groups, out, in), and the number of iterations."""
        first, shifted = Gptq(self.damping).pass_over(quadratic, grid)
        relaxation = _Relaxation(quadratic, grid, shifted)
        iterations = self._descend(relaxation, quadratic, grid)
        xp, last = array_namespace(first), relaxation.rounded()
        better = quadratic.losses(last) < quadratic.losses(first)
        return xp.where(better[:, :, None], last, first), iterations

    def _descend(self, relaxation: _Relaxation, quadratic: Quadratic, grid: RoundingGrid) -> int:
        """Changes the logits of the relaxation; returns the number of iterations."""
        xp = array_namespace(quadratic.weight)
        learning_rate = adjusted_learning_rate(self.learning_rate, self.lr_adjust, quadratic, grid)
        adam, plateau = Adam(relaxation.logits), Plateau(patience=4)
        for iteration in range(self.num_iterations):
            beta = self.beta(iteration)
            penalty = 0.0 if beta is None else self.reg_param
            gradient = relaxation.gradient(penalty, beta or 1.0)
            adam.update(relaxation.logits, gradient, learning_rate / 2)  # of V / 2
            if self.progress is not None and self.progress.is_due(iteration):
                self.progress.report(iteration, float(xp.sum(quadratic.losses(relaxation.rounded()))))
            if beta is None or iteration % CHECK_EVERY:
                continue
            if relaxation.decided():
                return iteration + 1
            if self.early_stop and plateau.reached(float(xp.sum(quadratic.losses(relaxation.rounded())))):
                return iteration + 1
        return self.num_iterations

    def beta(self, iteration: int) -> float | None:
        """Exponent of the regulariser; None during the warm start."""
        warm = self.warm_start * self.num_iterations
        if iteration < warm:
            return None
        start, end = self.beta_range
        progress = (iteration - warm) / (self.num_iterations - warm)
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class _Relaxation:
    """The weight as a function of V, in centred form: c = 2 h − 1, Q = middle + c (upper − lower) / 2.

    Since 2 σ(V) − 1 = tanh(V / 2), c = clip(1.2 tanh(V / 2), −1, 1), which takes fewer passes.

    Attributes:
        logits: V / 2, shape (groups, out, in); changed in place by the optimiser.
    """

    def __init__(self, quadratic: Quadratic, grid: RoundingGrid, start: Array) -> None:
        """Takes the values that it starts from, shape (groups, out, in); their neighbours are its choices."""
        xp = array_namespace(start)
        self.gram = quadratic.gram
        self.most = xp.ones((), dtype=start.dtype, device=start.device)
        self.least = -self.most
        self.lower, self.upper = grid.lower(start), grid.upper(start)
        self.half = (self.upper - self.lower) / 2
        fixed = self.half == 0  # saturated: there is nothing to choose
        one = xp.ones_like(self.half)
        centre = (start - self.lower) / xp.where(fixed, one, self.half) - 1
        centre = xp.where(fixed, one, xp.clip(centre, -1.0, 1.0))
        self.logits = xp.atanh(centre / STRETCH)
        unit = LOSS_UNIT * quadratic.step_curvature(2 * self.half)
        self.factor = 2 * self.half / unit
        self.offset = quadratic.half_gradient(self.lower + self.half) * self.factor

    def gradient(self, penalty: float, beta: float) -> Array:
        """Of loss / unit + λ Σ (1 − |c|^β), with respect to V / 2."""
        xp = array_namespace(self.logits)
        tanh = xp.tanh(self.logits)
        stretched = STRETCH * tanh
        centre = xp.minimum(xp.maximum(stretched, self.least), self.most)
        gradient = (self.half * centre) @ self.gram
        gradient *= self.factor
        gradient += self.offset
        if penalty:
            power = xp.abs(centre) ** (beta - 1)
            power *= xp.sign(centre)
            power *= penalty * beta
            gradient -= power
        tanh *= tanh
        tanh *= -STRETCH
        tanh += STRETCH  # derivative of the stretched tanh
        gradient *= tanh
        gradient *= xp.astype(stretched == centre, gradient.dtype)  # and of the clip
        return gradient

    def decided(self) -> bool:
        """Whether every c is −1 or 1, where gradients vanish."""
        xp = array_namespace(self.logits)
        return bool(xp.all(STRETCH * xp.abs(xp.tanh(self.logits)) >= 1))

    def rounded(self) -> Array:
        xp = array_namespace(self.logits)
        return xp.where(self.logits >= 0, self.upper, self.lower)
