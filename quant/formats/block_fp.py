"""Block floating point: integers that share an exponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.finetune.grid import RoundingGrid, UniformGrid
from quant.formats import functions
from quant.formats.blocks import BLOCK_SIZE, Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32
from quant.formats.grids import arranged, finetuning_scale
from quant.formats.parameters import Derived, Family, Parameter
from quant.formats.rounding import LEAST_SUBNORMAL, ceiling_power, check_range, greatest_code
from quant.formats.tiling import tiled

_TEXTS = functions.HALF_CEILING_POWER + functions.SHARED_SPACING, functions.ROUND_TO_CODES


@dataclass(frozen=True)
class BlockFp(Format):
    """Integers of m = w − 1 bits and a sign with an exponent e for each block.

        e = clip(ceil(log2 max abs x), −b, 2^ew − 1 − b)
        q = sign(x) 2^e clip(round(abs x / 2^e 2^m), 0, 2^m − 1) / 2^m.

    A greatest magnitude that is 2^e itself becomes the number below. NaN does not count for its block.

    Attributes:
        width: w bits of an element, with its sign.
        exponent_width: ew, bits of the shared exponent.
        exponent_bias: b.
        block_size: Of one or two axes, from the last one.
    """

    width: int
    exponent_width: int
    exponent_bias: int
    block_size: tuple[int, ...]

    def __post_init__(self) -> None:
        check_range(*self._exponents)

    @property
    def name(self) -> str:
        return "block_fp"

    @property
    def _exponents(self) -> tuple[int, int]:
        return -self.exponent_bias, (1 << self.exponent_width) - 1 - self.exponent_bias

    def _spacing(self, tiled: F32) -> F32:
        least, greatest = (2.0**exponent for exponent in self._exponents)
        shared = np.clip(ceiling_power(largest_magnitudes(tiled)), least, greatest)
        return spacing(shared, 2.0 ** (1 - self.width))

    def _round_array(self, x: F32) -> F32:
        code = greatest_code(self.width - 1)
        return Blocks.of(self.block_size).map(
            x, lambda tiled: round_to_codes(tiled, self._spacing(tiled), code)
        )

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return Blocks.of(self.block_size).bits_per_element(self.width, self.exponent_width, shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        least, greatest = (2.0 ** (min(exponent, 128) - 1) for exponent in self._exponents)
        constants = code_constants(self.width, 2.0 ** (2 - self.width), least, greatest)
        return tiled("BlockFp", Blocks.of(self.block_size), shape, constants, _TEXTS)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        spread = Blocks.of(self.block_size).spread(as_float32(weight), self._spacing)
        scale = arranged(finetuning_scale(spread), weight, groups)
        code = greatest_code(self.width - 1)
        return UniformGrid(scale, np.zeros((1, 1, 1), np.float32), -code, code)


def spacing(shared: NDArray[np.float64], unit: float) -> F32:
    """A power of two per block, float64, times the elements' unit; not below float32's own spacing."""
    return np.maximum(shared * unit, 2.0**LEAST_SUBNORMAL).astype(np.float32)


def code_constants(width: int, unit: float, least: float, greatest: float) -> dict[str, float]:
    """The constants of `functions.SHARED_SPACING` and `functions.ROUND_TO_CODES`.

    Args:
        width: Of an element.
        unit: Of the elements, in shared powers.
        least, greatest: Shared powers.
    """
    code = float(greatest_code(width - 1))
    bounds = max(least * unit, 2.0**LEAST_SUBNORMAL), greatest * unit
    return {"unit": unit, "least": bounds[0], "greatest": bounds[1], "least_code": -code, "code": code}


def round_to_codes(tiled: F32, ulp: F32, code: int) -> F32:
    """The nearest multiple of each block's spacing, ties to even, at most so many of them."""
    limit = np.float32(code)
    codes: F32 = tiled / ulp
    np.rint(codes, out=codes)
    np.clip(codes, -limit, limit, out=codes)
    codes *= ulp
    return codes


BLOCK_FP = Family(
    "block_fp",
    "integers that share an exponent",
    (
        Parameter("width", int, "bits of an element: sign and mantissa", 12, low=2, high=32),
        Parameter("exponent_width", int, "bits of the shared exponent", 8, low=1, high=8),
        Parameter(
            "exponent_bias",
            int,
            "what is subtracted from the exponent's code",
            Derived("2^(exponent_width - 1) - 1", lambda given: (1 << (given["exponent_width"] - 1)) - 1),
            low=-126,
            high=127,
        ),
        BLOCK_SIZE,
    ),
    lambda role, **parameters: BlockFp(**parameters),
)
