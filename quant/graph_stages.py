"""The stages that depend on the graph and the data: prepared, transformed, observed, planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from quant.cache import Stage, StageCache
from quant.calibration.channel_maxima import (
    ChannelMaxima,
    collect_channel_maxima,
    decode_channel_maxima,
    encode_channel_maxima,
)
from quant.calibration.collect import collect_statistics
from quant.calibration.data import CalibrationData
from quant.calibration.ranges import needs_histogram
from quant.calibration.statistics import Statistics, decode_statistics, encode_statistics
from quant.config import QuantConfig
from quant.graph.conversion import check_conversion
from quant.graph.insert import Skeleton, insert_qdq
from quant.graph.load import FloatModel
from quant.graph.mapped_model import map_weights
from quant.graph.operators import place
from quant.graph.placement import Placement, PlacementOptions
from quant.graph.prepare import prepare
from quant.requirements import required_opset
from quant.transforms.equalization import EqualizationOptions, equalize
from quant.transforms.skip import Skip
from quant.transforms.smooth_quant import SmoothOptions, smooth, smoothed_tensors


@dataclass(frozen=True)
class Transformed:
    """A prepared and transformed graph.

    Attributes:
        model: The graph.
        key: How it came about: everything that decides it.
        skipped: What the transforms left alone.
        inserted: Names of the nodes that transforms added; they compute in float.
    """

    model: ir.Model
    key: tuple[Any, ...]
    skipped: tuple[Skip, ...]
    inserted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A placement and the graph with its nodes, still without numbers."""

    placement: Placement
    skeleton: Skeleton


_PREPARE: Stage[tuple[ir.Model, tuple[Skip, ...]]] = Stage("prepare", 1, memory_entries=2)
_TRANSFORM: Stage[tuple[ir.Model, tuple[Skip, ...]]] = Stage("transform", 1, memory_entries=4)
_PLAN: Stage[Plan] = Stage("plan", 1, memory_entries=8)
_CHANNEL_MAXIMA: Stage[ChannelMaxima] = Stage(
    "channel maxima", 1, 4, encode_channel_maxima, decode_channel_maxima
)
_STATISTICS: Stage[Statistics] = Stage("statistics", 1, 8, encode_statistics, decode_statistics)


class GraphStages:
    """Looks each stage up in the cache first; one float model and its data, any number of configurations."""

    def __init__(
        self,
        float_model: FloatModel,
        data: CalibrationData,
        cache: StageCache | None = None,
        *,
        histograms: bool = False,
        threads: int = 0,
    ) -> None:
        """Checks that the data fits the model.

        Args:
            float_model: What to quantize.
            data: What to calibrate with.
            cache: Shared results; None = in memory, for this pipeline alone.
            histograms: Count values in the first pass even if its configuration does not need
                them, because a later one will.
            threads: Of the float model's session and of the counting; 0 = all cores.

        Raises:
            DataError: If a feed does not fit the model's inputs.
        """
        data.check(float_model.inputs)
        self.cache = StageCache() if cache is None else cache
        self.float_model = map_weights(float_model, self.cache)
        self.data = data
        self.histograms = histograms
        self.threads = threads
        self._heads: dict[int | None, CalibrationData] = {}

    def _data(self, samples: int | None) -> CalibrationData:
        """The first samples; kept, because their digest is asked for again and again."""
        if samples not in self._heads:
            self._heads[samples] = self.data.head(samples)
        return self._heads[samples]

    def prepared(self, config: QuantConfig) -> Transformed:
        """The graph before any transform."""
        opset = required_opset(config)
        subgraphs = config.extra_options.EnableSubgraph
        key: tuple[Any, ...] = (self.float_model.digest, config.optimize_model, opset)
        key += ("subgraphs",) if subgraphs else ()
        model, skipped = self.cache.get(
            _PREPARE, {"of": key}, lambda: self._prepare(config.optimize_model, opset, subgraphs)
        )
        return Transformed(model, key, skipped)

    def transform(self, config: QuantConfig) -> Transformed:
        """The graph that the configuration's transforms make."""
        transformed = prepared = self.prepared(config)
        if config.include_cle:
            options = EqualizationOptions.of(config.extra_options)
            key = (*prepared.key, "cle", *asdict(options).values())
            model, left = self.cache.get(_TRANSFORM, {"of": key}, lambda: equalize(prepared.model, options))
            transformed = Transformed(model, key, prepared.skipped + left)
        return self._smooth(transformed, config) if config.include_sq else transformed

    def _prepare(self, optimize: bool, opset: int, subgraphs: bool) -> tuple[ir.Model, tuple[Skip, ...]]:
        """The prepared graph, compared with the model on one feed if onnx had to convert it."""
        original = self.float_model.model
        model, skipped = prepare(original, optimize, opset, subgraphs=subgraphs)
        if original.opset_imports.get("") != model.opset_imports.get(""):
            check_conversion(original, model, self.data.feeds[0], self.threads)
        return model, skipped

    def _smooth(self, transformed: Transformed, config: QuantConfig) -> Transformed:
        """The graph after SmoothQuant, whose scales depend on the calibration data."""
        options = SmoothOptions.of(config.extra_options)
        data = self._data(config.extra_options.CalibDataSize)
        providers = config.execution_providers

        def compute() -> tuple[ir.Model, tuple[Skip, ...]]:
            return smooth(transformed.model, self._channel_maxima(transformed, data, providers), options)

        key = (*transformed.key, "sq", *asdict(options).values(), data.digest, providers)
        model, left = self.cache.get(_TRANSFORM, {"of": key}, compute)
        known = {node.name for node in transformed.model.graph}
        inserted = tuple(node.name for node in model.graph if node.name and node.name not in known)
        return Transformed(model, key, transformed.skipped + left, inserted)

    def _channel_maxima(
        self, transformed: Transformed, data: CalibrationData, providers: tuple[str, ...]
    ) -> ChannelMaxima:
        """What SmoothQuant reads of the data, from one pass for all of its parameters."""
        model, tensors = transformed.model, smoothed_tensors(transformed.model)
        key = {"of": transformed.key, "data": data.digest, "providers": providers, "tensors": tensors}
        return self.cache.get(
            _CHANNEL_MAXIMA,
            key,
            lambda: collect_channel_maxima(model, tensors, data, providers=providers, threads=self.threads),
        )

    def statistics(self, transformed: Transformed, config: QuantConfig, tensors: Iterable[str]) -> Statistics:
        """Statistics of at least these tensors, from one pass over all that are ever calibrated."""
        data = self._data(config.extra_options.CalibDataSize)
        subgraphs = config.extra_options.EnableSubgraph
        widest = replace(PlacementOptions.of(_WIDEST, transformed.inserted), subgraphs=subgraphs)
        wide = self._plan(transformed, widest).placement.calibrated
        parameters = {"of": transformed.key, "data": data.digest, "providers": config.execution_providers}
        wanted = tuple(tensors)
        found = self._pass(transformed, parameters, data, wide, config)
        missing = tuple(name for name in wanted if name not in found)
        if missing:
            found = found | self._pass(transformed, parameters, data, missing, config)
        return found

    def _pass(
        self,
        transformed: Transformed,
        parameters: Mapping[str, Any],
        data: CalibrationData,
        tensors: tuple[str, ...],
        config: QuantConfig,
    ) -> Statistics:
        """One pass, or its result from the cache; one with histograms serves for extremes too."""
        full = {**parameters, "tensors": tensors, "histograms": True}
        histograms = self.histograms or needs_histogram(config.calibrate_method) or config.include_auto_mp
        if not histograms and (_STATISTICS, full) not in self.cache:
            full["histograms"] = False
        return self.cache.get(
            _STATISTICS,
            full,
            lambda: collect_statistics(
                transformed.model,
                tensors,
                data,
                histograms=full["histograms"],
                providers=config.execution_providers,
                threads=self.threads,
            ),
        )

    def _plan(self, transformed: Transformed, options: PlacementOptions) -> Plan:
        def compute() -> Plan:
            placement = place(transformed.model.graph, options)
            return Plan(placement, insert_qdq(transformed.model, placement, options))

        return self.cache.get(_PLAN, {"of": transformed.key, "options": asdict(options)}, compute)

    def _plan_seen(self, transformed: Transformed, config: QuantConfig) -> Plan:
        """The plan; of bodies only with the tensors that the data gives a value, for others have no range."""
        options = PlacementOptions.of(config, transformed.inserted)
        plan = self._plan(transformed, options)
        while options.subgraphs:
            calibrated = plan.placement.calibrated
            statistics = self.statistics(transformed, config, calibrated)
            unseen = tuple(name for name in calibrated if not statistics[name].batch_min.size)
            if not unseen:
                break
            options = replace(options, unseen=options.unseen + unseen)
            plan = self._plan(transformed, options)
        return plan


_WIDEST = QuantConfig()
"""The placement without exclusions: its calibrated tensors are those of nearly every configuration."""
