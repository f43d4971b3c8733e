"""What to quantize and how: one frozen, validated value.

The names and levels are those of AMD Quark's ONNX quantizer (level 1: `QuantConfig`, level 2:
`ExtraOptions`, level 3: `FastFinetuneConfig`); defaults are onnxruntime's where it has the option.
Those of cross-layer equalization are the paper's (no bias in the ranges, no threshold), with a second
round, which left less error on every model that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from quant.errors import ConfigError, nearest
from quant.types import (
    CALIBRATE_METHODS,
    ELEMENT_TYPES,
    CalibrateMethod,
    CalibrationMethod,
    ElementName,
    ExtendedQuantType,
    QuantFormat,
    QuantType,
)

_NARROW_BITS = 8
"""What mixed precision takes for narrow unless target types are given."""

OTHER_NAMES = {
    "CalibPercentile": "use Percentile",
    "DefaultTensorType": "types are inferred; float32 and float16 tensors are quantized",
    "SmoothQuant": "use include_sq, beside extra_options",
    "SmoothQuantAlpha": "use SmoothAlpha",
    "SmoothQuantFolding": "SmoothQuant always folds where it can; leave it out",
    "extra.Sigmoid.nnapi": "it is for NNAPI alone; leave it out",
}
"""onnxruntime's options that are called something else here or have no counterpart, with the remedy."""


def _enum_parser(what: str, members: Mapping[str, Enum]) -> BeforeValidator:
    """Accepts a member or its name: ``QuantType.QInt8``, ``"QInt8"``, ``"QuantType.QInt8"``."""
    folded = {name.casefold(): member for name, member in members.items()}

    def parse(value: object) -> Enum:
        if isinstance(value, Enum):
            if value in members.values():
                return value
            value = value.name
        if isinstance(value, str):
            found = folded.get(value.rpartition(".")[2].casefold())
            if found is not None:
                return found
        raise ValueError(f"{value!r} is not a supported {what}{nearest(str(value), members)}")

    return BeforeValidator(parse)


def _tuple(value: object) -> object:
    """A single name stands for a list of one; None for an empty list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


_by_name = PlainSerializer(lambda member: member.name, return_type=str)
_TYPES: dict[str, Enum] = {member.name: member for member in ELEMENT_TYPES}
_FORMATS: dict[str, Enum] = {QuantFormat.QDQ.name: QuantFormat.QDQ}

Method = Annotated[CalibrateMethod, _enum_parser("calibration method", CALIBRATE_METHODS), _by_name]
ElementType = Annotated[QuantType | ExtendedQuantType, _enum_parser("quantized type", _TYPES), _by_name]
Format = Annotated[QuantFormat, _enum_parser("quantization format", _FORMATS), _by_name]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
PercentileValue = Annotated[float, Field(gt=50, le=100)]


class _Config(BaseModel):
    """Frozen; unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(describe_validation_error(type(self), error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, nested as written; enumerations by name."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)


def describe_validation_error(
    model: type[BaseModel], error: ValidationError, place: tuple[str, ...] = ()
) -> str:
    """Every complaint of a pydantic error on a line: where, what was given, what to do."""
    return "\n".join(_describe(model, dict(item), place) for item in error.errors())


def _describe(model: type[BaseModel], item: dict[str, Any], place: tuple[str, ...]) -> str:
    *parents, key = (*place, *(str(part) for part in item["loc"])) or ("",)
    if item["type"] == "extra_forbidden":
        where = f"{'.'.join(parents)}: " if parents else ""
        if key in OTHER_NAMES:
            return f"{where}unknown key {key!r}: {OTHER_NAMES[key]}"
        return f"{where}unknown key {key!r}{nearest(key, model.model_fields)}"
    where = ".".join((*parents, key))
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # the complaint of a nested configuration names its own place
        joint = ": " if str(cause).startswith("unknown key") else "."
        return f"{where}{joint}{cause}"
    if isinstance(cause, ValueError):
        return f"{where}: {cause}" if where else str(cause)
    return f"{where}: {item['msg']}, got {item['input']!r}"


class TensorOverride(_Config):
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


class FastFinetuneConfig(_Config):
    """Parameters of layer-wise finetuning after quantization (level 3).

    They take effect with `QuantConfig.include_fast_ft` alone. Layers are finetuned one after another
    on second-order statistics of all samples at once (see `quant.finetune`), so that gradients are
    exact: nothing is drawn at random, and there are no batches.

    Attributes:
        DataSize: Number of samples; None = all.
        NumIterations: At most, of adaround and adaquant; more than 300 changed results by a few percent,
            in either direction, on the models measured.
        LearningRate: Of Adam: in logits for adaround, in quantization steps for adaquant.
        NumIterLR: A pair that stands for the two.
        OptimAlgorithm: ``adaround`` (Nagel et al., 2020), ``adaquant`` (Hubara et al., 2020) or
            ``gptq`` (Frantar et al., 2022, towards the float model's outputs); each is followed by
            coordinate descent.
        OptimDevice: Where arrays are: ``cpu``, or ``cuda:0`` through CuPy or PyTorch.
        InferDevice: Where the models run.
        EarlyStop: End a layer when its loss no longer falls.
        LRAdjust: (threshold, learning rate): the latter for layers whose mean squared error is above
            the former with nearest rounding.
        TargetOpType: Which operators are finetuned.
        SelectiveUpdate: Keep a layer's update only if the error of the model's outputs falls; costs a
            run of the model for each layer.
        UpdateBias: Correct biases along with the weights, in closed form.
        OutputQDQ: Keep a layer's update only if the error behind the quantization of its output falls.
        DropRatio: Share of quantized inputs that a layer sees, the rest being the float model's: 1 = it
            makes up for the errors before it; 0 = statistics that all configurations share.
        RegParam, BetaRange, WarmStart: Of adaround's regulariser.
        LogPeriod: Iterations between two lines in the log, at level DEBUG.
        Damping: Of GPTQ and of the optimum that the others start from, as a share of mean(diag G).
        ActOrder: GPTQ takes the inputs with the greatest energy first.
        FixedSeed, BatchSize, NumBatches: No effect: there is nothing random, and no batches.
    """

    DataSize: int | None = Field(default=None, gt=0)
    FixedSeed: int = Field(default=42, ge=0)
    BatchSize: int = Field(default=1, gt=0)
    NumBatches: int = Field(default=1, gt=0)
    NumIterations: int = Field(default=300, gt=0)
    LearningRate: float = Field(default=0.1, gt=0)
    NumIterLR: tuple[Annotated[int, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    OptimAlgorithm: Literal["adaround", "adaquant", "gptq"] = "adaround"
    OptimDevice: str = "cpu"
    InferDevice: str = "cpu"
    EarlyStop: bool = False
    LRAdjust: tuple[float, ...] = ()
    TargetOpType: Names = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    SelectiveUpdate: bool = False
    UpdateBias: bool = False
    OutputQDQ: bool = False
    DropRatio: float = Field(default=1.0, ge=0, le=1)
    RegParam: float = Field(default=0.01, ge=0)
    BetaRange: tuple[float, float] = (20.0, 2.0)
    WarmStart: float = Field(default=0.2, ge=0, lt=1)
    LogPeriod: int = Field(default=100, gt=0)
    Damping: float = Field(default=0.01, gt=0, le=1)
    ActOrder: bool = True


class AutoMixprecisionConfig(_Config):
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


class ExtraOptions(_Config):
    """Options of calibration, Q/DQ placement and the transforms (level 2).

    Attributes:
        ActivationSymmetric: Zero point fixed, range made symmetric about zero.
        WeightSymmetric: The same for weights; None = for signed weight types only.
        CalibMovingAverage: Ranges by MinMax are moving averages over the batches.
        CalibMovingAverageConstant: Weight of the newest batch in that average.
        CalibTensorRangeSymmetric: Ranges are symmetric about zero, percentiles are of |x|; None =
            for the Percentile methods only, as in onnxruntime.
        CalibDataSize: Number of samples to calibrate with; None = all.
        Percentile: Percentage of values, two-sided, that the Percentile range keeps.
        PercentileCandidates: What LayerWisePercentile chooses from, for each tensor.
        LWPMetric: The error by which LayerWisePercentile chooses.
        DistributionDeviations: Standard deviations on either side of the mean that the Distribution
            range keeps.
        WeightCalibrateMethod: Ranges of weights: their extremes, or those with the least mean
            squared error, for powers of two as with MinMSE, which always does that.
        AddQDQPairToWeight: Weights stay float behind a Q/DQ pair.
        DedicatedQDQPair: A Q/DQ pair of its own for every reader of a tensor.
        QuantizeBias: Biases become int32 with scale = input scale x weight scale.
        MatMulConstBOnly: Quantize only MatMuls whose second operand is constant.
        OpTypesToExcludeOutputQuantization: Operators whose outputs stay float.
        QDQOpTypePerChannelSupportToAxis: Channel axis by operator type.
        QDQKeepRemovableActivations: Keep a Relu or Clip that the zero point makes redundant.
        ForceQuantizeNoInputCheck: Quantize pass-through operators whose input is not quantized.
        MinimumRealRange: Least width of an activation's or weight's range.
        BlockSize: Number of consecutive weights along the summed dimension that share a scale; None
            = one scale for the tensor or channel.
        TensorQuantOverrides: By tensor name: an override, or one for each channel.
        ActivationRestrictedAsymmetric: Zero points of unsigned 8-bit activations are 0 for ranges
            without negative values and 128 for others.
        QDQDisableWeightAdjustForInt32Bias: Do not raise a weight's scale where its bias overflows.
        UseQDQContribOps: Q and DQ of the domain com.microsoft, where it has all the types: integers
            of 4 bits and more, without blocks.
        EnableSubgraph: Quantize what is inside the bodies of If, Loop and Scan too, as what is outside;
            the transforms leave them alone.
        CalibStridedMinMax, CalibMaxIntermediateOutputs: No effect; calibration always streams.
        CLESteps: Rounds of cross-layer equalization; -1 = until it changes no more.
        CLEScaleAppendBias: Count the bias in a channel's range.
        CLEScaleUseThreshold: Leave channels alone whose weights stay below `CLEWeightThreshold`.
        CLEWeightThreshold: That bound on a channel's largest weight.
        CLETotalLayerDiffThreshold: Mean change of scales below which -1 steps end.
        SmoothAlpha: Migration strength of SmoothQuant: 0 = weights become even, 1 = activations.
        BiasCorrection: Correct biases by the mean error of their layers' outputs; with FastFinetune, as
            `UpdateBias` does.
        FastFinetune, AutoMixprecision: Level 3.
    """

    ActivationSymmetric: bool = False
    WeightSymmetric: bool | None = None
    CalibMovingAverage: bool = False
    CalibMovingAverageConstant: float = Field(default=0.01, ge=0, le=1)
    CalibTensorRangeSymmetric: bool | None = None
    CalibDataSize: int | None = Field(default=None, gt=0)
    Percentile: PercentileValue = 99.999
    PercentileCandidates: tuple[PercentileValue, ...] = Field(
        default=(99.9, 99.99, 99.999, 99.9999), min_length=1
    )
    LWPMetric: Literal["mae", "mse"] = "mae"
    DistributionDeviations: float = Field(default=8.0, gt=0)
    WeightCalibrateMethod: Literal["MinMax", "MSE"] = "MinMax"
    AddQDQPairToWeight: bool = False
    DedicatedQDQPair: bool = False
    QuantizeBias: bool = True
    MatMulConstBOnly: bool = False
    OpTypesToExcludeOutputQuantization: Names = ()
    QDQOpTypePerChannelSupportToAxis: dict[str, int] = Field(default_factory=dict)
    QDQKeepRemovableActivations: bool = False
    ForceQuantizeNoInputCheck: bool = False
    MinimumRealRange: float | None = Field(default=None, gt=0)
    BlockSize: int | None = Field(default=None, ge=1)
    TensorQuantOverrides: dict[str, Overrides] = Field(default_factory=dict)
    ActivationRestrictedAsymmetric: bool = False
    QDQDisableWeightAdjustForInt32Bias: bool = False
    UseQDQContribOps: bool = False
    EnableSubgraph: bool = False
    CalibStridedMinMax: int | None = Field(default=None, gt=0)
    CalibMaxIntermediateOutputs: int | None = Field(default=None, gt=0)
    CLESteps: int = Field(default=2, ge=-1)
    CLEScaleAppendBias: bool = False
    CLEScaleUseThreshold: bool = False
    CLEWeightThreshold: float = Field(default=0.5, ge=0)
    CLETotalLayerDiffThreshold: float = Field(default=2e-7, ge=0)
    SmoothAlpha: float = Field(default=0.5, ge=0, le=1)
    BiasCorrection: bool = False
    FastFinetune: FastFinetuneConfig = FastFinetuneConfig()
    AutoMixprecision: AutoMixprecisionConfig = AutoMixprecisionConfig()


class QuantConfig(_Config):
    """One way to quantize a model (level 1).

    Attributes:
        calibrate_method: How the ranges of activations follow from their statistics. The
            power-of-two methods make the scales of weights powers of two as well.
        activation_type, weight_type: Integer types of 2 to 16 bits, float8, float16 and bfloat16.
        per_channel: Weights get a scale for each output channel.
        reduce_range: Weights use 7 of 8 (15 of 16) bits.
        quant_format: QDQ; the QOperator format is not written.
        op_types_to_quantize, op_types_to_exclude: Operator types; empty = all that have a placement
            rule, none.
        nodes_to_quantize, nodes_to_exclude: Node names; empty = all, none. ``*`` and ``?`` stand for
            any characters and any one; ``re:`` starts a regular expression for the whole name. The
            same holds for operator types.
        input_nodes, output_nodes: Names of nodes that bound what is quantized: what comes before
            the former or behind the latter stays float; empty = no bound.
        optimize_model: Fold BatchNormalization, constants and identities first.
        use_external_data_format: Weights in a file beside the model.
        execution_providers: Where the float model runs for calibration.
        include_cle: Cross-layer equalization first.
        include_sq: SmoothQuant, after it.
        include_auto_mp: Automatic mixed precision: a type of their own for sensitive tensors.
        include_fast_ft: FastFinetune last.
        extra_options: Level 2.

    Raises:
        ConfigError: For an unknown key, a wrong type or an option that is not available.
    """

    calibrate_method: Method = CalibrationMethod.MinMax
    activation_type: ElementType = QuantType.QInt8
    weight_type: ElementType = QuantType.QInt8
    per_channel: bool = False
    reduce_range: bool = False
    quant_format: Format = QuantFormat.QDQ
    op_types_to_quantize: Names = ()
    op_types_to_exclude: Names = ()
    nodes_to_quantize: Names = ()
    nodes_to_exclude: Names = ()
    input_nodes: Names = ()
    output_nodes: Names = ()
    optimize_model: bool = True
    use_external_data_format: bool = False
    execution_providers: Names = ("CPUExecutionProvider",)
    include_cle: bool = False
    include_sq: bool = False
    include_auto_mp: bool = False
    include_fast_ft: bool = False
    extra_options: ExtraOptions = ExtraOptions()

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.include_auto_mp and len({target.promotes for target in self.precision_targets()}) > 1:
            raise ConfigError(
                "extra_options.AutoMixprecision: ActTargetQuantType and WeightTargetQuantType: one is wider"
                " and one narrower than the configuration's type; give two wider or two narrower ones"
            )

    def precision_targets(self) -> tuple[PrecisionTarget, ...]:
        """The changes of type that automatic mixed precision chooses from, for activations and weights."""
        options = self.extra_options.AutoMixprecision
        activations, weights = options.ActTargetQuantType, options.WeightTargetQuantType
        if activations is None and weights is None:
            wider = ELEMENT_TYPES[self.activation_type].bits <= _NARROW_BITS
            activations, weights = (_of_width(own, wider) for own in (self.activation_type, self.weight_type))
        pairs = ((self.activation_type, activations, False), (self.weight_type, weights, True))
        return tuple(
            PrecisionTarget(own, target, of_weights)
            for own, target, of_weights in pairs
            if target is not None and target is not own
        )

    def element_names(self) -> frozenset[ElementName]:
        """The types of activations and weights, and those of overrides and of mixed precision."""
        overrides = [each for given in self.extra_options.TensorQuantOverrides.values() for each in given]
        overrides += [given.convert for given in overrides if given.convert is not None]
        named = {given.quant_type for given in overrides if given.quant_type is not None}
        targets = self.precision_targets() if self.include_auto_mp else ()
        named |= {target.type for target in targets}
        return frozenset({self.activation_type, self.weight_type, *named})


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


def _of_width(own: ElementName, wide: bool) -> ElementName:
    """An integer type of 16 or 8 bits, unless the type is as wide or narrow; unsigned stays unsigned."""
    element = ELEMENT_TYPES[own]
    if (element.bits > _NARROW_BITS) is wide:
        return own
    return QuantType[f"Q{'' if element.signed else 'U'}Int{16 if wide else _NARROW_BITS}"]


_LEVELS = ("extra_options", "extra_options.FastFinetune", "extra_options.AutoMixprecision")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> one level, keys joined by dots.

    >>> flatten({"per_channel": True, "extra_options": {"Percentile": 99.9}})
    {'per_channel': True, 'extra_options.Percentile': 99.9}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        if path in _LEVELS and isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, key = path.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[key] = value
    return nested
