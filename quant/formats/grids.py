"""Grids that are not uniform, for rounding the weights of a layer (`RoundingGrid`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace

from quant.finetune.grid import Array
from quant.formats.contract import F32
from quant.formats.rounding import FloatShape


@dataclass(frozen=True)
class _Scaled:
    """A grid times a scale.

    Attributes:
        scale: Positive, of the weight's dtype, broadcastable to (groups, out, in).
    """

    scale: Array

    def columns(self, index: slice | Array) -> Self:
        return replace(self, scale=take_columns(self.scale, index))


@dataclass(frozen=True)
class FloatGrid(_Scaled):
    """scale times the floating-point numbers of a shape.

    Attributes:
        shape: The numbers.
    """

    shape: FloatShape

    def lower(self, values: Array) -> Array:
        xp = array_namespace(values)
        scaled = self._inside(values)
        ulp = self._ulp(xp.abs(scaled))
        return xp.floor(scaled / ulp) * ulp * self.scale

    def upper(self, values: Array) -> Array:
        xp = array_namespace(values)
        scaled = self._inside(values)
        ulp = self._ulp(xp.abs(scaled))
        lower = xp.floor(scaled / ulp) * ulp
        # above −2^e lies the finer spacing of the numbers nearer to zero
        inwards = xp.abs(lower) * (1 - unit_roundoff(lower))
        step = self._ulp(xp.where(lower < 0, inwards, lower))
        step = xp.where(lower < self.shape.largest, step, xp.zeros_like(step))
        return (lower + step) * self.scale

    def round(self, values: Array) -> Array:
        """Nearest, ties to the even multiple of the spacing."""
        xp = array_namespace(values)
        scaled = self._inside(values)
        ulp = self._ulp(xp.abs(scaled))
        return xp.round(scaled / ulp) * ulp * self.scale

    def _inside(self, values: Array) -> Array:
        xp = array_namespace(values)
        return xp.clip(values / self.scale, -self.shape.largest, self.shape.largest)

    def _ulp(self, magnitude: Array) -> Array:
        """Spacing of the numbers from this magnitude upwards."""
        xp = array_namespace(magnitude)
        spacing = leading_power_of(magnitude, large=self.shape.is_wide) * 2.0**-self.shape.mantissa_bits
        return xp.clip(spacing, min=self.shape.least_spacing)


@dataclass(frozen=True)
class DenormGrid(FloatGrid):
    """The numbers of `minifloat_denorm`, which below a power of two saturate instead of carrying.

    Attributes:
        shape: The same numbers, with a hidden bit.
        limit: Where values are clipped to first.
        code: The greatest integer beside a power of two.
    """

    limit: float
    code: float

    def round(self, values: Array) -> Array:
        """As the format rounds: 2^e to the number below it."""
        xp = array_namespace(values)
        scaled = xp.clip(values / self.scale, -self.limit, self.limit)
        magnitude = xp.abs(scaled)
        power = leading_power_of(magnitude, large=self.shape.is_wide)
        spacing = xp.where(power < magnitude, power, power / 2) * 2.0**-self.shape.mantissa_bits
        ulp = xp.clip(spacing, min=self.shape.least_spacing)
        rounded = xp.clip(xp.round(magnitude / ulp), max=self.code) * ulp
        return xp.where(scaled < 0, -rounded, rounded) * self.scale


@dataclass(frozen=True)
class PowerGrid:
    """The powers of two, positive and negative, between two of them; without zero.

    Attributes:
        least, greatest: Magnitudes of the weight's dtype, broadcastable to (groups, out, in); the least
            is 0 where it is too small for that.
    """

    least: Array
    greatest: Array

    def lower(self, values: Array) -> Array:
        xp = array_namespace(values)
        magnitude = self._inside(values)
        floor = leading_power_of(magnitude, large=True)
        ceiling = xp.where(floor < magnitude, floor * 2, floor)
        negative = xp.where(values < -self.least, -ceiling, -self.least)
        return xp.where(values >= self.least, floor, negative)

    def upper(self, values: Array) -> Array:
        xp = array_namespace(values)
        lower = self.lower(values)
        above = xp.where(lower < -self.least, lower / 2, self.least)
        return xp.where(lower > 0, xp.minimum(lower * 2, self.greatest), above)

    def round(self, values: Array) -> Array:
        """The power of two with the nearest exponent; the least positive one for zero."""
        xp = array_namespace(values)
        magnitude = self._inside(values)
        floor = leading_power_of(magnitude, large=True)
        divisor = xp.where(floor > 0, floor, xp.ones_like(floor))
        nearest = xp.where(magnitude / divisor > ROOT_TWO, floor * 2, floor)
        return xp.where(values < 0, -nearest, nearest)

    def columns(self, index: slice | Array) -> PowerGrid:
        return PowerGrid(take_columns(self.least, index), take_columns(self.greatest, index))

    def _inside(self, values: Array) -> Array:
        xp = array_namespace(values)
        return xp.minimum(xp.maximum(xp.abs(values), self.least), self.greatest)


@dataclass(frozen=True)
class StepGrid:
    """A few values for each output, and the thresholds between them.

    Attributes:
        values: Rising along the first axis, (n, groups or 1, out or 1, 1).
        thresholds: From each on the next value is taken; (n − 1, ...).
    """

    values: Array
    thresholds: Array

    def lower(self, values: Array) -> Array:
        return self._choose(values, self.values[1:, ...], self.values)

    def upper(self, values: Array) -> Array:
        xp = array_namespace(values)
        above = xp.concat([self.values[1:, ...], self.values[-1:, ...]], axis=0)
        return self._choose(values, self.values[1:, ...], above)

    def round(self, values: Array) -> Array:
        return self._choose(values, self.thresholds, self.values)

    def columns(self, index: slice | Array) -> StepGrid:
        """The same: all inputs share the values."""
        return self

    @staticmethod
    def _choose(values: Array, thresholds: Array, choices: Array) -> Array:
        """The last choice whose threshold is not above; the first one has none."""
        xp = array_namespace(values)
        chosen = xp.zeros_like(values) + choices[0, ...]
        for index in range(thresholds.shape[0]):
            chosen = xp.where(values >= thresholds[index, ...], choices[index + 1, ...], chosen)
        return chosen


@dataclass(frozen=True)
class ResidualGrid:
    """All sums of plus or minus each scale; rounded level by level.

    Attributes:
        scales: Of the levels, (levels, groups or 1, out or 1, 1).
    """

    scales: Array

    def lower(self, values: Array) -> Array:
        return self._steps.lower(values)

    def upper(self, values: Array) -> Array:
        return self._steps.upper(values)

    def round(self, values: Array) -> Array:
        """By the sign of what is left at each level."""
        xp = array_namespace(values)
        total, rest = xp.zeros_like(values), values
        for level in range(self.scales.shape[0]):
            scale = self.scales[level, ...]
            step = xp.where(rest >= 0, scale, -scale)
            total, rest = total + step, rest - step
        return total

    def columns(self, index: slice | Array) -> ResidualGrid:
        """The same: all inputs share the scales."""
        return self

    @cached_property
    def _steps(self) -> StepGrid:
        """The sums in rising order."""
        xp = array_namespace(self.scales)
        sums = [xp.zeros_like(self.scales[0, ...])]
        for level in range(self.scales.shape[0]):
            scale = self.scales[level, ...]
            sums = [total + signed for total in sums for signed in (-scale, scale)]
        values = xp.sort(xp.stack(sums), axis=0)
        return StepGrid(values, values[1:, ...])


ROOT_TWO = 1.414213538169861
"""The greatest float32 below √2.

x times it, rounded to float32, lies at or above a power of two exactly if x does so times √2."""


def leading_power_of(magnitude: Array, *, large: bool = False) -> Array:
    """2^floor(log2 x) of x >= 0 by sums and products alone; 0 of 0.

    Rump, Ogita and Oishi, 2008 (doi:10.1137/050645671, part I, alg. 3.5): with the unit roundoff u
    and φ = 1 / 2u + 1, abs(q − (1 − u) q) of q = φ x, each rounded to nearest. Exact, for subnormal
    numbers too, while φ x does not overflow.

    Args:
        magnitude: Of a floating-point type.
        large: Also for magnitudes whose product with φ would overflow.
    """
    xp = array_namespace(magnitude)
    unit = unit_roundoff(magnitude)
    shift = xp.where(magnitude > 1, unit * unit, xp.ones_like(magnitude)) if large else 1.0
    product = magnitude * shift * (1 / (2 * unit) + 1)
    return xp.abs(product - (1 - unit) * product) / shift


def unit_roundoff(like: Array) -> float:
    """U of an array's type: half the distance of 1 to the next number."""
    xp: Any = array_namespace(like)
    return float(xp.finfo(like.dtype).eps) / 2


def take_columns(parameter: Array, index: slice | Array) -> Array:
    """Some inputs of something broadcastable to (groups, out, in)."""
    if parameter.shape[-1] == 1:
        return parameter
    if isinstance(index, slice):
        return parameter[:, :, index]
    return array_namespace(parameter).take(parameter, index, axis=2)


def arranged(parameter: F32, weight: F32, groups: int) -> F32:
    """Something broadcastable to a weight (out, ..., in) -> to (groups, out / groups, inputs)."""
    if parameter.size == 1:
        return parameter.reshape(1, 1, 1)
    if parameter.shape[0] == parameter.size == weight.shape[0]:
        return parameter.reshape(groups, -1, 1)
    full = np.broadcast_to(parameter, weight.shape)
    return full.reshape(groups, weight.shape[0] // groups, -1)
