"""Every quantized model runs in an optimised session and gives outputs near the float model's."""

from __future__ import annotations

import numpy as np
import pytest

from quant import QuantConfig
from tests.parity.configurations import MINMAX, OPTIONS
from tests.parity.models import CASES
from tests.parity.reference import quantized
from tests.quant.graphs import Array, run

CONFIGURATIONS = MINMAX | OPTIONS
LEAST_DB = {"8": 15.0, "16": 50.0}
"""Signal to quantization noise, where the narrowest of weights and activations has so many bits."""

UNEVEN = ("digits_cnn",)
"""Channels differ so much that one scale of 8 bits does not serve them: they have to be equalized first."""


def sqnr_db(wanted: Array, got: Array) -> float:
    noise = np.sum(np.square(wanted.astype(np.float64) - got))
    return float(10 * np.log10(np.sum(np.square(wanted.astype(np.float64))) / max(noise, 1e-30)))


def bits(config: QuantConfig) -> str:
    names = (config.activation_type.name, config.weight_type.name)
    return "16" if all(name.endswith("16") for name in names) else "8"


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_near_the_float_models(case: str, config: str) -> None:
    model, feeds = CASES[case]()
    checked = QuantConfig(optimize_model=False, **CONFIGURATIONS[config])
    got = run(quantized(model, feeds, checked), feeds[0])
    if case in UNEVEN and bits(checked) == "8":
        return
    for wanted, output in zip(run(model, feeds[0]), got, strict=True):
        assert sqnr_db(wanted, output) > LEAST_DB[bits(checked)]
