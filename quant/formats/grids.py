"""Grids that are not uniform, for rounding the weights of a layer (`RoundingGrid`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from array_api_compat import array_namespace

from quant.finetune.grid import Array


@dataclass(frozen=True)
class FloatGrid:
    """scale times the floating-point numbers with few mantissa bits, subnormal ones included.

    Attributes:
        scale: Positive powers of two, or any positive numbers, of the weight's dtype, broadcastable to
            (groups, out, in).
        mantissa_bits: Behind the leading one.
        least_exponent: Of normal numbers.
        largest: The greatest number.
    """

    scale: Array
    mantissa_bits: int
    least_exponent: int
    largest: float

    def lower(self, values: Array) -> Array:
        xp = array_namespace(values)
        scaled = self._scaled(values)
        ulp = self._ulp(xp.abs(scaled))
        return xp.floor(scaled / ulp) * ulp * self.scale

    def upper(self, values: Array) -> Array:
        xp = array_namespace(values)
        scaled = self._scaled(values)
        ulp = self._ulp(xp.abs(scaled))
        lower = xp.floor(scaled / ulp) * ulp
        # above −2^e lies the finer spacing of the numbers nearer to zero
        inwards = xp.abs(lower) * (1 - _unit(lower.dtype, xp))
        step = self._ulp(xp.where(lower < 0, inwards, lower))
        return xp.minimum(lower + step, xp.asarray(self.largest, dtype=lower.dtype)) * self.scale

    def round(self, values: Array) -> Array:
        """Nearest, ties to the even multiple of the spacing."""
        xp = array_namespace(values)
        scaled = self._scaled(values)
        ulp = self._ulp(xp.abs(scaled))
        return xp.round(scaled / ulp) * ulp * self.scale

    def columns(self, index: slice | Array) -> FloatGrid:
        return replace(self, scale=take_columns(self.scale, index))

    def _scaled(self, values: Array) -> Array:
        xp = array_namespace(values)
        return xp.clip(values / self.scale, -self.largest, self.largest)

    def _ulp(self, magnitude: Array) -> Array:
        """Spacing of the numbers from this magnitude upwards."""
        xp = array_namespace(magnitude)
        power = xp.clip(leading_power_of(magnitude), min=2.0**self.least_exponent)
        return power * 2.0**-self.mantissa_bits


def leading_power_of(magnitude: Array) -> Array:
    """2^floor(log2 x) of x >= 0 by additions and multiplications alone; 0 of 0.

    Rump, Ogita and Oishi, 2008 (doi:10.1137/050645671, alg. 3.5 of part I): with the unit roundoff u
    and φ = 1 / 2u + 1, q = φ x and then abs(q − (1 − u) q), each rounded to nearest. Exact, subnormal
    numbers included, while φ x does not overflow.
    """
    xp = array_namespace(magnitude)
    unit = _unit(magnitude.dtype, xp)
    large = magnitude * (1 / (2 * unit) + 1)
    return xp.abs(large - (1 - unit) * large)


def _unit(dtype: Any, xp: Any) -> float:
    """u, half the distance of 1 to the next number."""
    return float(xp.finfo(dtype).eps) / 2


def take_columns(parameter: Array, index: slice | Array) -> Array:
    """Some inputs of something broadcastable to (groups, out, in)."""
    if parameter.shape[-1] == 1:
        return parameter
    if isinstance(index, slice):
        return parameter[:, :, index]
    return array_namespace(parameter).take(parameter, index, axis=2)
