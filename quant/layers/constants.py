"""Weights and biases in their formats, as initializers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.constant_params import code_tensor
from quant.formats import Format, Native
from quant.layers.arrangement import Arrangement
from quant.qparams import QuantParams
from quant.types import ElementType


@dataclass(frozen=True, eq=False)
class RoundedConstant:
    """A constant in its format.

    Attributes:
        format: Bound to a range, if it needs one.
        bits: Of an element, what blocks share included.
        codes: As the format's own type has them, or rounded numbers in float32; the name is free.
        params: Scale and zero point in the layout of the codes; None where there are none.
        zero_point: Of the codes' type.
        element: Type of the codes; None for rounded numbers.
        arrangement: Of the constant.
    """

    format: Format
    bits: float
    codes: onnx.TensorProto
    params: QuantParams | None
    zero_point: onnx.TensorProto | None
    element: ElementType | None
    arrangement: Arrangement

    @property
    def is_float(self) -> bool:
        """Whether the codes are the numbers themselves."""
        return self.element is None

    @property
    def cast(self) -> bool:
        """Whether the codes become real numbers by Cast, and not by DequantizeLinear."""
        return self.element is not None and self.params is None

    @property
    def is_emulated(self) -> bool:
        """Whether the codes' type is wider than the format."""
        return self.element is None or self.element.bits > self.bits

    @property
    def nbytes(self) -> int:
        """Of the codes, as they are stored."""
        return int(self.codes.ByteSize())


def round_constant(values: NDArray[Any], own: Format, arrangement: Arrangement) -> RoundedConstant:
    """A constant in its format.

    Args:
        values: As the operator stores it.
        own: Its format, bound.
        arrangement: How formats see it.
    """
    arranged = np.asarray(arrangement.arrange(values), np.float32)
    native, bits = own.native(), own.bits_per_element(arranged.shape)
    params = None if native is None else _stored_params(native, arrangement)
    usable = native is not None and (native.params is None or params is not None)
    codes = constant_codes(arranged, own, arrangement, packed=usable)
    if not usable or native is None:
        return RoundedConstant(own, bits, codes, None, None, None, arrangement)
    if params is None:
        return RoundedConstant(own, bits, codes, None, None, native.element, arrangement)
    zero_point = code_tensor(params.zero_point, native.element, "")
    return RoundedConstant(own, bits, codes, params, zero_point, native.element, arrangement)


def constant_codes(
    arranged: NDArray[np.float32], own: Format, arrangement: Arrangement, *, packed: bool
) -> onnx.TensorProto:
    """An arranged constant as it is stored: codes of the format's type, or rounded numbers."""
    native = own.native() if packed else None
    if native is None:
        return onnx.numpy_helper.from_array(arrangement.restore(own.round(arranged)), "")
    return code_tensor(arrangement.restore(native.codes(arranged)), native.element, "")


def _stored_params(native: Native, arrangement: Arrangement) -> QuantParams | None:
    """Scale and zero point in the stored layout; None if there are none, or no axis for them."""
    params = native.params
    if params is None or params.axis is None:
        return params
    axis = arrangement.stored_axis(params.axis)
    if axis is None:
        return None
    if params.block_size is None:
        return QuantParams(params.scale, params.zero_point, axis)
    scale, zero_point = (arrangement.restore(part) for part in (params.scale, params.zero_point))
    return QuantParams(scale, zero_point, axis, params.block_size)


def renamed(tensors: Iterable[tuple[onnx.TensorProto, str]]) -> list[onnx.TensorProto]:
    """Copies with names."""
    copies = []
    for tensor, name in tensors:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = name
        copies.append(copy)
    return copies
