"""ONNX's own quantized types: codes with a scale and a zero point from a calibrated range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.errors import ConfigError
from quant.finetune.grid import RoundingGrid, UniformGrid
from quant.formats.contract import F32, Emulation, Format, KnownShape, Native, as_float32, needs_range
from quant.formats.grids import arranged
from quant.formats.parameters import Derived, Family, Parameter
from quant.qparams import Grid, QuantParams, quant_params, weight_extremes
from quant.types import INTEGER_TYPES, ElementType

TENSOR, CHANNEL, BLOCK = "tensor", "channel", "block"

_CONSTANTS = ("weight",)


@dataclass(frozen=True)
class Affine(Format):
    """scale (q − zero_point) for the codes q of an integer type; scale and zero point are still open.

    Attributes:
        element: The type.
        symmetric: The zero point is 0 (the middle for unsigned types).
        granularity: What shares a scale: "tensor", "channel" (first axis) or "block" (last axis).
        block_size: Elements of a block; 0 without blocks.
    """

    element: ElementType
    symmetric: bool
    granularity: str = TENSOR
    block_size: int = 0

    @property
    def name(self) -> str:
        return self.element.ir.name.lower()

    @property
    def calibrated(self) -> bool:
        return True

    def extremes(self, weight: F32) -> tuple[F32, F32]:
        axis = {TENSOR: None, CHANNEL: 0, BLOCK: weight.ndim - 1}[self.granularity]
        if weight.ndim == 0:
            axis = None
        return weight_extremes(
            weight, axis, self.block_size if axis is not None and self.block_size else None
        )

    def bound(self, low: F32, high: F32) -> Format:
        return BoundAffine(self, self.params(low, high))

    def params(self, low: F32, high: F32) -> QuantParams:
        """Scale and zero point that cover a range, in onnxruntime's conventions."""
        axis = {TENSOR: None, CHANNEL: 0, BLOCK: -1}[self.granularity]
        low, high = as_float32(low), as_float32(high)
        block_size = self.block_size or None
        if low.ndim == 0:
            axis = block_size = None
        return quant_params(low, high, Grid(self.element, self.symmetric), axis, block_size)

    def _round_array(self, x: F32) -> F32:
        raise needs_range(self.name)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.element.bits

    def emulation(self, shape: KnownShape | None = None) -> Emulation | None:
        return None

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        return self.fit(weight).grid(weight, groups)


@dataclass(frozen=True, eq=False)
class BoundAffine(Format):
    """Codes with their scale and zero point: round(x / scale), half to even, saturated (QuantizeLinear).

    Attributes:
        format: What was bound.
        params: Scale and zero point of shape (), of the first axis, or of the blocks of the last.
    """

    format: Affine
    params: QuantParams

    @property
    def name(self) -> str:
        return self.format.name

    def _round_array(self, x: F32) -> F32:
        element = self.format.element
        scale, zero_point = self.spread(x.shape)
        steps: F32 = np.rint(x / scale)
        steps += zero_point
        np.clip(steps, np.float32(element.qmin), np.float32(element.qmax), out=steps)
        steps -= zero_point
        steps *= scale
        return steps

    def spread(self, shape: tuple[int, ...]) -> tuple[F32, F32]:
        """Scale and zero point, float32, broadcastable to a tensor of this shape."""
        scale, zero_point = (
            np.asarray(parameter, np.float32) for parameter in (self.params.scale, self.params.zero_point)
        )
        if self.params.axis is None:
            return scale, zero_point
        if self.params.block_size is None:
            along = (-1, *([1] * (len(shape) - 1)))
            return scale.reshape(along), zero_point.reshape(along)
        repeated = (
            np.repeat(parameter, self.params.block_size, axis=-1)[..., : shape[-1]]
            for parameter in (scale, zero_point)
        )
        return next(repeated), next(repeated)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.format.bits_per_element(shape)

    def native(self, *, packed: bool = True) -> Native | None:
        return Native(self.format.element, self.params)

    def emulation(self, shape: KnownShape | None = None) -> Emulation | None:
        return None

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        element = self.format.element
        each = (arranged(parameter, weight, groups) for parameter in self.spread(weight.shape))
        return UniformGrid(next(each), next(each), element.qmin, element.qmax)


def granularity() -> tuple[Parameter, ...]:
    """The parameters of what shares a scale; for constants alone."""
    return (
        Parameter(
            "granularity",
            str,
            "what shares a scale",
            TENSOR,
            choices=(TENSOR, CHANNEL, BLOCK),
            roles=_CONSTANTS,
        ),
        Parameter(
            "block_size",
            int,
            "inputs that share a scale, with granularity block",
            Derived("32 with granularity block", lambda given: 32 if given["granularity"] == BLOCK else 0),
            low=1,
            high=1 << 20,
            roles=_CONSTANTS,
        ),
    )


def check_granularity(granularity: str, block_size: int) -> None:
    """Refuses a block size that would have no effect."""
    if granularity != BLOCK and block_size:
        raise ConfigError(f"block_size {block_size} needs granularity: {BLOCK}, not {granularity}")


def _family(element: ElementType) -> Family:
    def make(role: str, *, symmetric: bool, granularity: str = TENSOR, block_size: int = 0) -> Format:
        check_granularity(granularity, block_size)
        if granularity == CHANNEL and not symmetric:
            raise ConfigError(
                "granularity: channel needs symmetric: true; runtimes have one zero point for all channels"
            )
        return Affine(element, symmetric, granularity, block_size)

    symmetric = Parameter("symmetric", bool, "the range is symmetric about zero", element.signed)
    return Family(
        element.ir.name.lower(),
        f"ONNX's {element.ir.name} with a scale and a zero point from the calibrated range",
        (symmetric, *granularity()),
        make,
    )


AFFINE = tuple(_family(element) for element in INTEGER_TYPES.values())
