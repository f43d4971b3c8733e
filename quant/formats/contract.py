"""What a number format is: a value that rounds, counts its bits and says how it goes into ONNX."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.errors import ConfigError
from quant.finetune.grid import RoundingGrid
from quant.qparams import QuantParams, quantize
from quant.types import ElementType

F32: TypeAlias = NDArray[np.float32]

KnownShape: TypeAlias = tuple[int | None, ...]
"""Lengths of a tensor's axes; None for those that may differ from run to run."""

DOMAIN = "autosearch"
"""Of the local functions that emulate formats."""


class Format(ABC):
    """A number format for tensors of float32. Instances are frozen; unbound ones compare by value.

    Axes: blocks lie along the last axis, or the last two; channels along the first. Weights are to be
    arranged as (out, ..., in) before.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """As configurations call it."""

    def round(self, x: F32) -> F32:
        """The values of `x` as the format represents them; float32 of the same shape.

        Nearest, ties to even; out of range saturates; NaN stays NaN. Pure.

        Raises:
            ConfigError: If the format is calibrated and not bound yet.
        """
        x = as_float32(x)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows saturates
            return self._round_array(np.atleast_1d(x)).reshape(x.shape)

    @abstractmethod
    def _round_array(self, x: F32) -> F32:
        """`round` of a float32 array of at least one axis."""

    @abstractmethod
    def bits_per_element(self, shape: Sequence[int]) -> float:
        """Storage of a tensor of this shape, per element; exponents that a block shares included."""

    @property
    def calibrated(self) -> bool:
        """Whether `bound` must be called, with a range, before anything is rounded."""
        return False

    def extremes(self, weight: F32) -> tuple[F32, F32]:
        """The range that a constant itself asks for, of the shape that `bound` needs."""
        raise TypeError(f"{self.name}: needs no range")

    def bound(self, low: F32, high: F32) -> Format:
        """The format with the scale and zero point that cover a range.

        Args:
            low, high: float32, of shape () or of the shape that `extremes` gives.
        """
        raise TypeError(f"{self.name}: needs no range")

    def fit(self, weight: F32) -> Format:
        """Bound to the range of a constant if the format is calibrated, else the same."""
        return self.bound(*self.extremes(weight)) if self.calibrated else self

    def native(self, *, packed: bool = True) -> Native | None:
        """How QuantizeLinear and DequantizeLinear express the format exactly; None if they cannot.

        Args:
            packed: Use the narrowest type there is, for constants. Otherwise int8 and wider, for which
                runtimes have the fast kernels, unless the format is an element type by itself.
        """
        return None

    @abstractmethod
    def emulation(self, shape: KnownShape | None = None) -> Emulation | None:
        """A function of standard operators that equals `round`; None where only `native` stands for it.

        Args:
            shape: Of the input, as far as it is known; None = of any rank. The function for a known shape
                does less, and is wrong for others.
        """

    @abstractmethod
    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        """The values that each element may take, for finetuning; scales and exponents are this weight's.

        `grid.round` of the weight equals `round`.

        Args:
            weight: (out, ..., in), float32.
            groups: Of the outputs.

        Returns:
            The grid of arrays (groups, out / groups, product of the other axes of the weight), those
            in the weight's order.
        """


@dataclass(frozen=True, eq=False)
class Native:
    """A format as QuantizeLinear and DequantizeLinear, or for float16 and bfloat16 as Cast there and back.

    Attributes:
        element: Type of the codes.
        params: Scale, zero point, axis (0 for channels, -1 for blocks, of the arranged tensor) and block
            size; None for Cast.
        clip: Real numbers that Clip must limit values to before, where the type has more codes than the
            format; None where the type itself saturates right.
    """

    element: ElementType
    params: QuantParams | None
    clip: tuple[float, float] | None = None

    @property
    def opset(self) -> int:
        """The least opset that has it."""
        return 25 if self.element.bits == 2 else 21

    def codes(self, x: F32) -> NDArray[Any]:
        """Codes of float32 values, of the type `element.numpy`."""
        if self.clip is not None:
            x = np.clip(x, np.float32(self.clip[0]), np.float32(self.clip[1]))
        if self.params is None:
            limit = np.float32(self.element.qmax)
            return np.clip(x, -limit, limit).astype(self.element.numpy)
        return quantize(x, self.params, self.element)


Attributes: TypeAlias = tuple[tuple[str, int | float | tuple[int, ...] | tuple[tuple[float, ...], ...]], ...]
"""Of a node, by name; a tuple of tuples stands for a matrix."""


@dataclass(frozen=True)
class Emulation:
    """A local function of one input and one output, float32 of any shape, and the attributes for a call.

    Attributes:
        op_type: Name of the function, in `DOMAIN`.
        body: Its text in ONNX's syntax, from the attribute list on, with "{opset}" for the version.
        attributes: Of the node that calls it.
        opset: The least version of the standard operators that the text is written for.
    """

    op_type: str
    body: str
    attributes: Attributes = ()
    opset: int = 21

    def function(self, opset: int) -> onnx.FunctionProto:
        """The function, over the opset of the model that it goes into."""
        head = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n'
        return onnx.parser.parse_function(f"{head}{self.op_type} {self.body}")

    def node(self, source: str, target: str, name: str) -> onnx.NodeProto:
        """A call."""
        attributes: Mapping[str, Any] = {key: _attribute_value(value) for key, value in self.attributes}
        return onnx.helper.make_node(self.op_type, [source], [target], name, domain=DOMAIN, **attributes)


def _attribute_value(value: Any) -> Any:
    is_matrix = isinstance(value, tuple) and value and isinstance(value[0], tuple)
    return onnx.numpy_helper.from_array(np.array(value, np.float32)) if is_matrix else value


def as_float32(x: NDArray[Any]) -> F32:
    """float32, without a copy where it is already."""
    return np.asarray(x, dtype=np.float32)


def needs_range(name: str) -> ConfigError:
    """What a calibrated format answers that has no range yet."""
    return ConfigError(f"{name}: has no scale yet; bind it to a range with bound(low, high) or fit(weight)")


__all__ = [
    "DOMAIN",
    "F32",
    "Attributes",
    "Emulation",
    "Format",
    "KnownShape",
    "Native",
    "as_float32",
    "needs_range",
]
