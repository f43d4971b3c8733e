from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parity.models import CASES
from tests.parity.reference import assert_same_numbers, both

MINMAX: dict[str, dict[str, Any]] = {
    "int8": {},
    "uint8": {"activation_type": "QUInt8", "weight_type": "QUInt8"},
    "uint8-int8 per channel": {"activation_type": "QUInt8", "per_channel": True},
    "int16 symmetric": {
        "activation_type": "QInt16",
        "weight_type": "QInt16",
        "extra_options": {"ActivationSymmetric": True},
    },
    "uint16 per channel": {"activation_type": "QUInt16", "per_channel": True},
    "reduced range": {"reduce_range": True, "extra_options": {"WeightSymmetric": False}},
    "reduced uint8 symmetric": {
        "activation_type": "QUInt8",
        "weight_type": "QUInt8",
        "reduce_range": True,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", MINMAX)
def test_same_integers(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **MINMAX[config]))


OPTIONS: dict[str, dict[str, Any]] = {
    "pairs on weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "float biases": {"extra_options": {"QuantizeBias": False}},
    "kept activations": {"extra_options": {"QDQKeepRemovableActivations": True}},
    "forced": {"extra_options": {"ForceQuantizeNoInputCheck": True}},
    "least range": {"extra_options": {"MinimumRealRange": 0.5}},
    "symmetric ranges": {
        "extra_options": {"CalibTensorRangeSymmetric": True, "QDQKeepRemovableActivations": True}
    },
    "float outputs": {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv", "MatMul", "Gemm"]}},
    "MatMul axis": {
        "per_channel": True,
        "extra_options": {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 0}},
    },
    "some operators": {"op_types_to_quantize": ["Conv", "Gemm", "MatMul", "Relu"]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", OPTIONS)
def test_same_integers_with_options(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **OPTIONS[config]))
