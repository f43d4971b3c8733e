"""The values that a quantized weight may take, and rounding to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

Array: TypeAlias = Any
"""An array of any namespace that follows the array API standard."""


class RoundingGrid(Protocol):
    """A finite set of representable values for each element of a weight (groups, out, in).

    Everything is elementwise, keeps the dtype of `values` and saturates at the ends of the grid.
    """

    def lower(self, values: Array) -> Array:
        """The greatest grid value that is not above; the least one where there is none."""

    def upper(self, values: Array) -> Array:
        """The grid value next above `lower`; the greatest one where there is none."""

    def round(self, values: Array) -> Array:
        """The nearest grid value."""

    def columns(self, index: slice | Array) -> Self:
        """The grid of some inputs: a slice, or integers of shape (k,), along the last axis."""


Grid = TypeVar("Grid", bound=RoundingGrid)


def moved(grid: Grid, put: Callable[[NDArray[Any]], Array]) -> Grid:
    """A grid with its arrays on a device; grids are dataclasses of arrays, tuples and plain values."""
    assert is_dataclass(grid)
    return replace(grid, **{name: _moved(value, put) for name, value in _members(grid)})


def _moved(value: Any, put: Callable[[NDArray[Any]], Array]) -> Any:
    if isinstance(value, np.ndarray):
        return put(value)
    return tuple(_moved(item, put) for item in value) if type(value) is tuple else value


def digest_of(grid: RoundingGrid) -> str:
    """sha256 of a grid's type, arrays and plain values, in hexadecimal."""
    digest = hashlib.sha256(type(grid).__name__.encode())
    for name, value in _members(grid):
        digest.update(f"{name}=".encode())
        for part in _parts(value):
            digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """What decides on a member, piece by piece."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}|{value.shape}|".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif type(value) is tuple:
        yield f"({len(value)}:".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{value!r};".encode()


def _members(grid: RoundingGrid) -> list[tuple[str, Any]]:
    assert is_dataclass(grid)
    return [(field.name, getattr(grid, field.name)) for field in fields(grid)]


@dataclass(frozen=True)
class UniformGrid:
    """scale (q − zero_point) for the integers qmin <= q <= qmax: ONNX's QuantizeLinear.

    Attributes:
        scale: Positive, of the weight's dtype, broadcastable to (groups, out, in): one number, one
            for each output channel (groups, out, 1), or for each element (see `repeat_blocks`).
        zero_point: Integers of any dtype, broadcastable likewise.
        qmin, qmax: Ends of the grid, exact in the weight's dtype (below 2^24 for float32).
    """

    scale: Array
    zero_point: Array
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        xp = array_namespace(self.scale, self.zero_point)
        zero_point = xp.astype(self.zero_point, self.scale.dtype)
        object.__setattr__(self, "scale", _three_axes(self.scale))
        object.__setattr__(self, "zero_point", _three_axes(zero_point))

    def lower(self, values: Array) -> Array:
        xp = array_namespace(values)
        return self._values(xp.floor(values / self.scale))

    def upper(self, values: Array) -> Array:
        xp = array_namespace(values)
        return self._values(xp.floor(values / self.scale) + 1)

    def round(self, values: Array) -> Array:
        """Nearest, ties to the even integer before the zero point is added, as ONNX has it."""
        xp = array_namespace(values)
        return self._values(xp.round(values / self.scale))

    def columns(self, index: slice | Array) -> UniformGrid:
        if self.scale.shape[-1] == self.zero_point.shape[-1] == 1:
            return self
        return UniformGrid(
            _columns(self.scale, index), _columns(self.zero_point, index), self.qmin, self.qmax
        )

    @cached_property
    def _ends(self) -> tuple[Array, Array]:
        """The grid's ends in steps from zero."""
        return self.qmin - self.zero_point, self.qmax - self.zero_point

    def integers(self, values: Array) -> Array:
        """The q of each value, rounded to the grid first; int32."""
        xp = array_namespace(values)
        q = xp.clip(xp.round(values / self.scale) + self.zero_point, self.qmin, self.qmax)
        return xp.astype(q, xp.int32)

    def _values(self, steps: Array) -> Array:
        """Of whole numbers of steps from zero."""
        xp = array_namespace(steps)
        low, high = self._ends
        return xp.minimum(xp.maximum(steps, low), high) * self.scale


def repeat_blocks(parameter: Array, block_size: int, inputs: int) -> Array:
    """A scale or zero point for each block of inputs -> one for each input.

    Args:
        parameter: Shape (..., blocks), blocks = ceil(inputs / block_size).
        block_size: Inputs that share a parameter; the last block may be shorter.
        inputs: Length of the last axis of the result.
    """
    xp = array_namespace(parameter)
    return xp.repeat(parameter, block_size, axis=-1)[..., :inputs]


def _three_axes(parameter: Array) -> Array:
    xp = array_namespace(parameter)
    return xp.reshape(parameter, (1,) * (3 - parameter.ndim) + tuple(parameter.shape))


def _columns(parameter: Array, index: slice | Array) -> Array:
    if parameter.shape[-1] == 1:
        return parameter
    if isinstance(index, slice):
        return parameter[:, :, index]
    return array_namespace(parameter).take(parameter, index, axis=2)
