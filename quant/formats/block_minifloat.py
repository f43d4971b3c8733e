"""Minifloats whose exponent bias is chosen for each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.blocks import BLOCK_SIZE, Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import FloatGrid, arranged, finetuning_scale
from quant.formats.minifloat_ieee import WIDTH, shape_constants
from quant.formats.mxfp import SCALED_ROUND, round_scaled
from quant.formats.parameters import Family, Parameter
from quant.formats.rounding import (
    GREATEST_EXPONENT,
    LEAST_SUBNORMAL,
    FloatShape,
    check_widths,
    float_shape,
    leading_power,
)
from quant.formats.tiling import tiled

_SCALE = f"""{functions.FLOOR_POWER}
    covered = Mul (power, largest)
    exceeds = Greater (finite, covered)
    next_power = Add (power, power)
    covering = Where (exceeds, next_power, power)
    scale = Clip (covering, least, greatest)
"""
"""What float32 makes of `covered` among its subnormal numbers does not lie below any `finite` there."""


@dataclass(frozen=True)
class BlockMinifloat(Format):
    """`minifloat_ieee` with a bias b of the block, 0 <= b < 2^B: the greatest that covers the block.

    That is, the greatest b with max abs x <= (2 − 2^-M) 2^(2^E − 1 − b); blocks beyond those of b = 0
    saturate. NaN does not count for its block.

    Attributes:
        width: w bits of an element: sign, exponent and M = w − E − 1 mantissa bits.
        exponent_width: E.
        exponent_bias_width: B, bits of the shared bias.
        block_size: Of one or two axes, from the last one.
    """

    width: int
    exponent_width: int
    exponent_bias_width: int
    block_size: tuple[int, ...]

    def __post_init__(self) -> None:
        check_widths(self.width, self.exponent_width, mantissa_bits=0)

    @property
    def name(self) -> str:
        return "block_minifloat"

    @property
    def element(self) -> FloatShape:
        """The numbers of an element in units of 2^(2^E − 1 − b): up to 2 − 2^-M."""
        return float_shape(self.width - self.exponent_width - 1, 2 - (1 << self.exponent_width), 0)

    @property
    def _scale_bounds(self) -> tuple[float, float]:
        """Of 2^(2^E − 1 − b), as far as float32 has them."""
        greatest = (1 << self.exponent_width) - 1
        least = greatest - (1 << self.exponent_bias_width) + 1
        return 2.0 ** max(least, LEAST_SUBNORMAL), 2.0 ** min(greatest, GREATEST_EXPONENT)

    def _scale(self, tiled: F32) -> F32:
        magnitude = largest_magnitudes(tiled)
        power = leading_power(magnitude)
        covering: NDArray[np.float64] = np.where(magnitude > self.element.largest * power, 2 * power, power)
        return np.clip(covering, *self._scale_bounds).astype(np.float32)

    def _round_array(self, x: F32) -> F32:
        return Blocks.of(self.block_size).map(
            x, lambda tiled: round_scaled(tiled, self._scale(tiled), self.element)
        )

    def bits_per_element(self, shape: Sequence[int]) -> float:
        blocks = Blocks.of(self.block_size)
        return blocks.bits_per_element(self.width, self.exponent_bias_width, shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        constants = dict(zip(("least", "greatest"), self._scale_bounds, strict=True))
        constants |= shape_constants(self.element)
        blocks = Blocks.of(self.block_size)
        return tiled("BlockMinifloat", blocks, shape, constants, (_SCALE, SCALED_ROUND))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = Blocks.of(self.block_size).spread(as_float32(weight), self._scale)
        return FloatGrid(arranged(finetuning_scale(scale), weight, groups), self.element)


EXPONENT_BIAS_WIDTH = Parameter(
    "exponent_bias_width", int, "bits of the bias that a block shares", low=1, high=8
)

BLOCK_MINIFLOAT = Family(
    "block_minifloat",
    "minifloats with an exponent bias for each block",
    (
        WIDTH,
        Parameter("exponent_width", int, "bits of an element's exponent", low=1, high=6),
        EXPONENT_BIAS_WIDTH,
        BLOCK_SIZE,
    ),
    lambda role, **parameters: BlockMinifloat(**parameters),
)
