"""ONNX's FLOAT4E2M1 in blocks: MXFP4 and NVFP4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.blocks import Blocks, largest_magnitudes
from quant.formats.contract import F32, Emulation, Format, KnownShape, as_float32, needs_range
from quant.formats.grids import FloatGrid, arranged
from quant.formats.minifloat_ieee import shape_constants
from quant.formats.mxfp import ELEMENTS, MxFp, round_scaled
from quant.formats.parameters import Family, Parameter
from quant.formats.tiling import tiled
from quant.qparams import weight_extremes

_ELEMENT, _SCALE = ELEMENTS[2, 1], ELEMENTS[4, 3]

NVFP4_BLOCK, MXFP4_BLOCK = 16, 32

_LEAST_TENSOR_SCALE = 2.0**-100

_FAR_ABOVE = 1024.0
"""In place of a scale of 0, of blocks without numbers above 2^-7 t: in units of it they round to 0."""

_SCALE_TEXT = f"""
    six = Constant <value_float = {_ELEMENT.largest}> ()
    share = Div (finite, six)
    wanted = Div (share, tensor_scale)
    scale_largest = Constant <value_float = {_SCALE.largest}> ()
    scale_spacing = Constant <value_float = {_SCALE.least_spacing!r}> ()
    scale_phi_unit = Constant <value_float = {functions.PHI * 2.0**-_SCALE.mantissa_bits}> ()
    scale_minus_near_one = Constant <value_float = -0.99999994> ()
    scale_inside = Min (wanted, scale_largest)
    scale_large = Mul (scale_inside, scale_phi_unit)
    scale_less = Mul (scale_large, scale_minus_near_one)
    scale_free = Add (scale_large, scale_less)
    scale_ulp = Max (scale_free, scale_spacing)
    scale_steps = Div (scale_inside, scale_ulp)
    scale_whole = Round (scale_steps)
    scale_code = Mul (scale_whole, scale_ulp)
    zero_float = Constant <value_float = 0.0> ()
    far_above = Constant <value_float = {_FAR_ABOVE}> ()
    is_zero = Equal (scale_code, zero_float)
    scale = Where (is_zero, far_above, scale_code)
"""

_RESULT = f"""
    own_scale = Mul (spread, tensor_scale)
    scaled = Div (cut, own_scale)
{functions.ROUND_TO_FLOAT}
    result = Mul (rounded, own_scale)
"""


@dataclass(frozen=True)
class Nvfp4(Format):
    """q = t s times an E2M1 number; t is the tensor's scale, still open, and s an E4M3 number of the block.

        t = greatest magnitude of the range / (448 · 6),    s = E4M3(max abs x / 6 / t),

    each step in float32. Blocks whose s is 0 become 0. (NVIDIA, "Introducing NVFP4", 2025.)

    Attributes:
        block_size: 16.
    """

    block_size: tuple[int, ...] = (NVFP4_BLOCK,)

    @property
    def name(self) -> str:
        return "float4e2m1"

    @property
    def calibrated(self) -> bool:
        return True

    def extremes(self, weight: F32) -> tuple[F32, F32]:
        return weight_extremes(weight, None)

    def bound(self, low: F32, high: F32) -> Format:
        largest = max(abs(float(np.min(low))), abs(float(np.max(high))))
        largest = min(largest, float(np.finfo(np.float32).max))
        scale = max(largest / (_SCALE.largest * _ELEMENT.largest), _LEAST_TENSOR_SCALE) if largest else 1.0
        return BoundNvfp4(self, float(np.float32(scale)))

    def _round_array(self, x: F32) -> F32:
        raise needs_range(self.name)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return Blocks.of(self.block_size).bits_per_element(4, 8, shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation | None:
        raise needs_range(self.name)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        return self.fit(weight).grid(weight, groups)


@dataclass(frozen=True)
class BoundNvfp4(Format):
    """With the tensor's scale.

    Attributes:
        format: What was bound.
        tensor_scale: t, exact in float32.
    """

    format: Nvfp4
    tensor_scale: float

    @property
    def name(self) -> str:
        return self.format.name

    def _scale(self, tiled: F32) -> F32:
        """T s of each block."""
        share = largest_magnitudes(tiled).astype(np.float32) / np.float32(_ELEMENT.largest)
        scale: F32 = _SCALE.round(share / np.float32(self.tensor_scale)) * np.float32(self.tensor_scale)
        return scale

    def _round(self, tiled: F32) -> F32:
        scale = self._scale(tiled)
        rounded = round_scaled(tiled, np.where(scale == 0, np.float32(1), scale), _ELEMENT)
        return np.where(scale == 0, np.where(np.isnan(tiled), tiled, np.float32(0)), rounded)

    def _round_array(self, x: F32) -> F32:
        return Blocks.of(self.format.block_size).map(x, self._round)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.format.bits_per_element(shape)

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        constants = {"tensor_scale": self.tensor_scale, **shape_constants(_ELEMENT)}
        return tiled("Nvfp4", Blocks.of(self.format.block_size), shape, constants, (_SCALE_TEXT, _RESULT))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = Blocks.of(self.format.block_size).spread(as_float32(weight), self._scale)
        return FloatGrid(arranged(scale, weight, groups), _ELEMENT)


def _make(role: str, *, block_size: int) -> Format:
    return MxFp(2, 1, (MXFP4_BLOCK,), "float4e2m1") if block_size == MXFP4_BLOCK else Nvfp4()


FLOAT4 = Family(
    "float4e2m1",
    "ONNX's FLOAT4E2M1 in blocks: MXFP4 (32, E8M0 scales) or NVFP4 (16, E4M3 scales and a calibrated one)",
    (
        Parameter(
            "block_size",
            int,
            "32 for MXFP4, 16 for NVFP4",
            MXFP4_BLOCK,
            choices=(MXFP4_BLOCK, NVFP4_BLOCK),
        ),
    ),
    _make,
)
