"""Parameters of FastFinetune."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quant.config.base import Level, Names
from quant.errors import nearest

FINETUNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WITHOUT_MATRIX = ("InstanceNormalization", "LayerNormalization")
"""Quark's lists name them, too; they have no weight matrix whose roundings could be chosen."""


def _operators(names: tuple[str, ...]) -> tuple[str, ...]:
    known = (*FINETUNED, *_WITHOUT_MATRIX)
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not an operator that can be finetuned{nearest(name, known)}")
    if not names:
        raise ValueError("names no operator; leave it out for all, or set include_fast_ft to false")
    return names


def _device(name: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise ValueError(f"{name!r} is not a device; give 'cpu', 'cuda' or 'cuda:<number>'")
    return name


def _threshold_and_rate(values: tuple[float, ...]) -> tuple[float, ...]:
    if values and (len(values) != 2 or values[1] <= 0):
        raise ValueError(f"{values}: give (threshold, positive learning rate), or leave it out")
    return values


DeviceName = Annotated[str, AfterValidator(_device)]
Positive = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=1)]


class FastFinetuneConfig(Level):
    """Parameters of layer-wise finetuning after quantization (level 3).

    They take effect with `QuantConfig.include_fast_ft` alone. Layers are finetuned one after another
    on second-order statistics of all samples at once (see `quant.finetune`), so that gradients are
    exact, and there are no batches.

    Defaults are measured on a small MobileNet and a ResNet of 32 x 32 images, 256 samples, 8-bit and
    4-bit weights: 50 iterations of adaround or adaquant, which start from gptq's rounding, end as near to
    the float model as 100 (within the few percent by which results vary with the seed), and so do 8192
    columns as all; with 4096 the ResNet's squared error on test data is 1 to 6 % higher.

    Attributes:
        DataSize: Number of samples; None = all.
        MaxColumns: About how many of a layer's columns (one for each sample and output position) enter
            its statistics; at least four for each of its inputs, and all where that saves less than a
            third; None = always all.
        NumIterations: At most, of adaround and adaquant. With 25, the error on the ResNet with 4-bit weights
            was 3 % higher on average.
        LearningRate: Of Adam: in logits for adaround, in quantization steps for adaquant.
        NumIterLR: A pair that stands for the two.
        OptimAlgorithm: ``adaround`` (Nagel et al., 2020), ``adaquant`` (Hubara et al., 2020) or
            ``gptq`` (Frantar et al., 2022, towards the float model's outputs), from which the others start;
            each is followed by coordinate descent.
        OptimDevice: Where arrays are: ``cpu``, or ``cuda:0`` through CuPy or PyTorch.
        InferDevice: Where the models run.
        EarlyStop: End a layer when its loss no longer falls.
        LRAdjust: (threshold, learning rate): the latter for layers whose mean squared error is above
            the former with nearest rounding.
        TargetOpType: Which operators are finetuned; InstanceNormalization and LayerNormalization, which have
            no weight matrix, are accepted and left as they are.
        SelectiveUpdate: Keep a layer's update only if the error of the model's outputs falls; costs a
            run of the model for each layer.
        UpdateBias: Correct biases along with the weights, in closed form.
        OutputQDQ: Keep a layer's update only if the error behind the quantization of its output falls.
        ReluAware: Refine layers behind which there is a Relu or a Clip from 0, by coordinate descent on the
            error behind it, on a sample of about 6000 columns. With gptq on the MobileNet, mean of three
            seeds: squared error of the outputs with 4-bit weights 8 % lower on the calibration data and
            5 % on test data; with 8-bit weights 8 % lower and 3 % higher, which is why it is off; for
            two to four times the processor time. With `UpdateBias` (one seed): 5 % and 5 %, 0 % and 3 %.
        DropRatio: Share of quantized inputs that a layer sees, the rest being the float model's: 1 = it
            makes up for the errors before it; 0 = statistics that all configurations share.
        RegParam, BetaRange, WarmStart: Of adaround's regulariser.
        LogPeriod: Iterations between two lines in the log, at level DEBUG (``autosearch search --verbose``).
        Damping: Of GPTQ, as a share of mean(diag G).
        ActOrder: GPTQ takes the inputs with the greatest energy first.
        FixedSeed: Of the choice among columns (`MaxColumns`), the only thing that is random.
        BatchSize, NumBatches: No effect: there are no batches.
    """

    DataSize: int | None = Field(default=None, gt=0)
    MaxColumns: int | None = Field(default=8192, ge=1024)
    FixedSeed: int = Field(default=42, ge=0)
    BatchSize: int = Field(default=1, gt=0)
    NumBatches: int = Field(default=1, gt=0)
    NumIterations: int = Field(default=50, gt=0)
    LearningRate: Positive = 0.1
    NumIterLR: tuple[Annotated[int, Field(gt=0)], Positive] | None = None
    OptimAlgorithm: Literal["adaround", "adaquant", "gptq"] = "adaround"
    OptimDevice: DeviceName = "cpu"
    InferDevice: DeviceName = "cpu"
    EarlyStop: bool = False
    LRAdjust: Annotated[tuple[float, ...], AfterValidator(_threshold_and_rate)] = ()
    TargetOpType: Annotated[Names, AfterValidator(_operators)] = FINETUNED
    SelectiveUpdate: bool = False
    UpdateBias: bool = False
    OutputQDQ: bool = False
    ReluAware: bool = False
    DropRatio: float = Field(default=1.0, ge=0, le=1)
    RegParam: float = Field(default=0.01, ge=0)
    BetaRange: tuple[Beta, Beta] = (20.0, 2.0)
    WarmStart: float = Field(default=0.2, ge=0, lt=1)
    LogPeriod: int = Field(default=100, gt=0)
    Damping: float = Field(default=0.01, gt=0, le=1)
    ActOrder: bool = True
