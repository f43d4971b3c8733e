"""Powers of two whose exponent bias is chosen for each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.block_minifloat import EXPONENT_BIAS_WIDTH
from quant.formats.blocks import BLOCK_SIZE, Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import PowerGrid, arranged
from quant.formats.log import NEAREST_POWER, WIDE_NEAREST_POWER, WIDTH, nearest_powers
from quant.formats.parameters import Family
from quant.formats.rounding import (
    GREATEST_EXPONENT,
    LEAST_EXPONENT,
    LEAST_SUBNORMAL,
    ceiling_power,
    power_of_two,
)
from quant.formats.tiling import tiled

_SCALE = f"""{functions.HALF_CEILING_POWER}
    full_power = Add (power, power)
    scale = Clip (full_power, least, greatest)
"""

_RESULT = f"""
    one_scale = Constant <value_float = 1.0> ()
    scaled = Div (magnitudes, spread)
    inside = Clip (scaled, span, one_scale)
{NEAREST_POWER}
    bounded = Clip (nearest, span, one_scale)
{functions.SIGN.format(source="cut")}
    signed = Mul (bounded, sign)
    result = Mul (signed, spread)
"""

_WIDE_RESULT = f"""
    bottom = Mul (spread, span)
    lifted = Max (magnitudes, bottom)
    inside = Min (lifted, spread)
{WIDE_NEAREST_POWER}
    not_small = Max (nearest, bottom)
    bounded = Min (not_small, spread)
{functions.SIGN.format(source="cut")}
    result = Mul (bounded, sign)
"""


@dataclass(frozen=True)
class BlockLog(Format):
    """`log` with a bias of the block, clip(2^(w−1) − 1 − ceil(log2 max abs x), 0, 2^B − 1).

    NaN does not count for its block.

    Attributes:
        width: w bits of an element: sign and exponent.
        exponent_bias_width: B, bits of the shared bias.
        block_size: Of one or two axes, from the last one.
    """

    width: int
    exponent_bias_width: int
    block_size: tuple[int, ...]

    @property
    def name(self) -> str:
        return "block_log"

    @property
    def _span(self) -> float:
        """Least magnitude in units of the greatest; 0 where it is too small for float32."""
        return float(power_of_two(1 - (1 << (self.width - 1))))

    @property
    def _bounds(self) -> tuple[float, float]:
        """Of the greatest magnitude of a block, as far as float32 has it."""
        greatest = (1 << (self.width - 1)) - 1
        least = greatest - (1 << self.exponent_bias_width) + 1
        return 2.0 ** min(max(least, LEAST_SUBNORMAL), 127), 2.0 ** min(greatest, GREATEST_EXPONENT)

    def _greatest(self, tiled: F32) -> F32:
        return np.clip(ceiling_power(largest_magnitudes(tiled)), *self._bounds).astype(np.float32)

    def _round(self, tiled: F32) -> F32:
        greatest = self._greatest(tiled)
        return nearest_powers(tiled, greatest * np.float32(self._span), greatest)

    def _round_array(self, x: F32) -> F32:
        return Blocks.of(self.block_size).map(x, self._round)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        blocks = Blocks.of(self.block_size)
        return blocks.bits_per_element(self.width, self.exponent_bias_width, shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        least, greatest = self._bounds
        constants = {"least": least, "greatest": greatest, "span": self._span}
        if self._span >= 2.0**LEAST_EXPONENT:
            op_type, result = "BlockLog", _RESULT
        else:
            op_type, result = "WideBlockLog", _WIDE_RESULT
        return tiled(op_type, Blocks.of(self.block_size), shape, constants, (_SCALE, result))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        spread = Blocks.of(self.block_size).spread(as_float32(weight), self._greatest)
        greatest = arranged(spread, weight, groups)
        return PowerGrid(greatest * np.float32(self._span), greatest)


BLOCK_LOG = Family(
    "block_log",
    "powers of two with an exponent bias for each block",
    (WIDTH, EXPONENT_BIAS_WIDTH, BLOCK_SIZE),
    lambda role, **parameters: BlockLog(**parameters),
)
