"""Scale and zero point: from a range of real numbers to an integer grid, and rounding to it.

A real number r and its integer q are related by r = scale (q - zero_point). The range is first
extended to contain zero, which then is exactly representable.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.types import IntegerType

_BLOCK = 1 << 16
"""Elements that are rounded at a time."""


@dataclass(frozen=True)
class Grid:
    """The integers that a tensor may use.

    Attributes:
        type: Element type.
        symmetric: The zero point is fixed and the range is symmetric about zero.
        reduce_range: Only half of the integers are used.
        power_of_two: Scales are powers of two.
        minimum_real_range: Least width of the range of real numbers, or None.
    """

    type: IntegerType
    symmetric: bool
    reduce_range: bool = False
    power_of_two: bool = False
    minimum_real_range: float | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and greatest integer used for the scale's sake (onnxruntime's convention).

        Signed and symmetric leaves out the least integer; reduced ranges are [-64, 64] for int8,
        [-16384, 16384] for int16 and the lower half for unsigned types.
        """
        if self.reduce_range:
            return (
                (self.type.qmin // 2, -(self.type.qmin // 2))
                if self.type.signed
                else (0, self.type.qmax // 2)
            )
        return (self.type.qmin + 1 if self.symmetric and self.type.signed else self.type.qmin), self.type.qmax


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of one tensor.

    Attributes:
        scale: float32, shape () or (channels,), positive.
        zero_point: Of the integer type, same shape.
        axis: Channel axis, or None with shape ().
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None = None


def quant_params(
    low: NDArray[np.float32], high: NDArray[np.float32], grid: Grid, axis: int | None = None
) -> QuantParams:
    """Scale and zero point that cover ranges, as onnxruntime computes them (`compute_scale_zp`).

        scale = (high - low) / (qmax - qmin),    zero_point = round(qmin - low / scale)

    in float64, the scale rounded to float32 at the end. A range that is empty or too narrow for a
    normal float32 scale gets scale 1 and zero point 0. With `Grid.power_of_two` the scale is
    rounded up to the next power of two, so that nothing overflows.

    Args:
        low, high: float32, shape () or (channels,).
        grid: What to quantize to.
        axis: Channel axis, where the shape is (channels,).
    """
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if grid.minimum_real_range is not None:
        high = np.maximum(high, low + np.float32(grid.minimum_real_range))
    if grid.symmetric:
        high = np.maximum(-low, high)
        low = -high
    qmin, qmax = grid.bounds
    scale = (high.astype(np.float64) - low.astype(np.float64)) / (qmax - qmin)
    if grid.power_of_two:
        scale = next_power_of_two(scale)
    usable = scale >= np.finfo(np.float32).tiny
    scale = np.where(usable, scale, 1.0)
    if grid.symmetric:
        zero_point = np.full(scale.shape, round((qmin + qmax) / 2))  # half to even, as numpy
    else:
        zero_point = np.clip(np.rint(qmin - low.astype(np.float64) / scale), qmin, qmax)
    zero_point = np.where(usable, zero_point, 0)
    return QuantParams(
        np.asarray(scale, dtype=np.float32), np.asarray(zero_point).astype(grid.type.numpy), axis
    )


def next_power_of_two(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least power of two that is not below; zero stays zero. Exact, by frexp."""
    mantissa, exponent = np.frexp(scale)  # scale = mantissa 2^exponent, mantissa in [0.5, 1)
    exponent = np.where(mantissa == 0.5, exponent - 1, exponent)
    return np.where(scale > 0, np.ldexp(1.0, exponent), 0.0)


def weight_params(weight: NDArray[Any], grid: Grid, axis: int | None) -> QuantParams:
    """Parameters of a constant from its own extremes, for each channel along `axis`."""
    if weight.size == 0:
        shape = () if axis is None else (weight.shape[axis],)
        zeros = np.zeros(shape, dtype=np.float32)
        return quant_params(zeros, zeros, grid, axis)
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    low = np.asarray(weight.min(axis=others), dtype=np.float32)
    high = np.asarray(weight.max(axis=others), dtype=np.float32)
    return quant_params(low, high, grid, axis)


def quantize(values: NDArray[Any], params: QuantParams, element: IntegerType) -> NDArray[Any]:
    """Integers of real numbers: round half to even in float32, saturate (ONNX QuantizeLinear).

    Args:
        values: float32 or float16.
        params: Scale and zero point, broadcast along their axis.
        element: Type whose range saturates.
    """
    integers = np.empty(values.shape, dtype=element.numpy)
    for block in _blocks(values.shape):
        scale, zero_point = (_rows(parameter, block) for parameter in _along_axis(params, values.ndim))
        scaled = np.asarray(values[block], dtype=np.float32) / scale
        scaled = np.rint(scaled) + zero_point.astype(np.float32)
        integers[block] = np.clip(scaled, element.qmin, element.qmax)
    return integers


def _blocks(shape: tuple[int, ...]) -> list[slice | EllipsisType]:
    """Slices of the first axis, small enough for the temporaries to stay in the processor's cache."""
    if not shape:
        return [...]
    row = max(1, int(np.prod(shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK // row)
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _rows(parameter: NDArray[Any], block: slice | EllipsisType) -> NDArray[Any]:
    """What of a broadcast parameter belongs to a block of the first axis."""
    return parameter[block] if parameter.ndim and parameter.shape[0] > 1 else parameter


def dequantize(integers: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Real numbers of integers, float32 (ONNX DequantizeLinear)."""
    scale, zero_point = _along_axis(params, integers.ndim)
    return (integers.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale


def _along_axis(params: QuantParams, rank: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
    if params.axis is None:
        return params.scale, params.zero_point
    shape = [1] * rank
    shape[params.axis] = -1
    return params.scale.reshape(shape), params.zero_point.reshape(shape)
