"""Blocks of elements that share an exponent: along the last axis, or the last two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.formats.contract import F32
from quant.formats.parameters import Parameter


@dataclass(frozen=True)
class Blocks:
    """Tiles of height × width of the last two axes; the height is mostly 1.

    A tile longer than an axis ends with it, and zeros fill up the last tile of an axis.
    """

    height: int
    width: int

    @classmethod
    def of(cls, block_size: tuple[int, ...]) -> Blocks:
        """From a block_size of one or two lengths, right-aligned with the shape."""
        return cls(*(1,) * (2 - len(block_size)), *block_size)

    def map(self, x: F32, function: Callable[[F32], F32]) -> F32:
        """Applies a function of tiled tensors, (planes, rows, height, columns, width), and untiles.

        Args:
            x: float32 of any shape.
            function: Keeps the shape; gets a view or a copy, which it must not change.
        """
        if x.size == 0:
            return x.copy()
        rows, columns, tiled = self._tile(x)
        result = function(tiled)
        planes = result.reshape(tiled.shape[0], tiled.shape[1] * tiled.shape[2], -1)
        return planes[:, :rows, :columns].reshape(x.shape)

    def spread(self, x: F32, function: Callable[[F32], F32]) -> F32:
        """Something for each block, broadcastable to the tiles, as a tensor of the shape of `x`."""
        return self.map(x, lambda tiled: np.broadcast_to(function(tiled), tiled.shape))

    def _tile(self, x: F32) -> tuple[int, int, F32]:
        rows, columns = plane(x.shape)
        height, width = min(self.height, rows), min(self.width, columns)
        planes = x.reshape(-1, rows, columns)
        missing = -rows % height, -columns % width
        if any(missing):
            planes = np.pad(planes, ((0, 0), (0, missing[0]), (0, missing[1])))
        shape = planes.shape[0], -(-rows // height), height, -(-columns // width), width
        return rows, columns, planes.reshape(shape)

    def count(self, shape: Sequence[int]) -> int:
        """Number of tiles of a tensor of this shape."""
        rows, columns = plane(shape)
        if not rows * columns:
            return 0
        each = math.ceil(rows / self.height) * math.ceil(columns / self.width)
        return math.prod(shape) // (rows * columns) * each

    def bits_per_element(self, width: int, shared: int, shape: Sequence[int]) -> float:
        """Of elements of so many bits with so many more for each tile."""
        size = math.prod(shape)
        return width + shared * self.count(shape) / size if size else float(width)


def plane(shape: Sequence[int]) -> tuple[int, int]:
    """Lengths of the last two axes; 1 for those that do not exist."""
    rows, columns = (1, 1, *shape)[-2:]
    return rows, columns


def largest_magnitudes(tiled: F32) -> NDArray[np.float64]:
    """The greatest magnitude of each tile, not above float32's; NaN does not count.

    Args:
        tiled: (planes, rows, height, columns, width).

    Returns:
        float64, in which all of float32 is normal, of shape (planes, rows, 1, columns, 1).
    """
    magnitudes = np.abs(tiled)
    for axis in (4, 2):
        while (length := magnitudes.shape[axis]) > 1:  # halving: NumPy is slow along short axes
            half = (length + 1) // 2
            first, last = slice(half), slice(length - half, length)
            magnitudes = np.maximum(_part(magnitudes, axis, first), _part(magnitudes, axis, last))
    if np.isnan(magnitudes).any():  # they spread; without one of them this is faster than fmax
        return largest_magnitudes(np.nan_to_num(tiled, nan=0.0))
    return np.minimum(magnitudes, np.finfo(np.float32).max).astype(np.float64)


def _part(values: F32, axis: int, part: slice) -> F32:
    return values[(*(slice(None),) * axis, part)]


BLOCK_SIZE = Parameter(
    "block_size",
    tuple,
    "lengths of a block, right-aligned with the shape",
    (16,),
    low=1,
    high=1 << 20,
)
