"""A layer's reconstruction loss as a quadratic form of its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from quant.finetune.grid import Array
from quant.finetune.moments import InputMoments


@dataclass(frozen=True)
class Quadratic:
    """The mean squared error E|W x − Q x̂|² of a layer's outputs, of each output by itself.

    With G = E[x̂ x̂ᵀ], C = E[x x̂ᵀ] and E = Q − W,

        loss(Q) = tr(Q G Qᵀ) − 2 tr(W C Qᵀ) + tr(W E[x xᵀ] Wᵀ)
                = tr(E G Eᵀ) + 2 tr(R Eᵀ) + constant,    R = W (G − C),    ∂loss/∂Q = 2 (E G + R)

    The second form is the one computed: its terms are as small as the error itself, so that float32
    suffices for the steps of an algorithm, where in the first one they cancel.

    Attributes:
        weight: W, shape (groups, out, in).
        gram: G, shape (groups, in, in).
        linear: R, shape (groups, out, in).
        constant: The loss of the float weight, which sees quantized inputs too; shape (groups, out).
    """

    weight: Array
    gram: Array
    linear: Array
    constant: Array

    @classmethod
    def of(cls, weight: Array, moments: InputMoments) -> Quadratic:
        """Everything in the dtype of the moments.

        With `moments.shift`, R = E[r x̂ᵀ] and the constant is E[r²] for each output. Otherwise moments
        without `float_gram` make the constant 0: losses are then the increase over that of
        the float weight, negative where Q undoes some of the error of the inputs.
        """
        xp = array_namespace(weight)
        weight = xp.astype(weight, moments.gram.dtype)
        if moments.shift is not None:
            return cls(weight, moments.gram, moments.shift.product, moments.shift.power)
        if moments.cross is None:
            raise ValueError("moments: they have neither cross nor shift")
        linear = weight @ (moments.gram - moments.cross)
        if moments.float_gram is None:
            return cls(weight, moments.gram, linear, xp.zeros_like(linear[:, :, 0]))
        difference = moments.gram + moments.float_gram - moments.cross
        difference = difference - xp.matrix_transpose(moments.cross)  # E[(x − x̂)(x − x̂)ᵀ]
        constant = xp.sum((weight @ difference) * weight, axis=-1)
        return cls(weight, moments.gram, linear, constant)

    def astype(self, dtype: Any) -> Quadratic:
        """The same loss in another floating-point type."""
        xp = array_namespace(self.weight)
        parts = (self.weight, self.gram, self.linear, self.constant)
        return Quadratic(*(xp.astype(part, dtype, copy=False) for part in parts))

    @property
    def curvature(self) -> Array:
        """The diagonal of G, half the second derivative along each input; shape (groups, 1, in)."""
        xp = array_namespace(self.gram)
        return xp.linalg.diagonal(self.gram)[:, None, :]

    def half_gradient(self, quantized: Array) -> Array:
        """E G + R, shape (groups, out, in)."""
        return (quantized - self.weight) @ self.gram + self.linear

    def losses(self, quantized: Array) -> Array:
        """The loss of each output, shape (groups, out)."""
        xp = array_namespace(quantized)
        error = quantized - self.weight
        return xp.sum(error * (error @ self.gram + 2 * self.linear), axis=-1) + self.constant

    def damped_gram(self, damping: float) -> Array:
        """G + δ I in float64, δ = damping × mean(diag G), or 1 for a group whose inputs are all zero."""
        xp = array_namespace(self.gram)
        shift = damping * xp.mean(xp.astype(self.curvature, xp.float64), axis=-1, keepdims=True)
        shift = xp.where(shift > 0, shift, xp.ones_like(shift))
        alike = xp.eye(self.gram.shape[-1], dtype=xp.float64, device=self.gram.device)
        return xp.astype(self.gram, xp.float64) + shift * alike

    def optimum(self, damping: float) -> Array:
        """The unquantized weight of least loss, W* = (W C + δ W) (G + δ I)⁻¹ = W − R (G + δ I)⁻¹.

        It is what the asymmetric variants of the algorithms round: W itself where x̂ = x, and else the
        weight that undoes as much as it can of the error of the inputs. δ is that of `damped_gram`:
        it keeps W* near W in directions that the inputs hardly take.
        """
        xp = array_namespace(self.weight)
        if not bool(xp.any(self.linear != 0)):
            return self.weight
        linear = xp.astype(xp.matrix_transpose(self.linear), xp.float64)
        change = xp.matrix_transpose(xp.linalg.solve(self.damped_gram(damping), linear))
        return self.weight - xp.astype(change, self.weight.dtype)

    def step_curvature(self, step: Array) -> Array:
        """Mean over the inputs of step² diag G: 12 / in times the expected loss of nearest rounding.

        The natural unit of an output's loss, by which steps and penalties are made independent of the
        magnitude of the layer. Shape (groups, out, 1); 1 where it would be 0.
        """
        xp = array_namespace(step)
        unit = xp.mean(step * step * self.curvature, axis=-1, keepdims=True)
        return xp.where(unit > 0, unit, xp.ones_like(unit))
