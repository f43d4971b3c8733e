"""The stages of a configuration with a number format for every layer.

    prepare -> equalize -> smooth -> collect statistics -> bind formats -> round constants -> write

A trial of a search over layers does little more than write: scales by (tensor, format) and rounded weights by
(weight, format) come from the cache, and the graph is put together from parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.cache import Stage
from quant.calibration.data import CalibrationData
from quant.calibration.statistics import Statistics
from quant.config import QuantConfig
from quant.constant_params import Initializers
from quant.errors import QuantizationError
from quant.formats import Format
from quant.graph.shapes import runtime_shapes
from quant.graph_stages import GraphStages, Transformed
from quant.layers import QuantizableLayer, layers_of, module_paths
from quant.layers.assignment import Assignment, Constant, Edge, assign
from quant.layers.base_model import BaseModel, base_model
from quant.layers.binding import bind_activation, bind_constant
from quant.layers.constants import RoundedConstant, round_constant
from quant.layers.cost import (
    FLOAT_BITS,
    LayerBits,
    LayerSizes,
    decode_sizes,
    encode_sizes,
    layer_sizes,
    mean_bits,
    model_cost,
    tensors_sized,
)
from quant.layers.insert import FormatWriter
from quant.layers.numbers import LayerNumbers
from quant.layers.role_sites import (
    FormatEffects,
    RoleFormats,
    decode_effects,
    encode_effects,
    role_sites,
)
from quant.mixed_precision.format_errors import Site, format_errors
from quant.mixed_precision.substitution import Edge as Place
from quant.mixed_precision.substitution import substitution
from quant.mixed_precision.yardstick import yardstick
from quant.quantized_model import QuantizedModel
from quant.requirements import formatted_session_config, record_session_config

_LAYERS: Stage[tuple[QuantizableLayer, ...]] = Stage("layers", 1, memory_entries=8)
_BASE: Stage[BaseModel] = Stage("base model", 1, memory_entries=4)
_SIZES: Stage[dict[str, LayerSizes]] = Stage("layer sizes", 1, 8, encode_sizes, decode_sizes)
_FORMATS: Stage[Format] = Stage("activation formats", 1, memory_entries=10_000)
_CONSTANTS: Stage[RoundedConstant] = Stage(
    "rounded constants", 1, memory_entries=10_000, memory_bytes=1 << 28, size=lambda rounded: rounded.nbytes
)
_EFFECTS: Stage[tuple[FormatEffects, ...]] = Stage("format effects", 1, 4, encode_effects, decode_effects)

RANGE_OPTIONS = {
    "CalibMovingAverage",
    "CalibMovingAverageConstant",
    "CalibTensorRangeSymmetric",
    "Percentile",
    "PercentileCandidates",
    "LWPMetric",
    "DistributionDeviations",
}
"""What decides on ranges, beside the calibration method."""

_SCALE_OPTIONS = RANGE_OPTIONS | {"MinimumRealRange", "WeightCalibrateMethod"}
"""What decides on scales."""


class LayerStages(GraphStages):
    """Looks each stage up in the cache first."""

    def layers(self, config: QuantConfig) -> tuple[QuantizableLayer, ...]:
        """The layers of the graph that the configuration's transforms make; always the same names."""
        return self._layers(self.transform(config))

    def format_effects(
        self, config: QuantConfig, candidates: Sequence[RoleFormats], runs: int, samples: int | None = None
    ) -> tuple[FormatEffects, ...]:
        """What formats cost, each for one role of one layer while all else is float.

        Args:
            config: What decides on transforms and scales; its `layers` are not looked at.
            candidates: Roles of layers, and their formats.
            runs: About how many times the model may run over a few batches; each tensor gets one run at
                least (`quant.mixed_precision.format_errors`).
            samples: How many each run sees, in whole batches; None = as for mixed precision.
        """
        transformed = self.transform(config)
        key = self._scale_key(transformed, config) | {"data": self.data.digest, "runs": runs}
        key["samples"] = samples
        key["providers"] = config.execution_providers
        key["candidates"] = [(each.layer, each.role, repr(tuple(each.formats))) for each in candidates]
        return self.cache.get(
            _EFFECTS, key, lambda: self._measure_effects(transformed, config, candidates, runs, samples)
        )

    def _measure_effects(
        self,
        transformed: Transformed,
        config: QuantConfig,
        candidates: Sequence[RoleFormats],
        runs: int,
        samples: int | None,
    ) -> tuple[FormatEffects, ...]:
        layers = {layer.name: layer for layer in self._layers(transformed)}
        constants = Initializers(transformed.model)

        def bind(own: Format, tensor: str) -> Format:
            if not own.calibrated:
                return own
            statistics = self._layer_statistics(transformed, tuple(layers.values()), config)
            return bind_activation(own, tensor, statistics, config)

        sites = [role_sites(layers[each.layer], each, constants, bind, config) for each in candidates]
        flat = [site for own in sites for site in own]
        errors = iter(self._site_errors(transformed, flat, config, runs, samples))
        sizes = self._sizes(config)
        return tuple(
            FormatEffects.of(each, layers[each.layer], sizes[each.layer], own, [next(errors) for _ in own])
            for each, own in zip(candidates, sites, strict=True)
        )

    def _site_errors(
        self,
        transformed: Transformed,
        sites: Sequence[Site],
        config: QuantConfig,
        runs: int,
        samples: int | None,
    ) -> list[NDArray[np.float64]]:
        """Of every format of every site."""
        model, providers = transformed.model, config.execution_providers
        measured = yardstick(model, self.data, samples, providers=providers, threads=self.threads)
        names = [site.place for site in sites if isinstance(site.place, str)]
        places = [site.place for site in sites if isinstance(site.place, Place)]
        with substitution(
            model, names, places, measured, providers=providers, threads=self.threads
        ) as session:
            return format_errors(session, sites, runs)

    def _layers(self, transformed: Transformed) -> tuple[QuantizableLayer, ...]:
        """Without the nodes that transforms added."""
        inserted = frozenset(transformed.inserted)

        def compute() -> tuple[QuantizableLayer, ...]:
            found = layers_of(transformed.model.graph, module_paths(self.float_model.model.graph))
            return tuple(layer for layer in found if layer.name not in inserted)

        return self.cache.get(_LAYERS, {"of": transformed.key}, compute)

    def _formatted(
        self, transformed: Transformed, config: QuantConfig
    ) -> tuple[QuantizedModel, LayerNumbers]:
        """The model with every layer in its formats, rounded to the nearest."""
        layers = self._layers(transformed)
        if not layers:
            raise QuantizationError(
                "nothing to quantize: the model has no layer between float32 tensors; convert float16 models"
                " to float32 first"
            )
        assert config.layers is not None
        assignment = assign(layers, config.layers.resolved(layers))
        base = self.cache.get(_BASE, {"of": transformed.key}, lambda: base_model(transformed.model, layers))
        opset = transformed.model.opset_imports[""]
        constants = Initializers(transformed.model)
        writer = FormatWriter(base, opset)
        bound = self._bound_edges(transformed, assignment, config)
        for edge, own in zip(assignment.edges, bound, strict=True):
            writer.activation(edge, own)
        rounded = {
            (constant.layer, constant.role): self._rounded(transformed, constant, constants, config)
            for constant in assignment.constants
        }
        for constant in assignment.constants:
            writer.constant(constant, rounded[constant.layer, constant.role])
        for name in assignment.unrounded:
            if name in base.own:
                writer.float_constant(name, constants[name])
        model = writer.model()
        settings = formatted_session_config(writer.elements)
        record_session_config(model, settings)
        sizes = self._sizes(config)
        widths = _layer_bits(assignment, rounded, sizes)
        cost = model_cost(transformed.model.graph, layers, sizes, widths, emulated=writer.emulates)
        bits = _tensor_bits(assignment, rounded, sizes)
        numbers = LayerNumbers(assignment, rounded, writer.constants, writer.roundings, constants)
        return QuantizedModel(model, bits, transformed.skipped, settings, base.weights, cost=cost), numbers

    def _bound_edges(
        self, transformed: Transformed, assignment: Assignment, config: QuantConfig
    ) -> list[Format]:
        """The format of every edge, with its scale if it needs one."""
        if not any(edge.format.calibrated for edge in assignment.edges):
            return [edge.format for edge in assignment.edges]
        statistics = self._layer_statistics(transformed, assignment.layers, config)
        data = self._data(config.extra_options.CalibDataSize).digest
        key = self._scale_key(transformed, config) | {"data": data, "providers": config.execution_providers}

        def bind(edge: Edge) -> Format:
            if not edge.format.calibrated:
                return edge.format
            own_key = key | {"tensor": edge.tensor, "format": repr(edge.format)}
            return self.cache.get(
                _FORMATS, own_key, lambda: bind_activation(edge.format, edge.tensor, statistics, config)
            )

        return [bind(edge) for edge in assignment.edges]

    def _layer_statistics(
        self, transformed: Transformed, layers: Sequence[QuantizableLayer], config: QuantConfig
    ) -> Statistics:
        """Of all data inputs of layers, from one pass that serves every table of formats."""
        data = self._data(config.extra_options.CalibDataSize)
        parameters = {"of": transformed.key, "data": data.digest, "providers": config.execution_providers}
        tensors = tuple(dict.fromkeys(name for layer in layers for name in layer.tensors))
        return self._pass(transformed, parameters, data, tensors, config)

    def _rounded(
        self, transformed: Transformed, constant: Constant, constants: Initializers, config: QuantConfig
    ) -> RoundedConstant:
        """A weight or bias in its format."""
        own, arrangement = constant.format, constant.arrangement
        key: dict[str, Any] = {"of": transformed.key, "name": constant.name, "format": repr(own)}
        key |= {"axes": arrangement.axes, "groups": arrangement.groups}
        if own.calibrated:
            key |= self._scale_key(transformed, config)

        def compute() -> RoundedConstant:
            values = constants[constant.name]
            return round_constant(values, bind_constant(own, values, arrangement, config), arrangement)

        return self.cache.get(_CONSTANTS, key, compute)

    @staticmethod
    def _scale_key(transformed: Transformed, config: QuantConfig) -> dict[str, Any]:
        """What decides on the scales of formats that need a range."""
        options = config.extra_options.model_dump(include=_SCALE_OPTIONS)
        return {"of": transformed.key, "method": config.calibrate_method.name, "options": options}

    def _sizes(self, config: QuantConfig) -> dict[str, LayerSizes]:
        """How much the layers read and multiply, from one run of the float model; no transform changes it."""
        prepared = self.prepared(config)

        def compute() -> dict[str, LayerSizes]:
            layers, feed = self._layers(prepared), self.data.feeds[0]
            shapes = runtime_shapes(
                prepared.model,
                tensors_sized(layers),
                feed,
                threads=self.threads,
            )
            return layer_sizes(layers, shapes, max(1, CalibrationData([feed]).samples))

        return self.cache.get(_SIZES, {"of": prepared.key, "data": self.data.digest}, compute)


def _layer_bits(
    assignment: Assignment,
    rounded: Mapping[tuple[str, str], RoundedConstant],
    sizes: Mapping[str, LayerSizes],
) -> dict[str, LayerBits]:
    """Widths of the layers' tensors in their formats, by layer."""
    bits = {}
    for layer in assignment.layers:
        entry = assignment.entries.get(layer.name)
        own = None if entry is None else entry.formats.data_in
        shapes = sizes[layer.name].inputs
        weight, bias = (rounded.get((layer.name, role)) for role in ("weight", "bias"))
        bits[layer.name] = LayerBits(
            FLOAT_BITS if weight is None else weight.bits,
            FLOAT_BITS if bias is None else bias.bits,
            FLOAT_BITS
            if own is None
            else mean_bits((own.bits_per_element(shape), prod(shape)) for shape in shapes),
            searched=entry is not None,
        )
    return bits


def _tensor_bits(
    assignment: Assignment,
    rounded: Mapping[tuple[str, str], RoundedConstant],
    sizes: Mapping[str, LayerSizes],
) -> dict[str, float]:
    """Width of every rounded tensor by name; of one in several formats that of the first."""
    bits: dict[str, float] = {}
    shapes = {
        (layer.name, position): shape
        for layer in assignment.layers
        for position, shape in zip(layer.data_inputs, sizes[layer.name].inputs, strict=True)
    }
    for edge in assignment.edges:
        bits.setdefault(edge.tensor, edge.format.bits_per_element(shapes[edge.reader, edge.position]))
    for constant in assignment.constants:
        bits.setdefault(constant.name, rounded[constant.layer, constant.role].bits)
    return bits
