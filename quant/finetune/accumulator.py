"""Adding up the moments of a layer's inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quant.errors import QuantizationError
from quant.finetune.block import Array, Block, Columns
from quant.finetune.moments import InputMoments, OutputShift

Matrix = NDArray[np.float64]

_FEW_ROWS = 16
"""Below, OpenBLAS's syrk takes up to six times as long as its gemm."""


class MomentsAccumulator:
    """Adds up the moments of layers that read the same columns, batch by batch, in any split of the data.

    With X the columns of the layer's input in the float model and X̂ those in the quantized one, N of each,
    G = X̂ X̂ᵀ / N, C = X X̂ᵀ / N and H = X Xᵀ / N are the `gram`, `cross` and `float_gram` of `InputMoments`,
    in float64; the first two, or all three, are the same array if X̂ = X throughout. With weights W of layers,
    the moments of W X̂ − W X take the place of C.

    Products of float32 within a block of columns, sums over blocks in float64. Memory: one to three
    sums of shape (groups, in, in) and two blocks, whatever the size of the feature maps.

    Attributes:
        columns: The layer.
        count: N so far.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        weights: tuple[Array, ...] = (),
        float_gram: bool = False,
        products: bool = True,
    ) -> None:
        """Starts from nothing.

        Args:
            columns: The layer.
            weights: W of each layer whose `OutputShift` is wanted in place of C, shape (groups, out, in).
            float_gram: Also add up H, for the value of the error and not only its minimum.
            products: Whether to add up more than the means; G and C are zero without.
        """
        self.columns = columns
        self._wants_float_gram = float_gram
        self._multiply = _add_products if products else _add_nothing
        self._rows = (columns.groups, columns.taps, columns.inputs // columns.taps)
        self._gram = self._zeros()  # of the upper half, tap ≤ tap
        self._cross: Matrix | None = None  # while every X̂ was X, the sums of X̂ stand for all
        self._float_gram: Matrix | None = None
        self._shift = _ShiftSums(columns, weights) if weights else None
        self._means = np.zeros((2, *self._rows))
        self.count = 0

    def add(self, blocks: Iterable[Block], quantized_blocks: Iterable[Block] | None = None) -> None:
        """Adds columns of the layer's input in both models.

        Args:
            blocks: From the float model.
            quantized_blocks: The same columns from the quantized one; None where X̂ = X, for which one
                product is made instead of two.
        """
        if quantized_blocks is None and self._cross is None:
            for block in blocks:
                self.count += block.count
                self._means += block.sums()
                self._multiply(self._gram, block, block)
            return
        if self._shift is None:
            self._part()
        for block, quantized in _pairs(blocks, quantized_blocks):
            assert block.values.shape == quantized.values.shape
            self.count += block.count
            self._means += np.stack([block.sums(), quantized.sums()])
            self._multiply(self._gram, quantized, quantized)
            if self._shift is not None:
                self._shift.add(block, quantized)
            if self._cross is not None:
                self._multiply(self._cross, block, quantized)
            if self._float_gram is not None:
                self._multiply(self._float_gram, block, block)

    def take(self, other: MomentsAccumulator) -> None:
        """Adds what another one for the same layers has seen."""
        if other._cross is not None:
            self._part()
        if self._cross is not None:
            self._cross += _mirrored(other._gram) if other._cross is None else other._cross
        if self._float_gram is not None:
            self._float_gram += other._gram if other._float_gram is None else other._float_gram
        if self._shift is not None and other._shift is not None:
            self._shift.take(other._shift)
        self._gram += other._gram
        self._means += other._means
        self.count += other.count

    def result(self) -> tuple[InputMoments, ...]:
        """The moments so far: of each layer with a weight, or one for all without.

        Raises:
            QuantizationError: If there was not one output position.
        """
        if not self.count:
            raise QuantizationError("moments: no output position in any batch of the calibration data")
        gram = self._matrix(_mirrored(self._gram))
        mean, quantized_mean = (self.columns.unfold(sums, 1) / self.count for sums in self._means)
        if self._shift is not None:
            shifts = self._shift.result(self.count)
            return tuple(InputMoments(gram, None, mean, quantized_mean, None, shift) for shift in shifts)
        cross = gram if self._cross is None else self._matrix(self._cross)
        float_gram = gram if self._cross is None else None
        if self._float_gram is not None:
            float_gram = self._matrix(_mirrored(self._float_gram))
        return (InputMoments(gram, cross, mean, quantized_mean, float_gram),)

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


def _pairs(blocks: Iterable[Block], others: Iterable[Block] | None) -> Iterator[tuple[Block, Block]]:
    if others is None:  # two objects, or products would be taken for symmetric ones
        return ((block, replace(block)) for block in blocks)
    return zip(blocks, others, strict=True)


class _ShiftSums:
    """Sums for `OutputShift` of some layers, whose outputs lie one behind the other.

    Attributes:
        product: Of r x̂ᵀ, shape (groups, outputs of all, taps, rows).
        mean: Of r, shape (groups, outputs of all).
        power: Of r², the same.
    """

    def __init__(self, columns: Columns, weights: tuple[Array, ...]) -> None:
        rows = (columns.taps, columns.inputs // columns.taps)
        order = columns.unfold(np.arange(columns.inputs).reshape(rows), 0)
        self.columns = columns
        self.ends = np.cumsum([0, *(weight.shape[1] for weight in weights)])
        self.weight = np.empty((columns.groups, self.ends[-1], columns.inputs), np.float32)
        self.weight[:, :, order] = np.concatenate(weights, axis=1)
        self.weight = self.weight.reshape(*self.weight.shape[:2], *rows)
        self.product = np.zeros(self.weight.shape)
        self.mean, self.power = np.zeros((2, *self.weight.shape[:2]))

    def add(self, block: Block, quantized: Block) -> None:
        """Adds columns; r is made of the differences of the inputs, which keeps its digits."""
        change = Block(quantized.values - block.values, block.taps, block.dilation, block.length)
        shift = np.zeros((*self.mean.shape, block.count), np.float32)
        for tap, window in enumerate(change.windows()):
            shift += self.weight[:, :, tap] @ window
        self.mean += shift.sum(axis=-1, dtype=np.float64)
        self.power += np.vecdot(shift, shift)
        for tap, window in enumerate(quantized.windows()):
            self.product[:, :, tap] += shift @ window.mT

    def take(self, other: _ShiftSums) -> None:
        """Adds another one's sums."""
        self.product += other.product
        self.mean += other.mean
        self.power += other.power

    def result(self, count: int) -> Iterator[OutputShift]:
        """Means, for one layer after another."""
        product = self.columns.unfold(self.product, 2) / count
        for start, end in pairwise(self.ends):
            own = slice(start, end)
            yield OutputShift(product[:, own], self.mean[:, own] / count, self.power[:, own] / count)


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
