"""Level 2: options of calibration, placement and transforms."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from quant.config.base import Level, Names, PercentileValue
from quant.config.finetuning import FastFinetuneConfig
from quant.config.mixed_precision import AutoMixprecisionConfig
from quant.config.overrides import Overrides


class ExtraOptions(Level):
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
