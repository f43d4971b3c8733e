"""The stages from a float model to a quantized one, each looked up in the stage cache first.

    prepare -> equalize -> smooth -> collect statistics -> mixed precision -> ranges and parameters
        -> insert -> fill -> finetune or correct biases

A stage's key holds what it reads and nothing else, so configurations share every stage up to the
first one that they differ in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import onnx
import onnx_ir as ir

from quant.activation_params import activation_params, tensor_ranges
from quant.cache import Stage, StageCount
from quant.calibration.ranges import Range
from quant.config import FastFinetuneConfig, QuantConfig
from quant.constant_params import Constants, Initializers, constant_params, quantized_weight
from quant.errors import QuantizationError
from quant.finetune.device import inference_providers
from quant.finetune.finetune import (
    Finetuned,
    correct_biases,
    finetune_model,
)
from quant.finetune.float_side import FLOAT_COLUMNS, KeptBlocks
from quant.finetune.numbers import Numbers, Quantization
from quant.finetune.results import CachedSolve
from quant.finetune.walk import Twins
from quant.graph.insert import Skeleton, fill
from quant.graph.placement import Placement, PlacementOptions
from quant.graph.session import Provider, check_providers
from quant.graph_stages import Transformed
from quant.grids import Grids
from quant.layer_stages import RANGE_OPTIONS, LayerStages
from quant.layers.cost import ModelCost, model_cost
from quant.layers.placed import placed_bits
from quant.mixed_precision.analysis import PrecisionAnalysis
from quant.mixed_precision.promotion import Promotion, decode_promotion, encode_promotion
from quant.mixed_precision.sensitivity import SensitivityTable, decode_table, encode_table
from quant.mixed_precision.subject import Candidate, Subject
from quant.mixed_precision.switched_model import TensorFormat
from quant.parameters import avoid_bias_overflow, parameter_tensors, tensor_bits
from quant.qparams import QuantParams
from quant.quantized_model import QuantizedModel
from quant.requirements import record_session_config, session_config
from quant.types import Encoding, LayerWiseMethod

_log = logging.getLogger(__name__)

_RANGES: Stage[dict[str, Range]] = Stage("ranges", 1, memory_entries=64)
_ACTIVATION_PARAMS: Stage[dict[str, QuantParams]] = Stage("activation parameters", 1, memory_entries=64)
_CONSTANT_PARAMS: Stage[dict[str, QuantParams]] = Stage("constant parameters", 1, memory_entries=16)
_SENSITIVITY: Stage[SensitivityTable] = Stage("sensitivity", 1, 16, encode_table, decode_table)
_PROMOTION: Stage[Promotion] = Stage("promotion", 1, 64, encode_promotion, decode_promotion)


class Pipeline(LayerStages):
    """Quantizes one float model with any number of configurations, computing shared stages once."""

    def quantize(self, config: QuantConfig) -> QuantizedModel:
        """Runs the stages for one configuration.

        Raises:
            QuantError: Of the kind that names the culprit.
        """
        check_providers(config.execution_providers)
        if config.layers is not None:
            return self._quantize_layers(config)
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
        constants = Initializers(transformed.model)
        params = self._params(transformed, placement, constants, grids)
        numbers = Quantization(placement, params, constants, grids)
        parameters = parameter_tensors(placement, params, constants, grids)
        model = fill(plan.skeleton, chain(_quantized_weights(numbers), parameters))
        settings = session_config(
            grids.activation_types(placement),
            grids.constant_types(placement),
            half=bool(placement.half),
            blocks=grids.block_types(placement),
        )
        record_session_config(model, settings)
        bits, shared = tensor_bits(placement, grids), plan.skeleton.weights
        cost = self._placed_cost(transformed, placement, grids)
        nearest = QuantizedModel(model, bits, skipped, settings, shared, cost=cost)
        return self._improved(transformed, numbers, nearest, config)

    def _quantize_layers(self, config: QuantConfig) -> QuantizedModel:
        """With a format for every layer in place of a placement."""
        transformed = self.transform(config)
        nearest, numbers = self._formatted(transformed, config)
        return self._improved(transformed, numbers, nearest, config)

    def _improved(
        self, transformed: Transformed, numbers: Numbers, nearest: QuantizedModel, config: QuantConfig
    ) -> QuantizedModel:
        """The model after finetuning or bias correction, if the configuration asks for either."""
        if not config.include_fast_ft and not config.extra_options.BiasCorrection:
            return nearest
        finetuned = self._finetune(transformed, numbers, nearest, config)
        model = fill(Skeleton(nearest.model, nearest.weights), finetuned.tensors.values())
        return replace(nearest, model=model, skipped=nearest.skipped + finetuned.skipped)

    def _finetune(
        self, transformed: Transformed, numbers: Numbers, nearest: QuantizedModel, config: QuantConfig
    ) -> Finetuned:
        """What takes the place of nearest rounding and of the float model's biases."""
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
            keep = partial(self._float_columns, transformed, options, providers)
            finetuned = finetune_model(
                twins, numbers, options, correct_biases=corrected, solve=solve, keep=keep
            )
        else:
            finetuned = correct_biases(twins, numbers)
        count.computed += 1
        count.seconds += time.perf_counter() - start
        return finetuned

    def _float_columns(
        self,
        transformed: Transformed,
        options: FastFinetuneConfig,
        providers: tuple[Provider, ...],
        walk: list[list[str]],
        compute: Callable[[], KeptBlocks | None],
    ) -> KeptBlocks | None:
        """What finetuning needs of the float model: see `FloatSide`."""
        key = {
            "of": transformed.key,
            "data": self._data(options.DataSize).digest,
            "providers": providers,
            "columns": options.model_dump(include={"MaxColumns", "FixedSeed"}),
            "walk": walk,
        }
        return self.cache.get(FLOAT_COLUMNS, key, compute)

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
            Initializers(transformed.model),
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
        grids, constants = Grids(config), Initializers(transformed.model)
        params = self._params(transformed, placement, constants, grids)
        codes = _quantized_weights(Quantization(placement, params, constants, grids))
        formats = {
            name: TensorFormat(grids.activation(name).type, params.get(name))
            for name, provider in placement.activations.items()
            if name == provider
        }
        for site, own in zip_longest(placement.weights.values(), codes):
            formats[site.name] = TensorFormat(grids.weight(site).type, params.get(site.name), own)
        return formats

    def _placed_cost(self, transformed: Transformed, placement: Placement, grids: Grids) -> ModelCost:
        """What the layers cost with a placement."""
        layers, sizes = self._layers(transformed), self._sizes(grids.config)
        bits = {layer.name: placed_bits(layer, placement, grids) for layer in layers}
        return model_cost(transformed.model.graph, layers, sizes, bits, emulated=False)

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
            "options": options.model_dump(include=RANGE_OPTIONS),
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
            (*site.key, repr(grids.weight(site)), repr(grids.overrides(site.name)))
            for site in placement.weights.values()
        ]
        key = {"of": transformed.key, "sites": sites, "method": grids.config.calibrate_method.name}
        key["weights"] = grids.config.extra_options.WeightCalibrateMethod
        return self.cache.get(_CONSTANT_PARAMS, key, lambda: constant_params(placement, constants, grids))


def _quantized_weights(numbers: Quantization) -> Iterator[onnx.TensorProto]:
    """Codes of the weights, one by one: making them costs what reading them from a cache would."""
    grids = numbers.grids
    if not grids.config.extra_options.AddQDQPairToWeight:
        for site in numbers.placement.weights.values():
            yield quantized_weight(site, numbers.params.get(site.name), numbers.constants, grids)


def _before_finetuning(config: QuantConfig) -> QuantConfig:
    """The configuration without what comes last and is too slow to be tried again and again."""
    options = config.extra_options.replace(BiasCorrection=False, FastFinetune=FastFinetuneConfig())
    return config.replace(include_fast_ft=False, extra_options=options)
