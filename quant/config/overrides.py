"""How single tensors are quantized, where that differs from the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from quant.config.base import ElementType, Level
from quant.errors import ConfigError


class TensorOverride(Level):
    """How one tensor is quantized, where that differs from the rest (onnxruntime's names).

    Attributes:
        quant_type: Its type.
        symmetric, reduce_range: As the options of the same meaning.
        rmin, rmax: Bounds of its range, instead of those from calibration or of its own values.
        scale, zero_point: Both, and then none of the four above.
        axis: Of a constant: one scale for each channel along it. Without it, one for all.
        convert: A second format, which `recv_nodes` read: Q and DQ behind the first pair.
        recv_nodes: Of `convert` alone: the readers that get it; None = all.

    Raises:
        ConfigError: For a combination that means nothing.
    """

    quant_type: ElementType | None = None
    symmetric: bool | None = None
    reduce_range: bool | None = None
    rmin: float | None = None
    rmax: float | None = None
    scale: float | None = Field(default=None, gt=0)
    zero_point: int | None = None
    axis: int | None = None
    convert: TensorOverride | None = None
    recv_nodes: tuple[str, ...] | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if (self.scale is None) != (self.zero_point is None):
            raise ConfigError("scale and zero_point: give both or neither")
        derived = (self.symmetric, self.reduce_range, self.rmin, self.rmax)
        if self.scale is not None and any(value is not None for value in derived):
            raise ConfigError(
                "scale and zero_point: take the place of symmetric, reduce_range, rmin and rmax"
            )
        if self.rmin is not None and self.rmax is not None and self.rmin > self.rmax:
            raise ConfigError(f"rmin: {self.rmin} is above rmax {self.rmax}")
        if self.convert is not None and (self.convert.convert is not None or self.convert.axis is not None):
            raise ConfigError("convert: takes neither axis nor convert")


def _override_list(value: object) -> object:
    """One override stands for a list of one."""
    return (value,) if isinstance(value, (Mapping, TensorOverride)) else value


Overrides = Annotated[tuple[TensorOverride, ...], BeforeValidator(_override_list), Field(min_length=1)]
