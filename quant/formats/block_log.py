"""Powers of two whose exponent bias is chosen for each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.block_minifloat import EXPONENT_BIAS_WIDTH
from quant.formats.blocks import BLOCK_SIZE, Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, as_float32
from quant.formats.grids import ROOT_TWO, PowerGrid, arranged
from quant.formats.log import WIDTH, nearest_powers
from quant.formats.parameters import Family
from quant.formats.rounding import GREATEST_EXPONENT, LEAST_SUBNORMAL, ceiling_power, power_of_two

_BODY = f"""<block: ints, least: float, greatest: float, span: float> (x) => (y)
{{
{functions.constants(least="float", greatest="float", span="float")}
{functions.TILE}
{functions.HALF_CEILING_POWER}
    full_power = Add (power, power)
{functions.BOUND_POWER.replace("(power", "(full_power")}
    span_64 = Cast <to = 11> (span)
    bottom_64 = Mul (shared, span_64)
    bottom_32 = Cast <to = 1> (bottom_64)
    bottom = Cast <to = 11> (bottom_32)
    root_two_32 = Constant <value_float = {ROOT_TWO!r}> ()
    root_two = Cast <to = 11> (root_two_32)
    magnitudes_64 = Cast <to = 11> (magnitudes)
    lifted = Max (magnitudes_64, bottom)
    inside = Min (lifted, shared)
    raised = Mul (inside, root_two)
    large = Mul (raised, phi_64)
    less = Mul (large, minus_near_one_64)
    leading = Add (large, less)
    nearest = Abs (leading)
    not_small = Max (nearest, bottom)
    bounded_64 = Min (not_small, shared)
    bounded = Cast <to = 1> (bounded_64)
    zero_float = Constant <value_float = 0.0> ()
    negative = Less (tiled, zero_float)
    minus = Neg (bounded)
    result = Where (negative, minus, bounded)
{functions.UNTILE}
}}"""


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

    def emulation(self) -> Emulation:
        blocks = Blocks.of(self.block_size)
        least, greatest = self._bounds
        attributes = (
            ("block", (blocks.height, blocks.width)),
            ("least", least),
            ("greatest", greatest),
            ("span", self._span),
        )
        return Emulation("BlockLog", _BODY, attributes)

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
