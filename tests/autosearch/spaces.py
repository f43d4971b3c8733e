"""Search spaces that several tests use."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from autosearch.space.rules import RULES, Drop
from quant.config import unflatten

FEWER = (Drop("include_fast_ft", "not wanted"), *RULES)
"""The rules, and one that refuses configurations."""

TWENTY_SEVEN: dict[str, Any] = {
    "calibrate_method": ["Percentile"],
    "extra_options": {
        "Percentile": [99.0, 99.9, 99.99],
        "CalibDataSize": [10, 20, 30],
        "MinimumRealRange": [None, 0.1, 0.2],
    },
}

SEED: dict[str, Any] = {
    "calibrate_method": ["MinMSE", "NonOverflow", "MinMax", "Entropy", "Percentile"],
    "activation_type": ["QInt8", "QInt16"],
    "weight_type": ["QInt8", "QInt16"],
    "include_cle": [True, False],
    "include_auto_mp": [False, True],
    "include_fast_ft": [False, True],
    "include_sq": [False, True],
    "extra_options": {
        "ActivationSymmetric": [True, False],
        "WeightSymmetric": [True, False],
        "CalibMovingAverage": [True, False],
        "CalibMovingAverageConstant": [0.01, 0.001],
        "Percentile": [99.99, 99.999],
        "SmoothAlpha": [0.5, 0.6],
        "FastFinetune": {
            "DataSize": [500, 1000],
            "NumIterations": [100, 1000],
            "OptimAlgorithm": ["adaround", "adaquant"],
            "LearningRate": [0.01, 0.001, 0.0001],
            "FixedSeed": [42],
        },
    },
}
"""The example that Quark's documentation gives."""

_POOL: dict[str, list[Any]] = {
    "calibrate_method": ["MinMax", "Percentile", "LayerWisePercentile", "Entropy", "MinMSE"],
    "weight_type": ["QInt8", "QUInt8"],
    "per_channel": [False, True],
    "op_types_to_quantize": [[], ["Conv", "Gemm"], ["Gemm", "Conv"]],
    "include_cle": [False, True],
    "include_sq": [False, True],
    "include_fast_ft": [False, True],
    "extra_options.ActivationSymmetric": [False, True],
    "extra_options.WeightSymmetric": [None, True, False],
    "extra_options.CalibMovingAverage": [False, True],
    "extra_options.CalibMovingAverageConstant": [0.01, 0.001],
    "extra_options.CalibTensorRangeSymmetric": [None, False, True],
    "extra_options.QDQKeepRemovableActivations": [False, True],
    "extra_options.MinimumRealRange": [None, 0.1],
    "extra_options.Percentile": [99.0, 99.999],
    "extra_options.PercentileCandidates": [[99.0, 99.9], [99.9]],
    "extra_options.CLESteps": [1, -1],
    "extra_options.CLEScaleUseThreshold": [False, True],
    "extra_options.CLEWeightThreshold": [0.5, 0.1],
    "extra_options.CLETotalLayerDiffThreshold": [1e-7, 2e-7],
    "extra_options.SmoothAlpha": [0.5, 0.6],
    "extra_options.FastFinetune.OptimAlgorithm": ["adaround", "adaquant", "gptq"],
    "extra_options.FastFinetune.RegParam": [0.01, 0.1],
    "extra_options.FastFinetune.BatchSize": [1, 2],
    "extra_options.FastFinetune.NumIterations": [100, 1000],
    "extra_options.FastFinetune.LearningRate": [0.1, 0.01],
    "extra_options.FastFinetune.NumIterLR": [[100, 0.1], [1000, 0.01], [300, 0.01]],
}


@st.composite
def _part(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(sorted(_POOL)), unique=True, max_size=7))
    if "extra_options.FastFinetune.NumIterLR" in keys:
        both = ("NumIterations", "LearningRate")
        keys = [key for key in keys if key.rpartition(".")[2] not in both]
    chosen = {
        key: draw(st.lists(st.sampled_from(_POOL[key]), min_size=1, max_size=3, unique_by=repr))
        for key in keys
    }
    return unflatten(chosen)


spaces = st.lists(_part(), min_size=1, max_size=3)
"""Lists of one to three small dicts over keys that depend on each other."""

rule_sets = st.sampled_from([RULES, FEWER])
