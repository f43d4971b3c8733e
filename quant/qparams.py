"""Scale and zero point: from a range of real numbers to a grid of codes, and rounding to it.

A real number r and its code q are related by r = scale (q - zero_point). The range is first
extended to contain zero, which then is exactly representable. The codes of a float8 type are numbers
themselves, and its zero point is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.types import ElementType, Encoding

_LARGEST_SCALE = 2.0**127
"""The greatest power of two in float32."""

_BLOCK = 1 << 16
"""Elements that are rounded at a time."""


@dataclass(frozen=True)
class Grid:
    """The codes that a tensor may use.

    Attributes:
        type: Element type.
        symmetric: The zero point is fixed and the range is symmetric about zero.
        reduce_range: Only half of the integers are used.
        power_of_two: Scales are powers of two.
        minimum_real_range: Least width of the range of real numbers, or None.
        restricted: The zero point is the least integer for a range without negative values, and the
            middle one for others.
    """

    type: ElementType
    symmetric: bool
    reduce_range: bool = False
    power_of_two: bool = False
    minimum_real_range: float | None = None
    restricted: bool = False

    def within(self, real: np.dtype[Any]) -> Grid:
        """This grid, symmetric if codes less the zero point would overflow the type of the real numbers."""
        overflows = float(self.type.qmax) - self.type.qmin > float(np.finfo(real).max)
        return replace(self, symmetric=True) if overflows and self.type.encoding is Encoding.INTEGER else self

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and greatest code used for the scale's sake (onnxruntime's convention).

        Signed and symmetric leaves out the least integer, but for types below 8 bits, which cannot
        spare it; reduced ranges are [-64, 64] for int8, [-16384, 16384] for int16, [-4, 3] for
        int4, and the lower half for unsigned types. 2-bit and float8 types are not reduced.
        """
        qmin, qmax, wide = self.type.qmin, self.type.qmax, self.type.bits >= 8
        integer = self.type.encoding is Encoding.INTEGER
        if self.reduce_range and integer and self.type.bits >= 4:
            return (qmin // 2, -(qmin // 2) if wide else qmax // 2) if self.type.signed else (0, qmax // 2)
        spares = wide and integer and self.symmetric and self.type.signed
        return (qmin + 1 if spares else qmin), qmax


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of one tensor.

    Attributes:
        scale: float32 (float16 for a float16 tensor), positive, of shape (), (channels,) or, in
            blocks, the tensor's with the blocks' number along the axis.
        zero_point: Codes, same shape; float8 zeros for float8.
        axis: Channel axis or axis of the blocks, or None with shape ().
        block_size: Number of elements along the axis that share a scale, or None.
    """

    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int | None = None
    block_size: int | None = None

    def cast(self, dtype: np.dtype[Any]) -> QuantParams:
        """With scales of another floating-point type; what would vanish there becomes its least normal."""
        if self.scale.dtype == dtype:
            return self
        bounds = np.finfo(dtype)
        return replace(self, scale=np.clip(self.scale, bounds.tiny, bounds.max).astype(dtype))


def quant_params(
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    grid: Grid,
    axis: int | None = None,
    block_size: int | None = None,
) -> QuantParams:
    """Scale and zero point that cover ranges, as onnxruntime computes them (`compute_scale_zp`).

        scale = (high - low) / (qmax - qmin),    zero_point = round(qmin - low / scale)

    in float64, the scale rounded to float32 at the end. A range that is empty or too narrow for a
    normal float32 scale gets scale 1 and zero point 0. With `Grid.power_of_two` the scale is
    rounded up to the next power of two, so that nothing overflows. Float8 covers the greatest
    magnitude: scale = max(-low, high) / greatest finite number.

    Args:
        low, high: float32, of the shape that `QuantParams.scale` is to have.
        grid: What to quantize to.
        axis, block_size: As in `QuantParams`.
    """
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if grid.minimum_real_range is not None:
        high = np.maximum(high, low + np.float32(grid.minimum_real_range))
    centred = grid.symmetric or grid.type.encoding is Encoding.FLOAT8
    if centred:
        high = np.maximum(-low, high)
        low = -high
    low, high = low.astype(np.float64), high.astype(np.float64)
    qmin, qmax = grid.bounds
    scale = (high - low) / (float(qmax) - qmin)
    middle = (qmin + qmax + 1) // 2
    restricted = grid.restricted and not centred
    if restricted:  # half of the codes for either side, unless one side is empty
        halves = np.maximum(-low / (middle - qmin), high / (qmax - middle))
        scale = np.where(low < 0, halves, high / (qmax - qmin))
    if grid.power_of_two:
        scale = next_power_of_two(np.asarray(scale, np.float64))
    scale = np.minimum(scale, _LARGEST_SCALE)
    usable = scale >= np.finfo(np.float32).tiny
    scale = np.where(usable, scale, 1.0)
    if centred:
        zero_point = np.full(scale.shape, round((qmin + qmax) / 2))  # half to even, as numpy
    elif restricted:
        zero_point = np.where(low < 0, middle, qmin)
    else:
        zero_point = np.clip(np.rint(qmin - low / scale), qmin, qmax)
    zero_point = np.where(usable, zero_point, 0)
    return QuantParams(
        np.asarray(scale, dtype=np.float32),
        np.asarray(zero_point).astype(grid.type.numpy),
        axis,
        block_size,
    )


def next_power_of_two(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least power of two that is not below; zero stays zero. Exact, by frexp."""
    mantissa, exponent = np.frexp(scale)  # scale = mantissa 2^exponent, mantissa in [0.5, 1)
    exponent = np.where(mantissa == 0.5, exponent - 1, exponent)
    return np.where(scale > 0, np.ldexp(1.0, exponent), 0.0)


def weight_params(
    weight: NDArray[Any], grid: Grid, axis: int | None, block_size: int | None = None
) -> QuantParams:
    """Parameters of a constant from its own extremes, for each channel or block along `axis`."""
    low, high = weight_extremes(weight, axis, block_size)
    return quant_params(low, high, grid, axis, block_size)


def weight_extremes(
    weight: NDArray[Any], axis: int | None, block_size: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and greatest values that share a scale; 0 where there are none."""
    if block_size is not None:
        assert axis is not None
        starts = np.arange(0, weight.shape[axis], block_size)
        low = np.minimum.reduceat(weight, starts, axis=axis)
        high = np.maximum.reduceat(weight, starts, axis=axis)
    elif weight.size == 0:
        low = high = np.zeros(() if axis is None else (weight.shape[axis],))
    else:
        others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
        low, high = weight.min(axis=others), weight.max(axis=others)
    return np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)


def quantize(values: NDArray[Any], params: QuantParams, element: ElementType) -> NDArray[Any]:
    """Codes of real numbers: round half to even in float32, saturate (ONNX QuantizeLinear).

    Args:
        values: float32 or float16.
        params: Scale and zero point, broadcast along their axis.
        element: Type whose range saturates.
    """
    codes = np.empty(values.shape, dtype=element.numpy)
    for block in _blocks(values.shape):
        rows = np.asarray(values[block], dtype=np.float32)
        scaled = rows / spread(params.scale, params, values.shape, block).astype(np.float32)
        if element.encoding is Encoding.INTEGER:
            scaled = np.rint(scaled)
            scaled += spread(params.zero_point, params, values.shape, block).astype(np.float32)
        codes[block] = np.clip(scaled, np.float32(element.qmin), np.float32(element.qmax))
    return codes


def _blocks(shape: tuple[int, ...]) -> list[slice | EllipsisType]:
    """Slices of the first axis, small enough for the temporaries to stay in the processor's cache."""
    if not shape:
        return [...]
    row = max(1, int(np.prod(shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK // row)
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def spread(
    parameter: NDArray[Any], params: QuantParams, shape: tuple[int, ...], rows: slice | EllipsisType
) -> NDArray[Any]:
    """A scale or zero point, broadcastable to some rows (of the first axis) of a tensor of this shape."""
    if params.axis is None:
        return parameter
    if params.block_size is None:
        along = [1] * len(shape)
        along[params.axis] = -1
        parameter = parameter.reshape(along)
        return parameter[rows] if params.axis == 0 else parameter
    index = np.arange(shape[params.axis]) // params.block_size
    if params.axis == 0:
        return parameter[index[rows]]
    return np.take(parameter[rows], index, axis=params.axis)


def dequantize(codes: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Real numbers of codes, float32 (ONNX DequantizeLinear)."""
    scale, zero_point = (
        spread(parameter, params, codes.shape, ...) for parameter in (params.scale, params.zero_point)
    )
    if np.issubdtype(codes.dtype, np.integer):
        codes, zero_point = codes.astype(np.int32), zero_point.astype(np.int32)
        codes = codes - zero_point
    values: NDArray[np.float32] = codes.astype(np.float32) * scale.astype(np.float32)
    return values
