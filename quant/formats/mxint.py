"""OCP Microscaling integers: elements of few bits that share a power of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid, UniformGrid
from quant.formats import functions
from quant.formats.block_fp import code_constants, round_to_codes, spacing
from quant.formats.blocks import BLOCK_SIZE, Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import arranged, finetuning_scale
from quant.formats.parameters import Family, Parameter
from quant.formats.rounding import greatest_code, leading_power
from quant.formats.tiling import tiled

_TEXTS = functions.FLOOR_POWER + functions.SHARED_SPACING, functions.ROUND_TO_CODES


@dataclass(frozen=True)
class MxInt(Format):
    """q = X k 2^(2−b) with X = 2^floor(log2 max abs x) of the block and abs k < 2^(b−1).

    k = round(x / X 2^(b−2)), ties to even, saturated to both sides alike: the code −2^(b−1) is left
    unused, as the standard allows (OCP Microscaling Formats v1.0, 5.3.4). NaN does not count for its block.

    Attributes:
        width: b bits of an element.
        block_size: Of one or two axes, from the last one.
        scale_bits: B of X, whose exponent is at most 2^(B−1) − 1 either way; 8 is the standard's E8M0.
    """

    width: int
    block_size: tuple[int, ...] = (32,)
    scale_bits: int = 8

    @property
    def name(self) -> str:
        return "mxint"

    def _spacing(self, tiled: F32) -> F32:
        greatest = shared_limit(self.scale_bits)
        shared = np.clip(leading_power(largest_magnitudes(tiled)), 1 / greatest, greatest)
        return spacing(shared, 2.0 ** (2 - self.width))

    def _round_array(self, x: F32) -> F32:
        code = greatest_code(self.width - 1)
        return Blocks.of(self.block_size).map(
            x, lambda tiled: round_to_codes(tiled, self._spacing(tiled), code)
        )

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return Blocks.of(self.block_size).bits_per_element(self.width, self.scale_bits, shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        greatest = shared_limit(self.scale_bits)
        constants = code_constants(self.width, 2.0 ** (2 - self.width), 1 / greatest, greatest)
        return tiled("MxInt", Blocks.of(self.block_size), shape, constants, _TEXTS)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        spread = Blocks.of(self.block_size).spread(as_float32(weight), self._spacing)
        scale = arranged(finetuning_scale(spread), weight, groups)
        code = greatest_code(self.width - 1)
        return UniformGrid(scale, np.zeros((1, 1, 1), np.float32), -code, code)


def shared_limit(scale_bits: int) -> float:
    """The greatest shared power of two; its inverse is the least one."""
    return 2.0 ** ((1 << (scale_bits - 1)) - 1)


MX_BLOCK_SIZE = Parameter(
    "block_size", tuple, BLOCK_SIZE.meaning, (32,), low=BLOCK_SIZE.low, high=BLOCK_SIZE.high
)

MXINT = Family(
    "mxint",
    "OCP Microscaling integers: a shared power of two for each block",
    (
        Parameter("width", int, "bits of an element", low=2, high=32),
        MX_BLOCK_SIZE,
        Parameter("scale_bits", int, "bits of the shared exponent", 8, low=1, high=8),
    ),
    lambda role, **parameters: MxInt(**parameters),
)
