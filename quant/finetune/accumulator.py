"""Adding up the moments of a layer's inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.errors import QuantizationError
from quant.finetune.block import BLOCK_BYTES, Block, Columns, Draw
from quant.finetune.moments import InputMoments

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_FEW_ROWS = 16
"""Below, OpenBLAS's syrk takes up to six times as long as its gemm."""


class MomentsAccumulator:
    """Adds up the moments of one layer, batch by batch, in any split of the data.

    With X the columns of the layer's input in the float model and X̂ those in the quantized one, N of each,
    G = X̂ X̂ᵀ / N, C = X X̂ᵀ / N and H = X Xᵀ / N are the `gram`, `cross` and `float_gram` of `InputMoments`,
    in float64; the first two, or all three, are the same array if X̂ = X throughout.

    Products of float32 within a block of columns, sums over blocks in float64. Memory: one to three
    sums of shape (groups, in, in) and two blocks, whatever the size of the feature maps. Where there are
    many more columns than are needed to know the moments, some of them, drawn by a seed, stand for all.

    Attributes:
        columns: The layer.
        max_bytes: Of a block.
        count: N so far.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        float_gram: bool = False,
        products: bool = True,
        share: float = 1.0,
        seed: int = 0,
        max_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Starts from nothing.

        Args:
            columns: The layer.
            float_gram: Also add up H, for the value of the error and not only its minimum.
            products: Whether to add up more than the means; G and C are zero without.
            share: Of the columns that are added, about.
            seed: Which ones.
            max_bytes: Of a block.
        """
        self.columns = columns
        self.max_bytes = max_bytes
        self.share = share
        self.seed = seed
        self._wants_float_gram = float_gram
        self._multiply = _add_products if products else _add_nothing
        self._rows = (columns.groups, columns.taps, columns.inputs // columns.taps)
        self._gram = self._zeros()  # of the upper half, tap ≤ tap
        self._cross: Matrix | None = None  # while every X̂ was X, the sums of X̂ stand for all
        self._float_gram: Matrix | None = None
        self._means = np.zeros((2, *self._rows))
        self.count = 0

    def add(self, x: NDArray[Any], x_quantized: NDArray[Any], batch: int = 0) -> None:
        """Adds one batch of the layer's input in both models.

        Args:
            x: From the float model, as the node takes it.
            x_quantized: From the quantized one, of the same shape; the same object where X̂ = X, for
                which one product is made instead of two.
            batch: Number of the batch, which decides on the columns where they are a share.
        """
        if x_quantized is x and self._cross is None:
            for block, means in self._blocks(x, batch):
                self.count += block.count
                self._means += means
                self._multiply(self._gram, block, block)
            return
        self._part()
        assert x.shape == x_quantized.shape and self._cross is not None
        blocks = (self._blocks(values, batch) for values in (x, x_quantized))
        for (block, means), (quantized, quantized_means) in zip(*blocks, strict=True):
            self.count += block.count
            self._means += np.stack([means, quantized_means])
            self._multiply(self._gram, quantized, quantized)
            self._multiply(self._cross, block, quantized)
            if self._float_gram is not None:
                self._multiply(self._float_gram, block, block)

    def merge(self, other: MomentsAccumulator) -> MomentsAccumulator:
        """The accumulator that has seen the batches of both, for one layer."""
        merged = MomentsAccumulator(self.columns, float_gram=self._wants_float_gram, max_bytes=self.max_bytes)
        if self._cross is not None or other._cross is not None:
            merged._part()
        for part in (self, other):
            merged._gram += part._gram
            merged._means += part._means
            merged.count += part.count
            if merged._cross is not None:
                merged._cross += _mirrored(part._gram) if part._cross is None else part._cross
            if merged._float_gram is not None:
                merged._float_gram += part._gram if part._float_gram is None else part._float_gram
        return merged

    def result(self) -> InputMoments:
        """The moments so far.

        Raises:
            QuantizationError: If there was not one output position.
        """
        if not self.count:
            raise QuantizationError("moments: no output position in any batch of the calibration data")
        gram = self._matrix(_mirrored(self._gram))
        cross = gram if self._cross is None else self._matrix(self._cross)
        float_gram = gram if self._cross is None else None
        if self._float_gram is not None:
            float_gram = self._matrix(_mirrored(self._float_gram))
        mean, quantized_mean = (self.columns.unfold(sums, 1) / self.count for sums in self._means)
        return InputMoments(gram, cross, mean, quantized_mean, float_gram)

    def _blocks(self, x: NDArray[Any], batch: int) -> Iterator[tuple[Block, Matrix]]:
        """Of one batch, each with the sums of its columns; those of all columns come with the first."""
        if self.share < 1:
            for block in self.columns.drawn(x, Draw(self.share, (self.seed, batch))):
                yield block, block.sums()
            return
        sums = self.columns.sums(x)
        for block in self.columns.blocks(x, self.max_bytes):
            yield block, sums
            sums = np.zeros_like(sums)

    def _zeros(self) -> Matrix:
        return np.zeros((*self._rows, *self._rows[1:]))

    def _part(self) -> None:
        """Sums of their own for X from here on."""
        if self._cross is None:
            self._cross = _mirrored(self._gram)
            self._float_gram = self._gram.copy() if self._wants_float_gram else None

    def _matrix(self, sums: Matrix) -> Matrix:
        """Means in the order of the weights, shape (groups, in, in)."""
        return self.columns.unfold(self.columns.unfold(sums, 1), 2) / self.count


def _add_products(sums: Matrix, left: Block, right: Block) -> None:
    """Adds X X'ᵀ of two blocks, in place; of one with itself, for taps k ≤ k' alone.

    With z_t the slice at position t of the folded axis, D the dilation and L the length, the product
    of taps k and k' = k + d is a sum over a window that moves with k,

        S(k, k + d) = Σ_t z_(t + k D) z'_(t + (k + d) D)ᵀ,    t = 0 ... L - 1

    For each d its middle, which all k share, is multiplied once, and what lies before and behind it is
    added for those k whose window reaches there: 2 K - 1 products in place of K².

    Args:
        sums: Shape (groups, taps, rows, taps, rows).
        left: Of X.
        right: Of X'.
    """
    for distance in range(0 if left is right else 1 - left.taps, left.taps):
        first, last = max(0, -distance), min(left.taps, left.taps - distance) - 1
        for tap, window in zip(
            range(first, last + 1), _windows(left, right, distance, first, last), strict=True
        ):
            sums[:, tap, :, tap + distance] += window


def _add_nothing(sums: Matrix, left: Block, right: Block) -> None:
    """In place of `_add_products`."""


def _windows(left: Block, right: Block, distance: int, first: int, last: int) -> list[Array]:
    """S(k, k + distance) for k = first ... last, each of shape (groups, rows, rows)."""
    dilation, length = left.dilation, left.length

    def product(start: int, stop: int) -> Array:
        return _product(
            left.rows(start, stop), right.rows(start + distance * dilation, stop + distance * dilation)
        )

    steps = range(first, last)
    begin, end = last * dilation, first * dilation + length  # of what all windows share
    if begin >= end:
        return [product(tap * dilation, tap * dilation + length) for tap in range(first, last + 1)]
    shared = product(begin, end)
    before = [product(tap * dilation, (tap + 1) * dilation) for tap in steps]
    behind = [product(tap * dilation + length, (tap + 1) * dilation + length) for tap in steps]
    return [sum((*before[index:], *behind[:index]), start=shared) for index in range(last - first + 1)]


def _product(left: Array, right: Array) -> Array:
    """A Bᵀ for each group, in float32: the only heavy step, and all that a GPU would have to do."""
    same = np.may_share_memory(left[..., :1, :1], right[..., :1, :1])
    if same and left.shape[-2] < _FEW_ROWS:
        right = right.copy()  # or NumPy calls syrk, which is slow for these
    return left @ right.mT


def _mirrored(upper: Matrix) -> Matrix:
    """The full sums, of which S(k, k') = S(k', k)ᵀ is given for k ≤ k'."""
    full = upper.copy()
    for tap in range(full.shape[1]):
        for later in range(tap + 1, full.shape[1]):
            full[:, later, :, tap] = upper[:, tap, :, later].mT
    return full
