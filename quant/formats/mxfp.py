"""OCP Microscaling floating point: minifloats that share a power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.errors import ConfigError
from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.blocks import Blocks, largest_magnitudes
from quant.formats.contract import F32, Attributes, Emulation, Format, as_float32
from quant.formats.grids import FloatGrid, arranged
from quant.formats.minifloat_ieee import shape_attributes
from quant.formats.mxint import MX_BLOCK_SIZE, shared_limit
from quant.formats.parameters import Family, Parameter
from quant.formats.rounding import FloatShape, leading_power

ELEMENTS = {
    (4, 3): FloatShape(3, -6, 448.0),
    (5, 2): FloatShape(2, -14, 57344.0),
    (2, 3): FloatShape(3, 0, 7.5),
    (3, 2): FloatShape(2, -2, 28.0),
    (2, 1): FloatShape(1, 0, 6.0),
}
"""The standard's elements by exponent and mantissa bits: E4M3, E5M2, E2M3, E3M2 and E2M1."""

SCALE_BITS = 8

SCALED_BODY = f"""
    scale = Cast <to = 1> (shared)
    scaled = Div (tiled, scale)
{functions.ROUND_TO_FLOAT}
    result = Mul (rounded, scale)
{functions.UNTILE}
}}"""
"""tiled, shared -> y: elements rounded in units of a power of two of their block."""

_BODY = f"""<block: ints, least: float, greatest: float, shift: float,
 largest: float, least_spacing: float, unit: float> (x) => (y)
{{
{functions.constants(least="float", greatest="float", shift="float")}
{functions.constants(largest="float", least_spacing="float", unit="float")}
{functions.TILE}
{functions.FLOOR_POWER}
    shift_64 = Cast <to = 11> (shift)
    unbounded = Mul (power, shift_64)
{functions.BOUND_POWER.replace("(power", "(unbounded")}
{SCALED_BODY}"""


@dataclass(frozen=True)
class MxFp(Format):
    """q = X times an element, X = 2^(floor(log2 max abs x) − emax) of the block, an E8M0 number.

    Elements are rounded to the nearest, ties to even, carry into the next binade and saturate (OCP
    Microscaling Formats v1.0, 6.3). NaN does not count for its block.

    Attributes:
        exponent_width, frac_width: Of an element, one of `ELEMENTS`.
        block_size: Of one or two axes, from the last one.
        name: As configurations call it.
    """

    exponent_width: int
    frac_width: int
    block_size: tuple[int, ...] = (32,)
    alias: str = "mxfp"

    def __post_init__(self) -> None:
        if (self.exponent_width, self.frac_width) not in ELEMENTS:
            valid = ", ".join(f"({exponent}, {fraction})" for exponent, fraction in ELEMENTS)
            raise ConfigError(
                f"exponent_width {self.exponent_width} with frac_width {self.frac_width} is no element of"
                f" the standard; take one of {valid}"
            )

    @property
    def name(self) -> str:
        return self.alias

    @property
    def element(self) -> FloatShape:
        """The numbers of an element."""
        return ELEMENTS[self.exponent_width, self.frac_width]

    @property
    def _shift(self) -> float:
        """2^-emax."""
        return 2.0 ** (1 - math.frexp(self.element.largest)[1])

    def _scale(self, tiled: F32) -> F32:
        limit = shared_limit(SCALE_BITS)
        shared = leading_power(largest_magnitudes(tiled)) * self._shift
        return np.clip(shared, 1 / limit, limit).astype(np.float32)

    def _round_array(self, x: F32) -> F32:
        return Blocks.of(self.block_size).map(
            x, lambda tiled: round_scaled(tiled, self._scale(tiled), self.element)
        )

    def bits_per_element(self, shape: Sequence[int]) -> float:
        width = 1 + self.exponent_width + self.frac_width
        return Blocks.of(self.block_size).bits_per_element(width, SCALE_BITS, shape)

    def emulation(self) -> Emulation:
        blocks = Blocks.of(self.block_size)
        limit = shared_limit(SCALE_BITS)
        attributes: Attributes = (
            ("block", (blocks.height, blocks.width)),
            ("least", 1 / limit),
            ("greatest", limit),
            ("shift", self._shift),
            *shape_attributes(self.element),
        )
        return Emulation("MxFp", _BODY, attributes)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = Blocks.of(self.block_size).spread(as_float32(weight), self._scale)
        return FloatGrid(arranged(scale, weight, groups), self.element)


def round_scaled(tiled: F32, scale: F32, element: FloatShape) -> F32:
    """Elements rounded in units of their block's scale."""
    rounded = element.round(tiled / scale)
    rounded *= scale
    return rounded


MXFP = Family(
    "mxfp",
    "OCP Microscaling floating point: a shared power of two for each block",
    (
        Parameter("exponent_width", int, "exponent bits of an element", choices=(2, 3, 4, 5)),
        Parameter("frac_width", int, "mantissa bits of an element", choices=(1, 2, 3)),
        MX_BLOCK_SIZE,
    ),
    lambda role, **parameters: MxFp(**parameters),
)
