"""The stages from a float model to a quantized one, each looked up in the stage cache first.

    prepare -> equalize -> smooth -> collect statistics -> ranges and parameters -> insert -> fill

A stage's key holds what it reads and nothing else, so configurations share every stage up to the
first one that they differ in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.activation_params import activation_params, tensor_ranges
from quant.cache import Stage, StageCache, StageCount
from quant.calibration.channel_maxima import (
    ChannelMaxima,
    collect_channel_maxima,
    decode_channel_maxima,
    encode_channel_maxima,
)
from quant.calibration.collect import collect_statistics
from quant.calibration.data import CalibrationData, DataReader, Feed
from quant.calibration.ranges import Range, needs_histogram
from quant.calibration.statistics import Statistics, decode_statistics, encode_statistics
from quant.config import FastFinetuneConfig, QuantConfig
from quant.constant_params import Constants, code_bounds, constant_params, quantized_weight
from quant.errors import QuantizationError
from quant.finetune.device import inference_providers
from quant.finetune.finetune import (
    Finetuned,
    Quantization,
    correct_biases,
    finetune_model,
    finetuned_tensors,
)
from quant.finetune.results import CachedSolve
from quant.finetune.walk import Twins
from quant.graph.conversion import check_conversion
from quant.graph.insert import Skeleton, fill, insert_qdq
from quant.graph.load import FloatModel, load_float_model
from quant.graph.mapped_model import map_weights
from quant.graph.operators import place
from quant.graph.placement import Placement, PlacementOptions
from quant.graph.prepare import prepare
from quant.graph.save import save_model
from quant.graph.session import check_providers
from quant.graph.shared_weights import SharedWeights
from quant.grids import Grids
from quant.mixed_precision.analysis import PrecisionAnalysis
from quant.mixed_precision.promotion import Promotion, decode_promotion, encode_promotion
from quant.mixed_precision.sensitivity import SensitivityTable, decode_table, encode_table
from quant.mixed_precision.subject import Candidate, Subject
from quant.mixed_precision.switched_model import TensorFormat
from quant.parameters import avoid_bias_overflow, parameter_tensors, tensor_bits
from quant.qparams import QuantParams
from quant.requirements import record_session_config, required_opset, session_config
from quant.transforms.equalization import EqualizationOptions, equalize
from quant.transforms.skip import Skip
from quant.transforms.smooth_quant import SmoothOptions, smooth, smoothed_tensors
from quant.types import Encoding, LayerWiseMethod

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedModel:
    """The result, and how many bits each tensor takes.

    Attributes:
        model: Standard ONNX with QuantizeLinear and DequantizeLinear. Large weights that stay float are
            references to `weights`; `save` writes both, `standalone` puts them together.
        bits: Width by tensor name, of weights (initializer names), biases and activations; tensors
            that are not listed stay float.
        skipped: What transforms and placement left alone, with the reasons.
        session_config: Session config entries (key, value) without which onnxruntime cannot run the
            model at every optimisation level; they are recorded in its metadata, too.
        weights: What the model's initializers refer to; None if it holds them all.
        promotion: What automatic mixed precision decided on, where it was asked for.
    """

    model: onnx.ModelProto
    bits: Mapping[str, int]
    skipped: tuple[Skip, ...]
    session_config: tuple[tuple[str, str], ...] = ()
    weights: SharedWeights | None = None
    promotion: Promotion | None = None

    def save(self, path: str | Path, *, external_data: bool = False) -> None:
        """Writes the model under a temporary name and renames it; the same model, the same bytes.

        Its `weights` go to a file of their own name beside it, if they are not there already; with
        `external_data` all weights go to a file named as the model with ``.data`` appended.
        """
        save_model(self.model, Path(path), external_data=external_data, weights=self.weights)

    def standalone(self) -> onnx.ModelProto:
        """A copy of the model that holds all of its weights."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if self.weights is not None:
            self.weights.put_into(model)
        return model


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
class _Plan:
    """A placement and the graph with its nodes, still without numbers."""

    placement: Placement
    skeleton: Skeleton


_PREPARE: Stage[tuple[ir.Model, tuple[Skip, ...]]] = Stage("prepare", 1, memory_entries=2)
_TRANSFORM: Stage[tuple[ir.Model, tuple[Skip, ...]]] = Stage("transform", 1, memory_entries=4)
_PLAN: Stage[_Plan] = Stage("plan", 1, memory_entries=8)
_CHANNEL_MAXIMA: Stage[ChannelMaxima] = Stage(
    "channel maxima", 1, 4, encode_channel_maxima, decode_channel_maxima
)
_STATISTICS: Stage[Statistics] = Stage("statistics", 1, 8, encode_statistics, decode_statistics)
_RANGES: Stage[dict[str, Range]] = Stage("ranges", 1, memory_entries=64)
_ACTIVATION_PARAMS: Stage[dict[str, QuantParams]] = Stage("activation parameters", 1, memory_entries=64)
_CONSTANT_PARAMS: Stage[dict[str, QuantParams]] = Stage("constant parameters", 1, memory_entries=16)
_WEIGHTS: Stage[onnx.TensorProto] = Stage(
    "weights", 1, memory_entries=10_000, memory_bytes=1 << 28, size=onnx.TensorProto.ByteSize
)
_SENSITIVITY: Stage[SensitivityTable] = Stage("sensitivity", 1, 16, encode_table, decode_table)
_PROMOTION: Stage[Promotion] = Stage("promotion", 1, 64, encode_promotion, decode_promotion)


class Pipeline:
    """Quantizes one float model with any number of configurations, computing shared stages once."""

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

    def quantize(self, config: QuantConfig) -> QuantizedModel:
        """Runs the stages for one configuration.

        Raises:
            QuantError: Of the kind that names the culprit.
        """
        check_providers(config.execution_providers)
        if config.include_auto_mp:
            promotion = self.promotion(config)
            _log.info("%s", promotion)
            changed = self._subject(config).changed(promotion.tensors)
            return replace(self.quantize(changed), promotion=promotion)
        transformed = self.transform(config)
        plan = self._plan_seen(transformed, config)
        placement = plan.placement
        if not placement.activations and not placement.weights:
            raise QuantizationError(
                "nothing to quantize: no node is selected that has a placement rule and float32 tensors"
            )
        grids = Grids(config)
        skipped = transformed.skipped + placement.skipped + grids.check(placement)
        constants = _Constants(transformed.model)
        params = self._params(transformed, placement, constants, grids)
        numbers = Quantization(placement, params, constants, grids)
        weights = self._weights(transformed, numbers)
        model = fill(plan.skeleton, [*weights, *parameter_tensors(placement, params, constants, grids)])
        settings = session_config(
            grids.activation_types(placement), grids.constant_types(placement), half=bool(placement.half)
        )
        record_session_config(model, settings)
        bits, shared = tensor_bits(placement, grids), plan.skeleton.weights
        nearest = QuantizedModel(model, bits, skipped, settings, shared)
        if not config.include_fast_ft and not config.extra_options.BiasCorrection:
            return nearest
        finetuned = self._finetune(transformed, numbers, nearest)
        model = fill(Skeleton(model, shared), finetuned_tensors(finetuned, numbers))
        return QuantizedModel(model, bits, skipped + finetuned.skipped, settings, shared)

    def _finetune(
        self, transformed: Transformed, numbers: Quantization, nearest: QuantizedModel
    ) -> Finetuned:
        """What takes the place of nearest rounding and of the float model's biases."""
        config = numbers.grids.config
        options = config.extra_options.FastFinetune
        quantized = ir.from_proto(nearest.standalone())
        assert isinstance(quantized, ir.Model)
        providers = inference_providers(options.InferDevice, config.execution_providers)
        samples = options.DataSize if config.include_fast_ft else config.extra_options.CalibDataSize
        data = self._data(samples)
        twins = Twins(transformed.model, quantized, data, providers, self.threads, nearest.session_config)
        start, count = time.perf_counter(), self.cache.counts.setdefault("finetuning", StageCount())
        if config.include_fast_ft:
            corrected, solve = config.extra_options.BiasCorrection, CachedSolve(self.cache)
            finetuned = finetune_model(twins, numbers, options, correct_biases=corrected, solve=solve)
        else:
            finetuned = correct_biases(twins, numbers)
        count.computed += 1
        count.seconds += time.perf_counter() - start
        return finetuned

    def sensitivity(self, config: QuantConfig) -> SensitivityTable:
        """What every tensor, node or block costs when it alone is narrow, by `AutoMixprecision`'s options.

        Raises:
            QuantError: Of the kind that names the culprit.
        """
        plain = _before_finetuning(config.replace(include_auto_mp=True))
        with PrecisionAnalysis(self._subject(plain)) as analysis:
            return self._sensitivity(plain, analysis)

    def promotion(self, config: QuantConfig) -> Promotion:
        """What automatic mixed precision decides on, before any finetuning; the configuration asks for it."""
        plain = _before_finetuning(config)

        def compute() -> Promotion:
            with PrecisionAnalysis(self._subject(plain)) as analysis:
                return analysis.promotion(self._sensitivity(plain, analysis))

        return self.cache.get(_PROMOTION, self._precision_key(plain), compute)

    def _sensitivity(self, config: QuantConfig, analysis: PrecisionAnalysis) -> SensitivityTable:
        key = self._precision_key(config, without=("ErrorTarget", "L2Target", "MaxPromoted", "NumTarget"))
        return self.cache.get(_SENSITIVITY, key, analysis.table)

    def _precision_key(self, config: QuantConfig, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """What decides on the sensitivity of tensors, and with all options on their types."""
        key = config.to_dict()
        for option in without:
            del key["extra_options"]["AutoMixprecision"][option]
        return {"of": self.transform(config).key, "data": self.data.digest, "config": key}

    def _subject(self, config: QuantConfig) -> Subject:
        """What mixed precision looks at."""
        transformed = self.transform(config)
        placement = self._plan(transformed, PlacementOptions.of(config, transformed.inserted)).placement
        return Subject(
            config,
            transformed.model,
            placement,
            self.statistics(transformed, config, placement.calibrated),
            _Constants(transformed.model),
            self._formats,
            self._candidate,
            self.data,
            frozenset(transformed.inserted),
            self.threads,
        )

    def _candidate(self, config: QuantConfig) -> Candidate:
        quantized = self.quantize(config)
        return Candidate(ir.from_proto(quantized.standalone()), quantized.session_config, quantized.bits)

    def _formats(self, config: QuantConfig) -> dict[str, TensorFormat]:
        """The grid of every tensor that has one of its own, with the codes of constants."""
        transformed = self.transform(config)
        placement = self._plan(transformed, PlacementOptions.of(config, transformed.inserted)).placement
        grids, constants = Grids(config), _Constants(transformed.model)
        params = self._params(transformed, placement, constants, grids)
        codes = self._weights(transformed, Quantization(placement, params, constants, grids))
        formats = {
            name: TensorFormat(grids.activation(name).type, params.get(name))
            for name, provider in placement.activations.items()
            if name == provider
        }
        for site, own in zip_longest(placement.weights.values(), codes):
            formats[site.name] = TensorFormat(grids.weight(site).type, params.get(site.name), own)
        return formats

    def _data(self, samples: int | None) -> CalibrationData:
        """The first samples; kept, because their digest is asked for again and again."""
        if samples not in self._heads:
            self._heads[samples] = self.data.head(samples)
        return self._heads[samples]

    def transform(self, config: QuantConfig) -> Transformed:
        """The graph that the configuration's transforms make."""
        opset = required_opset(config)
        subgraphs = config.extra_options.EnableSubgraph
        key: tuple[Any, ...] = (self.float_model.digest, config.optimize_model, opset)
        key += ("subgraphs",) if subgraphs else ()
        model, skipped = self.cache.get(
            _PREPARE, {"of": key}, lambda: self._prepare(config.optimize_model, opset, subgraphs)
        )
        if config.include_cle:
            options = EqualizationOptions.of(config.extra_options)
            key = (*key, "cle", *asdict(options).values())
            prepared = model
            model, left = self.cache.get(_TRANSFORM, {"of": key}, lambda: equalize(prepared, options))
            skipped += left
        transformed = Transformed(model, key, skipped)
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

    def _plan(self, transformed: Transformed, options: PlacementOptions) -> _Plan:
        def compute() -> _Plan:
            placement = place(transformed.model.graph, options)
            return _Plan(placement, insert_qdq(transformed.model, placement, options))

        return self.cache.get(_PLAN, {"of": transformed.key, "options": asdict(options)}, compute)

    def _plan_seen(self, transformed: Transformed, config: QuantConfig) -> _Plan:
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

    def _params(
        self, transformed: Transformed, placement: Placement, constants: Constants, grids: Grids
    ) -> dict[str, QuantParams]:
        """Scales and zero points of all tensors."""
        params = dict(self._activation_params(transformed, placement, grids))
        params |= self._constant_params(transformed, placement, constants, grids)
        return params | avoid_bias_overflow(placement, params, constants, grids)

    def _activation_params(
        self, transformed: Transformed, placement: Placement, grids: Grids
    ) -> dict[str, QuantParams]:
        config, default = grids.config, grids.default
        statistics = self.statistics(transformed, config, placement.calibrated)
        options = config.extra_options
        key = {
            "of": transformed.key,
            "data": self._data(options.CalibDataSize).digest,
            "tensors": placement.calibrated,
            "method": config.calibrate_method.name,
            "options": options.model_dump(include=_RANGE_OPTIONS),
            "providers": config.execution_providers,
        }
        # layer-wise methods simulate the grid; the ranges of the others serve every integer type
        integer = default.type.encoding is Encoding.INTEGER
        simulated = isinstance(config.calibrate_method, LayerWiseMethod) or not integer
        ranges = self.cache.get(
            _RANGES,
            {**key, "grid": repr(default) if simulated else None},
            lambda: tensor_ranges(statistics, placement.calibrated, default, config),
        )
        key |= {
            "grid": repr(default),
            "activations": placement.activations,
            "sources": placement.range_source,
            "half": placement.half,
            "overrides": options.model_dump(mode="json", include={"TensorQuantOverrides"}),
        }
        return self.cache.get(
            _ACTIVATION_PARAMS, key, lambda: activation_params(statistics, ranges, placement, grids)
        )

    def _constant_params(
        self, transformed: Transformed, placement: Placement, constants: Constants, grids: Grids
    ) -> dict[str, QuantParams]:
        sites = [
            (*astuple(site), repr(grids.weight(site)), repr(grids.overrides(site.name)))
            for site in placement.weights.values()
        ]
        key = {"of": transformed.key, "sites": sites, "method": grids.config.calibrate_method.name}
        key["weights"] = grids.config.extra_options.WeightCalibrateMethod
        return self.cache.get(_CONSTANT_PARAMS, key, lambda: constant_params(placement, constants, grids))

    def _weights(self, transformed: Transformed, numbers: Quantization) -> list[onnx.TensorProto]:
        placement, grids = numbers.placement, numbers.grids
        if grids.config.extra_options.AddQDQPairToWeight:
            return []
        tensors = []
        for site in placement.weights.values():
            own = numbers.params.get(site.name)
            grid = grids.weight(site)
            key = {"of": transformed.key, "site": astuple(site), "type": grid.type.ir.name}
            key["bounds"] = code_bounds(grid, grids.config)
            if own is not None:
                key |= {"scale": own.scale.tobytes().hex(), "zero_point": own.zero_point.tobytes().hex()}
            tensors.append(
                self.cache.get(_WEIGHTS, key, partial(quantized_weight, site, own, numbers.constants, grids))
            )
        return tensors


def _before_finetuning(config: QuantConfig) -> QuantConfig:
    """The configuration without what comes last and is too slow to be tried again and again."""
    options = config.extra_options.replace(BiasCorrection=False, FastFinetune=FastFinetuneConfig())
    return config.replace(include_fast_ft=False, extra_options=options)


_RANGE_OPTIONS = {
    "CalibMovingAverage",
    "CalibMovingAverageConstant",
    "CalibTensorRangeSymmetric",
    "Percentile",
    "PercentileCandidates",
    "LWPMetric",
    "DistributionDeviations",
}
"""What `tensor_ranges` reads of the options."""

_WIDEST = QuantConfig()
"""The placement without exclusions: its calibrated tensors are those of nearly every configuration."""


class _Constants(dict[str, NDArray[Any]]):
    """Initializers by name, as arrays, each read when it is first asked for."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self._initializers = model.graph.initializers

    def __missing__(self, name: str) -> NDArray[Any]:
        tensor = self._initializers[name].const_value
        assert tensor is not None
        array: NDArray[Any] = tensor.numpy()
        self[name] = array
        return array


class ModelQuantizer:
    """Quantizes a model once, without a search."""

    def __init__(self, config: QuantConfig, cache_dir: str | Path | None = None) -> None:
        """Takes the configuration, and a directory for results that later calls can share."""
        self.config = config
        self.cache = StageCache(None if cache_dir is None else Path(cache_dir))

    def quantize_model(
        self,
        model_input: str | Path,
        model_output: str | Path | None,
        calibration_data_reader: CalibrationData | DataReader | Iterable[Feed],
    ) -> QuantizedModel:
        """Quantizes the model at `model_input` and writes it to `model_output`, if given.

        Raises:
            QuantError: Of the kind that names the culprit, before anything is written.
        """
        quantized = self._pipeline(model_input, calibration_data_reader).quantize(self.config)
        if model_output is not None:
            quantized.save(model_output, external_data=self.config.use_external_data_format)
        return quantized

    def sensitivity(
        self, model_input: str | Path, calibration_data_reader: CalibrationData | DataReader | Iterable[Feed]
    ) -> SensitivityTable:
        """What every tensor, node or block of the model costs when it alone is narrow.

        Raises:
            QuantError: Of the kind that names the culprit.
        """
        return self._pipeline(model_input, calibration_data_reader).sensitivity(self.config)

    def _pipeline(
        self, model_input: str | Path, data: CalibrationData | DataReader | Iterable[Feed]
    ) -> Pipeline:
        return Pipeline(load_float_model(model_input), CalibrationData(data), self.cache)
