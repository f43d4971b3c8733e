"""Enumerations that a configuration is written with.

`CalibrationMethod`, `QuantType` and `QuantFormat` are onnxruntime's own; the power-of-two and
layer-wise methods are ours. Each is spelled in files by its plain name (``MinMSE``, ``QInt8``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType


class PowerOfTwoMethod(Enum):
    """Range rules whose scales are powers of two."""

    NonOverflow = 0
    """The smallest power-of-two scale that clips no calibration value."""
    MinMSE = 1
    """The power-of-two scale with the least mean squared error on the calibration histogram."""


class LayerWiseMethod(Enum):
    """Range rules that choose their parameter for each tensor."""

    LayerWisePercentile = 0
    """Of the candidate percentiles, the one with the least error on the tensor's histogram."""
    MSE = 1
    """The range with the least mean squared error on the tensor's histogram."""


CalibrateMethod: TypeAlias = CalibrationMethod | PowerOfTwoMethod | LayerWiseMethod

CALIBRATE_METHODS: dict[str, CalibrateMethod] = {
    method.name: method for method in (*CalibrationMethod, *PowerOfTwoMethod, *LayerWiseMethod)
}
"""Every calibration method by the plain name that files use."""


class ExtendedQuantType(Enum):
    """Element types that onnxruntime runs and its `QuantType` does not name."""

    QInt2 = 0
    QUInt2 = 1
    QFLOAT8E5M2 = 2
    QFloat16 = 3
    """Rounded to float16 and back: no scale, no calibration."""
    QBFloat16 = 4
    """Rounded to bfloat16 and back."""


ElementName: TypeAlias = QuantType | ExtendedQuantType


class Encoding(StrEnum):
    """How values of an element type stand in a graph."""

    INTEGER = "integer"
    """QuantizeLinear and DequantizeLinear, with a range that saturates and a zero point."""
    FLOAT8 = "float8"
    """QuantizeLinear and DequantizeLinear with a scale alone."""
    FLOAT16 = "float16"
    """Cast to that type and back, without parameters."""
    BFLOAT16 = "bfloat16"
    """The same."""

    @property
    def is_cast(self) -> bool:
        """Whether tensors are rounded by Cast nodes and have no parameters."""
        return self in (Encoding.FLOAT16, Encoding.BFLOAT16)


@dataclass(frozen=True)
class ElementType:
    """One of ONNX's types as something to quantize to.

    Attributes:
        ir: The type of the initializers and of QuantizeLinear's output.
        encoding: How it stands in a graph.
        numpy: What arrays of codes are computed with; two- and four-bit codes take a byte each
            until they are written.
        bits: Width of a value as stored.
        qmin, qmax: Least and greatest code of an integer type; for others the greatest finite
            number, and its negative.
    """

    ir: ir.DataType
    encoding: Encoding
    numpy: np.dtype[Any]
    bits: int
    qmin: int
    qmax: int

    @property
    def signed(self) -> bool:
        """Whether negative values are represented."""
        return self.qmin < 0

    def __repr__(self) -> str:
        return f"ElementType({self.ir.name})"


def _integer(bits: int, signed: bool) -> ElementType:
    name = f"{'' if signed else 'U'}INT{bits}"
    qmin = -(1 << (bits - 1)) if signed else 0
    qmax = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    return ElementType(
        ir.DataType[name],
        Encoding.INTEGER,
        np.dtype(f"{'' if signed else 'u'}int{max(bits, 8)}"),
        bits,
        qmin,
        qmax,
    )


def _floating(data_type: ir.DataType, encoding: Encoding) -> ElementType:
    dtype = np.dtype(data_type.numpy())
    largest = int(float(ml_dtypes.finfo(dtype).max))  # type: ignore[no-untyped-call]
    return ElementType(data_type, encoding, dtype, 8 * dtype.itemsize, -largest, largest)


ELEMENT_TYPES: dict[ElementName, ElementType] = {
    ExtendedQuantType.QInt2: _integer(2, signed=True),
    ExtendedQuantType.QUInt2: _integer(2, signed=False),
    QuantType.QInt4: _integer(4, signed=True),
    QuantType.QUInt4: _integer(4, signed=False),
    QuantType.QInt8: _integer(8, signed=True),
    QuantType.QUInt8: _integer(8, signed=False),
    QuantType.QInt16: _integer(16, signed=True),
    QuantType.QUInt16: _integer(16, signed=False),
    QuantType.QFLOAT8E4M3FN: _floating(ir.DataType.FLOAT8E4M3FN, Encoding.FLOAT8),
    ExtendedQuantType.QFLOAT8E5M2: _floating(ir.DataType.FLOAT8E5M2, Encoding.FLOAT8),
    ExtendedQuantType.QFloat16: _floating(ir.DataType.FLOAT16, Encoding.FLOAT16),
    ExtendedQuantType.QBFloat16: _floating(ir.DataType.BFLOAT16, Encoding.BFLOAT16),
}
"""The element types that can be quantized to."""

ELEMENT_NAMES: dict[str, ElementName] = {member.name: member for member in ELEMENT_TYPES}
"""Every element type by the plain name that files use."""

INTEGER_TYPES: dict[ElementName, ElementType] = {
    name: element for name, element in ELEMENT_TYPES.items() if element.encoding is Encoding.INTEGER
}
"""Those with a range and a zero point."""

__all__ = [
    "CALIBRATE_METHODS",
    "ELEMENT_NAMES",
    "ELEMENT_TYPES",
    "INTEGER_TYPES",
    "CalibrateMethod",
    "CalibrationMethod",
    "ElementName",
    "ElementType",
    "Encoding",
    "ExtendedQuantType",
    "LayerWiseMethod",
    "PowerOfTwoMethod",
    "QuantFormat",
    "QuantType",
]
