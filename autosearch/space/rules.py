"""Which parameters mean something together: the rules that make equal configurations equal.

A rule reads some keys of a flat configuration and answers with new values for some. Because it
is a function of the values it reads and of nothing else, the same rule serves one configuration
and, tabulated over the choices, a million.

Three kinds, applied in this order: `Drop` refuses a configuration, `Rewrite` spells a value in
its one canonical way, `Strip` sets a key that has no effect back to its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autosearch.space.layer_form import calibrates, canonical_layers
from quant.config import AutoMixprecisionConfig, FastFinetuneConfig, QuantConfig, flatten
from quant.types import ELEMENT_NAMES, ELEMENT_TYPES, INTEGER_TYPES

Flat = Mapping[str, Any]
"""A configuration on one level, ``{"extra_options.Percentile": 99.9}``; values as in JSON."""

DEFAULTS: Flat = flatten(QuantConfig().to_dict())
"""Every key with its default."""


@dataclass(frozen=True)
class Drop:
    """Refuses configurations whose switch `key` is on.

    Attributes:
        key: What is read.
        reason: For the log.
    """

    key: str
    reason: str

    def refuses(self, value: object) -> bool:
        """Whether a configuration with this value of `key` is left out."""
        return bool(value)


@dataclass(frozen=True)
class Rewrite:
    """Spells a value in its canonical way, so that equals look equal.

    Attributes:
        reads: Keys whose values `rewrite` takes, in order.
        rewrite: The new values by key; empty where nothing changes.
        reason: For the log.
    """

    reads: tuple[str, ...]
    rewrite: Callable[..., Flat]
    reason: str

    def effect(self, values: Flat) -> Flat:
        """New values by key."""
        return self.rewrite(*(values[key] for key in self.reads))


@dataclass(frozen=True)
class Strip:
    """Sets keys back to their defaults unless they matter.

    Attributes:
        keys: What is set back.
        reads: Keys whose values `matters` takes, in order.
        matters: Whether `keys` have any effect on the quantized model.
        reason: For the log.
    """

    keys: tuple[str, ...]
    reads: tuple[str, ...]
    matters: Callable[..., bool]
    reason: str

    def keeps(self, values: Flat) -> bool:
        """Whether `keys` matter beside these values."""
        return self.matters(*(values[key] for key in self.reads))

    def effect(self, values: Flat) -> Flat:
        """New values by key."""
        return {} if self.keeps(values) else {key: DEFAULTS[key] for key in self.keys}


Rule = Drop | Rewrite | Strip


def extra(*names: str) -> tuple[str, ...]:
    """Flat keys of level 2."""
    return tuple(f"extra_options.{name}" for name in names)


def finetune(*names: str) -> tuple[str, ...]:
    """Flat keys of level 3."""
    return tuple(f"extra_options.FastFinetune.{name}" for name in names)


def mixed_precision(*names: str) -> tuple[str, ...]:
    """Flat keys of level 3."""
    return tuple(f"extra_options.AutoMixprecision.{name}" for name in names)


METHOD = "calibrate_method"
LAYERS = "layers"
NUM_ITER_LR, NUM_ITERATIONS, LEARNING_RATE = finetune("NumIterLR", "NumIterations", "LearningRate")
WEIGHT_SYMMETRIC, MOVING_AVERAGE = extra("WeightSymmetric", "CalibMovingAverage")
ACTIVATION_SYMMETRIC, RANGE_SYMMETRIC = extra("ActivationSymmetric", "CalibTensorRangeSymmetric")
OPTIM_ALGORITHM, LOG_PERIOD = finetune("OptimAlgorithm", "LogPeriod")
WATCHED = (LOG_PERIOD,)
"""What changes the log and not the model: no part of the effective form, and yet carried out as written."""
PERCENTILE_METHODS = ("Percentile", "LayerWisePercentile")


def split_num_iter_lr(pair: tuple[int, float] | None) -> Flat:
    """The pair written as `NumIterations` and `LearningRate`."""
    if pair is None:
        return {}
    return {NUM_ITERATIONS: pair[0], LEARNING_RATE: pair[1], NUM_ITER_LR: None}


def _weight_symmetry(weight_type: str, symmetric: bool | None) -> Flat:
    if symmetric is not None:
        return {}
    return {WEIGHT_SYMMETRIC: ELEMENT_TYPES[ELEMENT_NAMES[weight_type]].signed}


def _as_set(key: str) -> Rewrite:
    name = key.removeprefix("extra_options.")
    return Rewrite((key,), lambda names: {key: sorted(set(names))}, f"{name} is a set: order means nothing")


def _range_symmetry(method: str, activations: bool, symmetric: bool | None) -> Flat:
    """Resolves None where one of the two others does the same.

    For the Percentile methods it is neither: percentiles of absolute values as with true, but an
    activation that the range makes redundant is removed as with false (never beside ActivationSymmetric).
    """
    if symmetric is not None or (method in PERCENTILE_METHODS and not activations):
        return {}
    return {RANGE_SYMMETRIC: method in PERCENTILE_METHODS}


def _range_symmetry_matters(method: str, activations: bool, minimum_range: float | None) -> bool:
    """Whether CalibTensorRangeSymmetric changes the grid of an activation, or which ones there are.

    Beside ActivationSymmetric, percentiles still are of other values with it. Entropy and MinMSE do
    not look at it, MSE searches symmetric ranges with either, and the ranges of the other methods are
    widened about zero in any case, unless a minimum width is applied between the two widenings.
    """
    if not activations or method in PERCENTILE_METHODS:
        return True
    return minimum_range is not None and method not in ("Entropy", "MinMSE", "MSE")


def _has_reduced_range(type_name: str) -> bool:
    element = INTEGER_TYPES.get(ELEMENT_NAMES[type_name])
    return element is not None and element.bits >= 4


def _layers_written(layers: Mapping[str, Any] | None) -> Flat:
    return {} if layers is None else {LAYERS: canonical_layers(layers)}


REWRITES = (
    Rewrite((LAYERS,), _layers_written, "parameters of formats that are their defaults are left out"),
    Rewrite((NUM_ITER_LR,), split_num_iter_lr, "NumIterLR is NumIterations and LearningRate"),
    Rewrite(
        ("weight_type", WEIGHT_SYMMETRIC),
        _weight_symmetry,
        "WeightSymmetric None is true for signed weight types, false for unsigned",
    ),
    Rewrite(
        (METHOD, ACTIVATION_SYMMETRIC, RANGE_SYMMETRIC),
        _range_symmetry,
        "CalibTensorRangeSymmetric None is false, for symmetric Percentile methods true",
    ),
    *(
        _as_set(key)
        for key in (
            "op_types_to_quantize",
            "op_types_to_exclude",
            "nodes_to_quantize",
            "nodes_to_exclude",
            "input_nodes",
            "output_nodes",
            *extra("OpTypesToExcludeOutputQuantization"),
            *finetune("TargetOpType"),
            *mixed_precision("TargetOpType"),
        )
    ),
)

PLACEMENT = (
    "activation_type",
    "weight_type",
    "per_channel",
    "reduce_range",
    "op_types_to_quantize",
    "op_types_to_exclude",
    "nodes_to_quantize",
    "nodes_to_exclude",
    "input_nodes",
    "output_nodes",
    *extra("ActivationSymmetric", "WeightSymmetric", "AddQDQPairToWeight", "DedicatedQDQPair"),
    *extra("QuantizeBias", "MatMulConstBOnly", "OpTypesToExcludeOutputQuantization"),
    *extra("QDQOpTypePerChannelSupportToAxis", "QDQKeepRemovableActivations", "ForceQuantizeNoInputCheck"),
    *extra("BlockSize", "TensorQuantOverrides", "ActivationRestrictedAsymmetric", "UseQDQContribOps"),
    *extra("QDQDisableWeightAdjustForInt32Bias"),
)
"""Keys of the ordinary placement of Q/DQ nodes, and of the types and grids there."""

STRIPS = (
    Strip(
        PLACEMENT,
        (LAYERS,),
        lambda layers: layers is None,
        "types and placement of Q/DQ nodes mean nothing beside layers",
    ),
    Strip(
        (METHOD, RANGE_SYMMETRIC, MOVING_AVERAGE, *extra("WeightCalibrateMethod", "MinimumRealRange")),
        (LAYERS,),
        lambda layers: layers is None or calibrates(layers),
        "of layers, only formats that are calibrated have a calibrate_method and its options",
    ),
    Strip(
        extra("CalibDataSize"),
        (LAYERS, "include_sq", *extra("BiasCorrection")),
        lambda layers, smooth, corrected: layers is None or smooth or corrected or calibrates(layers),
        "CalibDataSize means nothing to layers of which no format is calibrated",
    ),
    Strip(
        (MOVING_AVERAGE,),
        (METHOD,),
        lambda method: method == "MinMax",
        "CalibMovingAverage only with calibrate_method MinMax",
    ),
    Strip(
        extra("CalibMovingAverageConstant"),
        (METHOD, MOVING_AVERAGE),
        lambda method, average: method == "MinMax" and average,
        "CalibMovingAverageConstant only with CalibMovingAverage on",
    ),
    Strip(
        extra("Percentile"),
        (METHOD,),
        lambda method: method == "Percentile",
        "Percentile only with calibrate_method Percentile",
    ),
    Strip(
        extra("PercentileCandidates", "LWPMetric"),
        (METHOD,),
        lambda method: method == "LayerWisePercentile",
        "PercentileCandidates and LWPMetric only with calibrate_method LayerWisePercentile",
    ),
    Strip(
        extra("DistributionDeviations"),
        (METHOD,),
        lambda method: method == "Distribution",
        "DistributionDeviations only with calibrate_method Distribution",
    ),
    Strip(
        extra("WeightCalibrateMethod"),
        (METHOD,),
        lambda method: method != "MinMSE",
        "WeightCalibrateMethod is implied by calibrate_method MinMSE",
    ),
    Strip(
        (RANGE_SYMMETRIC,),
        (METHOD, ACTIVATION_SYMMETRIC, *extra("MinimumRealRange")),
        _range_symmetry_matters,
        "CalibTensorRangeSymmetric does nothing more beside ActivationSymmetric",
    ),
    Strip(
        ("reduce_range",),
        ("activation_type", "weight_type", *extra("TensorQuantOverrides")),
        lambda activations, weights, overrides: (
            bool(overrides) or _has_reduced_range(activations) or _has_reduced_range(weights)
        ),
        "reduce_range only with integer types of 4 bits and more",
    ),
    Strip(
        extra("ActivationRestrictedAsymmetric"),
        ("activation_type", ACTIVATION_SYMMETRIC, *extra("TensorQuantOverrides")),
        lambda activations, symmetric, overrides: (
            bool(overrides) or (activations == "QUInt8" and not symmetric)
        ),
        "ActivationRestrictedAsymmetric only with asymmetric QUInt8 activations",
    ),
    Strip(
        extra("CalibStridedMinMax", "CalibMaxIntermediateOutputs"),
        (),
        lambda: False,
        "CalibStridedMinMax and CalibMaxIntermediateOutputs have no effect (calibration always streams)",
    ),
    Strip(
        extra("QDQKeepRemovableActivations"),
        (ACTIVATION_SYMMETRIC, RANGE_SYMMETRIC),
        lambda activations, ranges: not activations and not ranges,
        "QDQKeepRemovableActivations is implied by ActivationSymmetric and CalibTensorRangeSymmetric",
    ),
    Strip(
        extra("QDQOpTypePerChannelSupportToAxis"),
        ("per_channel",),
        lambda per_channel: per_channel,
        "QDQOpTypePerChannelSupportToAxis only with per_channel",
    ),
    Strip(
        extra("CLESteps", "CLEScaleAppendBias", "CLEScaleUseThreshold"),
        ("include_cle",),
        lambda cle: cle,
        "CLE options only with include_cle",
    ),
    Strip(
        extra("CLEWeightThreshold"),
        ("include_cle", "extra_options.CLEScaleUseThreshold"),
        lambda cle, use_threshold: cle and use_threshold,
        "CLEWeightThreshold only with include_cle and CLEScaleUseThreshold",
    ),
    Strip(
        extra("CLETotalLayerDiffThreshold"),
        ("include_cle", "extra_options.CLESteps"),
        lambda cle, steps: cle and steps == -1,
        "CLETotalLayerDiffThreshold only with include_cle and CLESteps -1",
    ),
    Strip(
        extra("SmoothAlpha"),
        ("include_sq",),
        lambda smooth: smooth,
        "SmoothAlpha only with include_sq",
    ),
    Strip(
        mixed_precision(*AutoMixprecisionConfig.model_fields),
        ("include_auto_mp",),
        lambda included: included,
        "AutoMixprecision options only with include_auto_mp",
    ),
    Strip(
        mixed_precision("ErrorTarget"),
        mixed_precision("L2Target"),
        lambda mean_square: mean_square is None,
        "ErrorTarget means nothing beside L2Target",
    ),
    Strip(
        finetune(*FastFinetuneConfig.model_fields),
        ("include_fast_ft",),
        lambda included: included,
        "FastFinetune options only with include_fast_ft",
    ),
    Strip(
        finetune("RegParam", "BetaRange", "WarmStart"),
        (OPTIM_ALGORITHM,),
        lambda algorithm: algorithm == "adaround",
        "RegParam, BetaRange and WarmStart only with OptimAlgorithm adaround",
    ),
    Strip(
        finetune("NumIterations", "LearningRate", "LRAdjust", "EarlyStop"),
        (OPTIM_ALGORITHM,),
        lambda algorithm: algorithm != "gptq",
        "NumIterations, LearningRate, LRAdjust and EarlyStop mean nothing to OptimAlgorithm gptq",
    ),
    Strip(
        finetune("ActOrder"),
        (OPTIM_ALGORITHM,),
        lambda algorithm: algorithm == "gptq",
        "ActOrder only with OptimAlgorithm gptq",
    ),
    Strip(
        finetune("OutputQDQ"),
        finetune("SelectiveUpdate"),
        lambda selective: not selective,
        "OutputQDQ does nothing beside SelectiveUpdate",
    ),
    Strip(
        finetune("UpdateBias"),
        extra("BiasCorrection"),
        lambda corrected: not corrected,
        "UpdateBias is implied by BiasCorrection",
    ),
    Strip(
        finetune("FixedSeed"),
        finetune("MaxColumns", "ReluAware"),
        lambda columns, relu: columns is not None or relu,
        "FixedSeed only with MaxColumns or ReluAware (nothing else is random)",
    ),
    Strip(
        finetune("BatchSize", "NumBatches", "LogPeriod"),
        (),
        lambda: False,
        "BatchSize, NumBatches and LogPeriod do not change the result (gradients are exact)",
    ),
)

RULES: tuple[Rule, ...] = (*REWRITES, *STRIPS)
"""All rules, in the order in which they are applied."""


def refusal(values: Flat, rules: Iterable[Rule] = RULES) -> str | None:
    """The reason why a configuration must not run, or None."""
    found = (rule for rule in rules if isinstance(rule, Drop) and rule.refuses(values[rule.key]))
    return next((f"{rule.key}: {rule.reason}" for rule in found), None)


def apply_rules(values: Flat, rules: Iterable[Rule] = RULES) -> dict[str, Any]:
    """The effective values: rewritten and stripped. Idempotent."""
    effective = dict(values)
    for rule in rules:
        if not isinstance(rule, Drop):
            effective.update(rule.effect(effective))
    return effective


def stripped_keys(effective: Flat, rules: Iterable[Rule] = RULES) -> frozenset[str]:
    """The keys that have no effect in this configuration."""
    strips = (rule for rule in rules if isinstance(rule, Strip))
    return frozenset(key for rule in strips if not rule.keeps(effective) for key in rule.keys)
