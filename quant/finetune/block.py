"""Columns of a layer's input, the form in which all layers look alike."""

from __future__ import annotations

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
        values: Shape (groups, rows, length + (taps - 1) dilation, positions), float32.
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

    def sums(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Sum of one batch's columns, shape (groups, taps, rows)."""
        ...

    def unfold(self, rows: NDArray[Any], axis: int) -> NDArray[Any]:
        """Replaces axes (taps, rows) of an array by one axis (inputs), in the order of the weights."""
        ...
