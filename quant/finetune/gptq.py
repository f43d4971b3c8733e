"""GPTQ: one input after another, the error of each made up for by those that follow."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from quant.finetune.grid import Array, RoundingGrid
from quant.finetune.quadratic import Quadratic

BLOCK = 64
"""Inputs whose errors are gathered before they are passed on to all others."""


@dataclass(frozen=True)
class Gptq:
    """Greedy minimiser of |Q X̂ − W X|², all outputs and groups at once.

    Frantar et al., 2022 (arXiv:2210.17323), in the form of Chee et al., 2023 (arXiv:2307.13304,
    th. 6), which needs no inverse: with the factors G + δ I = U D Uᵀ, U unit upper triangular, and
    the target W*,

        q_j = round(w*_j + Σ_{i<j} (w*_i − q_i) U_ij)    for j = 0, 1, ...

    The target is the optimum (`Quadratic.optimum`): W where the layer sees float inputs, else the
    weight that undoes the error of the quantized ones.

    Attributes:
        damping: δ as a fraction of mean(diag G).
        act_order: Take inputs in order of falling energy diag G (summed over groups, each first
            scaled to the same total), not as they come. Measured: mostly lower losses, at no cost.
    """

    damping: float = 0.01
    act_order: bool = True

    def solve(self, quadratic: Quadratic, grid: RoundingGrid) -> tuple[Array, int]:
        """The rounded weight, shape (groups, out, in), and 1, the number of passes."""
        return self.pass_over(quadratic, grid)[0], 1

    def pass_over(self, quadratic: Quadratic, grid: RoundingGrid) -> tuple[Array, Array]:
        """The rounded weight, and what each value was rounded from; both of shape (groups, out, in)."""
        xp = array_namespace(quadratic.weight)
        target, gram = quadratic.optimum(self.damping), quadratic.damped_gram(self.damping)
        if not self.act_order:
            return _sweep(target, _unit_upper_factor(gram), grid)
        energy = xp.linalg.diagonal(gram)
        order = xp.argsort(-xp.sum(energy / xp.sum(energy, axis=-1, keepdims=True), axis=0), stable=True)
        gram = xp.take(xp.take(gram, order, axis=1), order, axis=2)
        swept = _sweep(xp.take(target, order, axis=2), _unit_upper_factor(gram), grid.columns(order))
        rounded, shifted = (xp.take(part, xp.argsort(order), axis=2) for part in swept)
        return rounded, shifted


def _unit_upper_factor(gram: Array) -> Array:
    """U of G = U D Uᵀ, by Cholesky's factors from the last row to the first; float64."""
    xp = array_namespace(gram)
    flipped = xp.linalg.cholesky(xp.flip(gram, axis=(1, 2)))
    upper = xp.flip(flipped, axis=(1, 2))
    return upper / xp.linalg.diagonal(upper)[:, None, :]


def _sweep(target: Array, upper: Array, grid: RoundingGrid) -> tuple[Array, Array]:
    """Rounds column after column, in blocks; within one, columns are the first axis, so contiguous.

    Returns:
        The rounded columns, and these before they were rounded.
    """
    xp = array_namespace(target)
    upper = xp.astype(upper, target.dtype)
    rounded, shifted = xp.zeros_like(target), xp.zeros_like(target)
    for start in range(0, target.shape[-1], BLOCK):
        block = slice(start, min(start + BLOCK, target.shape[-1]))
        error = target[:, :, :start] - rounded[:, :, :start]
        wanted = xp.asarray(xp.permute_dims(target[:, :, block], (2, 0, 1)), copy=True)
        own = wanted + xp.permute_dims(error @ upper[:, :start, block], (2, 0, 1))
        local = xp.asarray(xp.permute_dims(upper[:, block, block], (1, 2, 0)), copy=True)[:, :, :, None]
        found = xp.zeros_like(own)
        for j in range(block.stop - start):
            column = grid.columns(slice(start + j, start + j + 1)).round(own[j, :, :, None])[:, :, 0]
            found[j, :, :] = column
            own[j + 1 :, :, :] += local[j, j + 1 :, :, :] * (wanted[j, :, :] - column)
        rounded[:, :, block] = xp.permute_dims(found, (1, 2, 0))
        shifted[:, :, block] = xp.permute_dims(own, (1, 2, 0))
    return rounded, shifted
