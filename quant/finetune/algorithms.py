"""From a configuration to the algorithm that it asks for."""

from __future__ import annotations

from collections.abc import Callable

from quant.config import FastFinetuneConfig
from quant.finetune.adam import Progress
from quant.finetune.adaquant import AdaQuant
from quant.finetune.adaround import AdaRound
from quant.finetune.gptq import Gptq
from quant.finetune.layer import Algorithm


def algorithm_for(
    config: FastFinetuneConfig, report: Callable[[int, float], None] | None = None
) -> Algorithm:
    """The algorithm named by `OptimAlgorithm`, with its parameters.

    `NumIterLR`, where given, stands for `NumIterations` and `LearningRate`. `LearningRate` is in
    logits for AdaRound, in quantization steps for AdaQuant. `LRAdjust` is empty or a pair
    (threshold, learning rate): the latter applies to layers whose mean squared error is above the
    former before finetuning.

    Args:
        config: Parameters.
        report: Told of the iteration and the loss, every `LogPeriod` iterations.
    """
    if config.OptimAlgorithm == "gptq":
        return Gptq(config.Damping, config.ActOrder)
    iterations, learning_rate = config.NumIterLR or (config.NumIterations, config.LearningRate)
    lr_adjust = (config.LRAdjust[0], config.LRAdjust[1]) if config.LRAdjust else None
    progress = None if report is None else Progress(config.LogPeriod, report)
    if config.OptimAlgorithm == "adaquant":
        return AdaQuant(iterations, learning_rate, config.EarlyStop, lr_adjust, config.Damping, progress)
    return AdaRound(
        iterations,
        learning_rate,
        config.RegParam,
        config.BetaRange,
        config.WarmStart,
        config.EarlyStop,
        lr_adjust,
        config.Damping,
        progress,
    )
