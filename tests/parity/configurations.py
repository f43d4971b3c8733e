"""Configurations that both quantizers know, as arguments of `QuantConfig`.

`MINMAX` has a product of element types with symmetry, granularity and reduced ranges, and one
configuration for each option. A pair of element types more is a row more in `TYPES`.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

TYPES = (
    ("QInt8", "QInt8"),
    ("QUInt8", "QInt8"),
    ("QUInt8", "QUInt8"),
    ("QInt16", "QInt8"),
    ("QInt16", "QInt16"),
    ("QUInt16", "QInt8"),
    ("QUInt16", "QUInt8"),
    ("QUInt16", "QUInt16"),
)
"""Of activations and of weights."""

VARIANTS: dict[str, Config] = {
    "": {},
    " per channel": {"per_channel": True},
    " symmetric": {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}},
}

MINMAX: dict[str, Config] = {
    f"{activation}-{weight}{name}": {"activation_type": activation, "weight_type": weight, **variant}
    for activation, weight in TYPES
    for name, variant in VARIANTS.items()
}
MINMAX |= {
    "asymmetric weights": {"extra_options": {"WeightSymmetric": False}},
    "reduced range": {"reduce_range": True},
    "reduced range per channel": {"reduce_range": True, "per_channel": True, "activation_type": "QUInt8"},
    "reduced asymmetric": {"reduce_range": True, "extra_options": {"WeightSymmetric": False}},
    "reduced uint8 symmetric": {
        "activation_type": "QUInt8",
        "weight_type": "QUInt8",
        "reduce_range": True,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
}

OPTIONS: dict[str, Config] = {
    "pairs on weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "pairs on weights per channel": {"per_channel": True, "extra_options": {"AddQDQPairToWeight": True}},
    "float biases": {"extra_options": {"QuantizeBias": False}},
    "kept activations": {"extra_options": {"QDQKeepRemovableActivations": True}},
    "forced": {"extra_options": {"ForceQuantizeNoInputCheck": True}},
    "least range": {"extra_options": {"MinimumRealRange": 0.5}},
    "symmetric ranges": {
        "extra_options": {"CalibTensorRangeSymmetric": True, "QDQKeepRemovableActivations": True}
    },
    "float outputs": {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv", "MatMul", "Gemm"]}},
    "channel axes": {
        "per_channel": True,
        "extra_options": {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 1, "LayerNormalization": 0}},
    },
    "some operators": {"op_types_to_quantize": ["Conv", "Gemm", "MatMul", "Relu"]},
    "most operators": {"op_types_to_quantize": ["Conv", "Gemm", "MatMul", "Add", "Mul", "Softmax", "Concat"]},
}
