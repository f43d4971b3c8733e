"""What mixed precision analyses: a float model, a configuration, and what the stages made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from quant.calibration.data import CalibrationData
from quant.calibration.statistics import TensorStatistics
from quant.config import QuantConfig
from quant.constant_params import Constants
from quant.graph.placement import Placement
from quant.mixed_precision.promotion import overridden
from quant.mixed_precision.signal_to_noise import constant_sqnr_db, histogram_sqnr_db
from quant.mixed_precision.switched_model import TensorFormat

Formats = Mapping[str, TensorFormat]
"""By the names of tensors with scales of their own."""


@dataclass(frozen=True)
class Candidate:
    """A quantized model to run: the model, its session's entries, and the bits of every tensor."""

    model: ir.Model
    entries: tuple[tuple[str, str], ...]
    bits: Mapping[str, float]


@dataclass(frozen=True)
class Subject:
    """All of it comes from stages that configurations share.

    Attributes:
        config: The configuration.
        model: The float model after its transforms.
        placement: What is quantized in it.
        statistics: Of its activations.
        constants: Its initializers.
        formats_of: Every tensor's grid by a configuration without mixed precision.
        quantize: Makes the model of a configuration without mixed precision.
        data: What to measure with.
        float_nodes: Nodes that read float values.
        threads: Of sessions; 0 = all cores.
    """

    config: QuantConfig
    model: ir.Model
    placement: Placement
    statistics: Mapping[str, TensorStatistics]
    constants: Constants
    formats_of: Callable[[QuantConfig], Formats]
    quantize: Callable[[QuantConfig], Candidate]
    data: CalibrationData
    float_nodes: frozenset[str] = frozenset()
    threads: int = 0

    def changed(self, tensors: Collection[str]) -> QuantConfig:
        """The configuration in which these tensors have their target types."""
        return overridden(self.config, tensors, self.placement)

    @cached_property
    def formats(self) -> Formats:
        """Every tensor's grid by the configuration."""
        return self.formats_of(self.changed(()))

    def target_formats(self, tensors: Collection[str]) -> Formats:
        """The grids that tensors have with their target types."""
        formats = self.formats_of(self.changed(tensors))
        return {name: formats[name] for name in tensors}

    def sqnr_db(self, name: str, own: TensorFormat) -> float | None:
        """Ratio of a tensor's signal to its noise in a format; None where it is unknown."""
        if name in self.placement.weights:
            return constant_sqnr_db(self.constants[name], own.rounded(self.constants[name]))
        found = self.statistics.get(name)
        if own.params is None or found is None or found.histogram is None:
            return None
        return histogram_sqnr_db(found.histogram, own.params, own.type)
