"""Search spaces that several tests use."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from autosearch.space import LayerSite
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

SITES = (
    LayerSite("fc1", ("linear", "Gemm"), ("data_in", "weight", "bias"), 0),
    LayerSite("act1", ("relu", "Relu"), ("data_in",), 0),
    LayerSite("fc2", ("linear", "Gemm"), ("data_in", "weight", "bias"), 1),
    LayerSite("fc3", ("linear", "MatMul"), ("data_in", "weight"), 2),
)
"""The layers of a small network."""

_FORMATS = ["integer", "fixed", "int8", "uint8", "float8e4m3fn", "bfloat16", "NA"]
_LAYER_POOL: dict[str, list[Any]] = {
    "data_in_frac_width": ["NA", 2, 4],
    "weight_frac_width": ["NA", 1, 2, 4],
    "bias_width": [4, 8],
    "weight_is_signed": [True, False],
    "weight_granularity": ["NA", "tensor", "channel"],
    "weight_symmetric": [True, False, "NA"],
}


@st.composite
def _layer_entry(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(_FORMATS), min_size=1, max_size=3, unique=True))
    entry: dict[str, Any] = {"name": names, "share": draw(st.sampled_from(["layer", "type", "block", "all"]))}
    integer = bool({"integer", "fixed"} & set(names))
    affine = bool({"int8", "uint8"} & set(names))
    if integer:
        entry |= {"data_in_width": [8], "weight_width": draw(st.sampled_from([[4], [2, 8]]))}
    known = [key for key in _LAYER_POOL if (integer and "width" in key) or (integer and "signed" in key)]
    known += [key for key in _LAYER_POOL if affine and ("granularity" in key or "symmetric" in key)]
    if known:
        for key in draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)):
            entry[key] = draw(
                st.lists(st.sampled_from(_LAYER_POOL[key]), min_size=1, max_size=2, unique=True)
            )
    return entry


@st.composite
def _layered(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(["default", "linear", "fc2"]), min_size=1, unique=True))
    written: dict[str, Any] = {"layers": {key: draw(_layer_entry()) for key in keys}}
    if draw(st.booleans()):
        written["calibrate_method"] = ["MinMax", "Entropy"]
    return written


layered_spaces = st.lists(_layered(), min_size=1, max_size=2)
"""Lists of one or two dicts that say something of layers."""
