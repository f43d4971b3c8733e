"""Enumerations that a configuration is written with.

`CalibrationMethod`, `QuantType` and `QuantFormat` are onnxruntime's own; the power-of-two and
layer-wise methods are ours. Each is spelled in files by its plain name (``MinMSE``, ``QInt8``).
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

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


CalibrateMethod: TypeAlias = CalibrationMethod | PowerOfTwoMethod | LayerWiseMethod

CALIBRATE_METHODS: dict[str, CalibrateMethod] = {
    method.name: method for method in (*CalibrationMethod, *PowerOfTwoMethod, *LayerWiseMethod)
}
"""Every calibration method by the plain name that files use."""


class IntegerType:
    """Range and storage of one of ONNX's integer types.

    Attributes:
        bits: Width of a value.
        signed: Whether negative values are represented.
        qmin, qmax: Least and greatest representable integer.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        self.bits = bits
        self.signed = signed
        self.qmin = -(1 << (bits - 1)) if signed else 0
        self.qmax = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        self.numpy: np.dtype[np.signedinteger] = np.dtype(f"{'' if signed else 'u'}int{bits}")
        self.ir = ir.DataType.from_numpy(self.numpy)

    def __repr__(self) -> str:
        return f"IntegerType({self.numpy.name})"


INTEGER_TYPES: dict[QuantType, IntegerType] = {
    QuantType.QInt8: IntegerType(8, signed=True),
    QuantType.QUInt8: IntegerType(8, signed=False),
    QuantType.QInt16: IntegerType(16, signed=True),
    QuantType.QUInt16: IntegerType(16, signed=False),
}
"""The element types that can be quantized to."""

__all__ = [
    "CALIBRATE_METHODS",
    "INTEGER_TYPES",
    "CalibrateMethod",
    "CalibrationMethod",
    "IntegerType",
    "LayerWiseMethod",
    "PowerOfTwoMethod",
    "QuantFormat",
    "QuantType",
]
