"""From a configuration to the algorithm that it asks for."""

from __future__ import annotations

from quant.config import FastFinetuneConfig
from quant.errors import ConfigError
from quant.finetune.adaquant import AdaQuant
from quant.finetune.adaround import AdaRound
from quant.finetune.gptq import Gptq
from quant.finetune.layer import Algorithm


def algorithm_for(config: FastFinetuneConfig) -> Algorithm:
    """The algorithm named by `OptimAlgorithm`, with its parameters.

    `NumIterLR`, where given, stands for `NumIterations` and `LearningRate`. `LearningRate` is in
    logits for AdaRound, in quantization steps for AdaQuant. `LRAdjust` is empty or a pair
    (threshold, learning rate): the latter applies to layers whose mean squared error is above the
    former before finetuning.

    Raises:
        ConfigError: If `LRAdjust` is neither, or `BetaRange` has a value below 1.
    """
    if config.OptimAlgorithm == "gptq":
        return Gptq()
    iterations, learning_rate = config.NumIterLR or (config.NumIterations, config.LearningRate)
    lr_adjust = _lr_adjust(config.LRAdjust)
    if config.OptimAlgorithm == "adaquant":
        return AdaQuant(iterations, learning_rate, config.EarlyStop, lr_adjust)
    if min(config.BetaRange) < 1:
        raise ConfigError(f"BetaRange: {config.BetaRange}: both values must be at least 1")
    return AdaRound(
        iterations,
        learning_rate,
        config.RegParam,
        config.BetaRange,
        config.WarmStart,
        config.EarlyStop,
        lr_adjust,
    )


def _lr_adjust(values: tuple[float, ...]) -> tuple[float, float] | None:
    if not values:
        return None
    if len(values) != 2 or values[1] <= 0:
        raise ConfigError(f"LRAdjust: {values}: give (threshold, positive learning rate), or leave it out")
    return values[0], values[1]
