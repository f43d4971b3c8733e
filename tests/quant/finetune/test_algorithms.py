from __future__ import annotations

import pytest

from quant import ConfigError, FastFinetuneConfig
from quant.finetune import AdaQuant, AdaRound, Gptq, algorithm_for


def test_defaults_of_adaround_are_those_of_the_configuration() -> None:
    assert algorithm_for(FastFinetuneConfig()) == AdaRound()


def test_every_parameter_of_adaround() -> None:
    config = FastFinetuneConfig(
        NumIterations=7,
        LearningRate=0.5,
        RegParam=0.2,
        BetaRange=(10, 3),
        WarmStart=0.4,
        EarlyStop=True,
        LRAdjust=(1.0, 0.2),
    )
    assert algorithm_for(config) == AdaRound(7, 0.5, 0.2, (10.0, 3.0), 0.4, True, (1.0, 0.2))


def test_the_pair_stands_for_iterations_and_learning_rate() -> None:
    config = FastFinetuneConfig(OptimAlgorithm="adaquant", NumIterLR=(50, 0.01), EarlyStop=True)
    assert algorithm_for(config) == AdaQuant(50, 0.01, early_stop=True)


def test_gptq() -> None:
    assert algorithm_for(FastFinetuneConfig(OptimAlgorithm="gptq")) == Gptq()


@pytest.mark.parametrize("values", [(1.0,), (1.0, 0.0), (1.0, 0.1, 0.1)])
def test_lr_adjust_is_a_pair(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="LRAdjust"):
        algorithm_for(FastFinetuneConfig(LRAdjust=values))


def test_beta_below_one() -> None:
    with pytest.raises(ConfigError, match="BetaRange"):
        algorithm_for(FastFinetuneConfig(BetaRange=(20, 0)))
