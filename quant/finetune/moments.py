"""First and second moments of a layer's inputs: all that finetuning knows of the data."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from quant.finetune.grid import Array


@dataclass(frozen=True)
class OutputShift:
    """Moments of r = W x̂ − W x, what the quantized inputs of a layer change of its outputs.

    All that finetuning needs of x beside its mean, and with fewer outputs than inputs less than E[x x̂ᵀ].

    Attributes:
        product: E[r x̂ᵀ], shape (groups, out, in).
        mean: E[r], shape (groups, out).
        power: E[r²], shape (groups, out).
    """

    product: Array
    mean: Array
    power: Array

    def centred(self, quantized_mean: Array) -> OutputShift:
        """Those of r − E[r] and x̂ − E[x̂]."""
        xp = array_namespace(self.product)
        product = self.product - _outer(self.mean, quantized_mean)
        return OutputShift(product, xp.zeros_like(self.mean), self.power - self.mean * self.mean)


@dataclass(frozen=True)
class InputMoments:
    """Means over all samples (and positions) of products of the inputs of a layer.

    x is an input vector in the float model and x̂ the same one in the quantized model, for each
    group of the layer. One dtype; float64 keeps the sums exact enough for any number of samples.

    Attributes:
        gram: E[x̂ x̂ᵀ], shape (groups, in, in).
        cross: E[x x̂ᵀ], shape (groups, in, in), or None where `shift` stands for it.
        mean: E[x], shape (groups, in).
        quantized_mean: E[x̂], shape (groups, in).
        float_gram: E[x xᵀ], shape (groups, in, in), or None where it was not collected: losses then
            leave out the part that no weight can change.
        shift: Of the layer with these inputs, or None where there is `cross`.
    """

    gram: Array
    cross: Array | None
    mean: Array
    quantized_mean: Array
    float_gram: Array | None = None
    shift: OutputShift | None = None

    def centred(self) -> InputMoments:
        """Covariances: the moments of x − E[x] and x̂ − E[x̂]."""
        xp = array_namespace(self.gram)
        zero = xp.zeros_like(self.mean)
        cross, float_gram, shift = self.cross, self.float_gram, self.shift
        return InputMoments(
            self.gram - _outer(self.quantized_mean, self.quantized_mean),
            None if cross is None else cross - _outer(self.mean, self.quantized_mean),
            zero,
            zero,
            None if float_gram is None else float_gram - _outer(self.mean, self.mean),
            None if shift is None else shift.centred(self.quantized_mean),
        )

    def dropped(self, ratio: float) -> InputMoments:
        """The moments where each input of the layer is quantized with probability `ratio`, else float.

        With independent masks m_i, x̃_i = m_i x̂_i + (1 − m_i) x_i and p the ratio,

            E[x̃_i x̃_j] = p² x̂_i x̂_j + p (1 − p) (x_i x̂_j + x̂_i x_j) + (1 − p)² x_i x_j    (i ≠ j)
            E[x̃_i x̃_i] = p x̂_i² + (1 − p) x_i²,    E[x_i x̃_j] = p x_i x̂_j + (1 − p) x_i x_j

        which is exactly what random dropping (Wei et al., 2022, arXiv:2203.05740) averages to.

        Raises:
            ValueError: If `float_gram` or `cross` is missing and the ratio is not 1.
        """
        if ratio == 1:
            return self
        if self.float_gram is None or self.cross is None:
            raise ValueError(f"ratio: {ratio} needs cross, E[x x̂ᵀ], and float_gram, E[x xᵀ]; or use 1")
        xp = array_namespace(self.gram)
        p, float_gram = ratio, self.float_gram
        both = self.cross + xp.matrix_transpose(self.cross)
        mixed = p * p * self.gram + p * (1 - p) * both + (1 - p) ** 2 * float_gram
        alike = xp.eye(self.gram.shape[-1], dtype=self.gram.dtype, device=self.gram.device)
        variance = p * (1 - p) * (self.gram + float_gram - both)  # of the mask, on the diagonal
        return InputMoments(
            mixed + variance * alike,
            p * self.cross + (1 - p) * float_gram,
            self.mean,
            p * self.quantized_mean + (1 - p) * self.mean,
            float_gram,
        )


def _outer(a: Array, b: Array) -> Array:
    """(groups, in), (groups, in) -> (groups, in, in)."""
    return a[:, :, None] * b[:, None, :]
