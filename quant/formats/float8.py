"""ONNX's 8-bit floating-point types, with a calibrated scale."""

from __future__ import annotations

from dataclasses import dataclass

from quant.finetune.grid import RoundingGrid
from quant.formats.affine import TENSOR, Affine, BoundAffine, check_granularity, granularity
from quant.formats.contract import F32, Format
from quant.formats.grids import FloatGrid, arranged
from quant.formats.parameters import Family
from quant.formats.rounding import FloatShape
from quant.types import ELEMENT_TYPES, ElementType, Encoding

_SHAPES = {"FLOAT8E4M3FN": (3, -6), "FLOAT8E5M2": (2, -14)}
"""Mantissa bits and exponent of the least normal number."""


@dataclass(frozen=True)
class Float8(Affine):
    """scale × a float8 number, scale = greatest magnitude of the range / greatest finite number."""

    def bound(self, low: F32, high: F32) -> Format:
        return BoundFloat8(self, self.params(low, high))


@dataclass(frozen=True, eq=False)
class BoundFloat8(BoundAffine):
    """With its scale: x / scale to the nearest, ties to even, saturated at the greatest finite number."""

    def _round_array(self, x: F32) -> F32:
        scale, _ = self.spread(x.shape)
        rounded = self._shape.round(x / scale)
        rounded *= scale
        return rounded

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale, _ = self.spread(weight.shape)
        return FloatGrid(arranged(scale, weight, groups), self._shape)

    @property
    def _shape(self) -> FloatShape:
        element = self.format.element
        return FloatShape(*_SHAPES[element.ir.name], float(element.qmax))


def _family(element: ElementType) -> Family:
    def make(role: str, *, granularity: str = TENSOR, block_size: int = 0) -> Format:
        check_granularity(granularity, block_size)
        return Float8(element, True, granularity, block_size)

    name = element.ir.name.lower()
    return Family(name, f"ONNX's {element.ir.name} with a calibrated scale", granularity(), make)


FLOAT8 = tuple(_family(element) for element in ELEMENT_TYPES.values() if element.encoding is Encoding.FLOAT8)
