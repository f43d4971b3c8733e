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
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import FloatGrid, arranged, finetuning_scale
from quant.formats.minifloat_ieee import shape_constants
from quant.formats.mxint import MX_BLOCK_SIZE, shared_limit
from quant.formats.parameters import Family, Parameter
from quant.formats.rounding import FloatShape, leading_power
from quant.formats.tiling import tiled

ELEMENTS = {
    (4, 3): FloatShape(3, -6, 448.0),
    (5, 2): FloatShape(2, -14, 57344.0),
    (2, 3): FloatShape(3, 0, 7.5),
    (3, 2): FloatShape(2, -2, 28.0),
    (2, 1): FloatShape(1, 0, 6.0),
}
"""The standard's elements by exponent and mantissa bits: E4M3, E5M2, E2M3, E3M2 and E2M1."""

SCALE_BITS = 8

SCALED_ROUND = f"""
    scaled = Div (cut, spread)
{functions.ROUND_TO_FLOAT}
    result = Mul (rounded, spread)
"""
"""cut, spread -> result: elements rounded in units of a power of two of their block."""

_SCALE = f"""{functions.FLOOR_POWER}
    unbounded = Mul (power, shift)
    scale = Clip (unbounded, least, greatest)
"""


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

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        limit = shared_limit(SCALE_BITS)
        constants = {"shift": self._shift, "least": 1 / limit, "greatest": limit}
        constants |= shape_constants(self.element)
        return tiled("MxFp", Blocks.of(self.block_size), shape, constants, (_SCALE, SCALED_ROUND))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = Blocks.of(self.block_size).spread(as_float32(weight), self._scale)
        return FloatGrid(arranged(finetuning_scale(scale), weight, groups), self.element)


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
