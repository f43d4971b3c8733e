"""Parameters of automatic mixed precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from quant.config.base import ElementType, Level, Names
from quant.types import ELEMENT_TYPES, ElementName, QuantType

NARROW_BITS = 8
"""What mixed precision takes for narrow unless target types are given."""


class AutoMixprecisionConfig(Level):
    """Parameters of automatic mixed precision (level 3).

    They take effect with `QuantConfig.include_auto_mp` alone. Some tensors get a target type instead of the
    configuration's: the most sensitive ones if the target is the wider (promotion), otherwise the least
    sensitive ones (demotion, which is what Quark does).

    Attributes:
        ActTargetQuantType: Target of activations; None = they keep their type.
        WeightTargetQuantType: Target of weights; the same. If both are None, both have 16 bits where
            activations have up to 8, and 8 where activations have more.
        Granularity: What changes its type as one: a tensor; a node's output and weights; a block of
            nodes between two places where a single tensor passes.
        ErrorTarget: Greatest squared error allowed in any part of the outputs, relative to the distance of
            the best guess without a model (`quant.mixed_precision.noise`).
        L2Target: Greatest mean squared error of the outputs allowed, instead of `ErrorTarget`.
        MaxPromoted: Greatest share of the MACs, and of the weights, that may have the wider type.
        NumTarget: Greatest number of tensors, nodes or blocks that get the target type; None = any.
        TargetOpType: Operators whose outputs and weights may get it; empty = all.
        DataSize: Number of calibration samples to measure with, or of steps where feeds carry on the states
            of the feeds before; None = 32 samples, or all steps.
        MaxMeasured: Number of tensors, nodes or blocks whose effect is measured by running the model; of
            more, those with the least ratio of signal to noise.
    """

    ActTargetQuantType: ElementType | None = None
    WeightTargetQuantType: ElementType | None = None
    Granularity: Literal["tensor", "node", "block"] = "tensor"
    ErrorTarget: float = Field(default=0.01, gt=0)
    L2Target: float | None = Field(default=None, gt=0)
    MaxPromoted: float = Field(default=1.0, ge=0, le=1)
    NumTarget: int | None = Field(default=None, gt=0)
    TargetOpType: Names = ()
    DataSize: int | None = Field(default=None, gt=0)
    MaxMeasured: int = Field(default=512, gt=0)


@dataclass(frozen=True)
class PrecisionTarget:
    """A change of type.

    Attributes:
        own: The configuration's type.
        type: What tensors may get instead.
        of_weights: Whether it is for weights, or for activations and the constants that have their type.
    """

    own: ElementName
    type: ElementName
    of_weights: bool

    @property
    def promotes(self) -> bool:
        """Whether the target is the wider of the two, or as wide."""
        return ELEMENT_TYPES[self.type].bits >= ELEMENT_TYPES[self.own].bits


def of_width(own: ElementName, wide: bool) -> ElementName:
    """An integer type of 16 or 8 bits, unless the type is as wide or narrow; unsigned stays unsigned."""
    element = ELEMENT_TYPES[own]
    if (element.bits > NARROW_BITS) is wide:
        return own
    return QuantType[f"Q{'' if element.signed else 'U'}Int{16 if wide else NARROW_BITS}"]
