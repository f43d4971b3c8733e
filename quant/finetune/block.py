"""Columns of a layer's input, the form in which all layers look alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK_BYTES = 1 << 24
"""Of one block. Larger ones leave the caches, and memory of that size has to be mapped anew each time."""


@dataclass(frozen=True)
class Block:
    """Columns of some output positions, with the kernel's largest axis left folded.

    Row (r, k) of X, for tap k of the folded axis, is `values[:, r, first : first + length]` with
    first = k dilation. So the taps share memory, and sums of products over them share work.

    Attributes:
        values: Shape (groups, rows, length + (taps - 1) dilation, positions), float32, contiguous.
        taps: Of the folded axis.
        dilation: Of the folded axis.
        length: Output positions along the folded axis.
    """

    values: Array
    taps: int
    dilation: int
    length: int

    @property
    def count(self) -> int:
        """Number of columns."""
        return self.length * int(self.values.shape[-1])

    def rows(self, start: int, stop: int) -> Array:
        """A stretch of the folded axis, shape (groups, rows, (stop - start) positions); a view."""
        stretch = self.values[:, :, start:stop]
        return stretch.reshape(*stretch.shape[:2], -1)

    def windows(self) -> Iterator[Array]:
        """Rows of one tap after another, each of shape (groups, rows, count); views."""
        for tap in range(self.taps):
            yield self.rows(tap * self.dilation, tap * self.dilation + self.length)

    def sums(self) -> NDArray[np.float64]:
        """Of its columns, shape (groups, taps, rows); along the folded axis in float64."""
        lines = self.values @ np.ones(self.values.shape[-1], np.float32)
        starts = [tap * self.dilation for tap in range(self.taps)]
        windows = (lines[..., start : start + self.length] for start in starts)
        return np.stack([window.sum(axis=-1, dtype=np.float64) for window in windows], axis=1)


@dataclass(frozen=True)
class Draw:
    """Which columns of a batch are taken, where not all are: the same for all inputs of one shape.

    Attributes:
        share: Of the columns, about; above 0, at most 1.
        seed: Any number of integers; batches of one size need different ones.
    """

    share: float
    seed: tuple[int, ...]

    def of(self, count: int) -> NDArray[np.int64]:
        """Some of `count` things without repetition, each with the same chance, in ascending order."""
        generator = np.random.default_rng(self.seed)
        wanted = math.floor(self.share * count + generator.random())  # on average the share, however few
        return np.sort(generator.choice(count, min(wanted, count), replace=False, shuffle=False))


class Columns(Protocol):
    """How one layer's input becomes columns.

    Attributes:
        groups: Of the layer.
        inputs: Rows of X for a group, `in`: channels / groups × kernel positions.
        taps: Of the axis that blocks leave folded.
    """

    @property
    def groups(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def taps(self) -> int: ...

    def blocks(self, x: NDArray[Any], max_bytes: int) -> Iterator[Block]:
        """All columns of one batch, each in one block, in an order that depends on shapes alone.

        Args:
            x: The layer's input, as the node takes it.
            max_bytes: What a block may take, if that leaves at least `inputs` columns in it.
        """
        ...

    def drawn(self, x: NDArray[Any], draw: Draw) -> Iterator[Block]:
        """Some of one batch's columns, in stretches of neighbours where these share work.

        Args:
            x: The layer's input, as the node takes it.
            draw: Which ones.
        """
        ...

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of columns of an input of this shape."""
        ...

    def unfold(self, rows: NDArray[Any], axis: int) -> NDArray[Any]:
        """Replaces axes (taps, rows) of an array by one axis (inputs), in the order of the weights."""
        ...


def drawn_columns(columns: Columns, x: NDArray[Any], draw: Draw) -> Array:
    """Some of one batch's columns, all taps written out: shape (groups, in, count)."""
    parts = [np.zeros((columns.groups, columns.inputs, 0), np.float32)]
    for block in columns.drawn(x, draw):
        parts.append(columns.unfold(np.stack([*block.windows()], axis=1), 1))
    return np.concatenate(parts, axis=2)
