"""Narrow types, blocks, float8 and overrides of tensors beside onnxruntime's own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.configurations import Config
from tests.parity.models import CASES
from tests.parity.reference import assert_same_numbers, both, quantization_numbers
from tests.quant.graphs import quantized_activations

NARROW: dict[str, Config] = {
    "QInt8-QInt4": {"weight_type": "QInt4"},
    "QInt8-QInt4 per channel": {"weight_type": "QInt4", "per_channel": True},
    "QUInt8-QUInt4": {"activation_type": "QUInt8", "weight_type": "QUInt4"},
    "QUInt8-QUInt4 per channel": {"activation_type": "QUInt8", "weight_type": "QUInt4", "per_channel": True},
    "QInt16-QInt4 symmetric": {
        "activation_type": "QInt16",
        "weight_type": "QInt4",
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
    "QInt4-QInt4": {"activation_type": "QInt4", "weight_type": "QInt4"},
}

OPTIONS: dict[str, Config] = {
    "operators of com.microsoft": {
        "activation_type": "QUInt16",
        "weight_type": "QInt4",
        "extra_options": {"UseQDQContribOps": True},
    },
    "restricted zero points": {
        "activation_type": "QUInt8",
        "extra_options": {"ActivationRestrictedAsymmetric": True},
    },
    "weights as they are": {"extra_options": {"QDQDisableWeightAdjustForInt32Bias": True}},
    "weights as they are per channel": {
        "per_channel": True,
        "extra_options": {"QDQDisableWeightAdjustForInt32Bias": True},
    },
}

BUILT = [case for case in CASES if "_script" not in case and "_dynamo" not in case]
FEW = [*BUILT, "encoder_dynamo21", "mobilenet_script17", "unet_script11"]


@pytest.mark.parametrize("config", NARROW)
@pytest.mark.parametrize("case", CASES)
def test_four_bits(case: str, config: str, tmp_path: Path) -> None:
    assert assert_same_numbers(*both(*CASES[case](), tmp_path, **NARROW[config]))


@pytest.mark.parametrize("config", OPTIONS)
@pytest.mark.parametrize("case", FEW)
def test_options(case: str, config: str, tmp_path: Path) -> None:
    ours, theirs = both(*CASES[case](), tmp_path, **OPTIONS[config])
    assert assert_same_numbers(ours, theirs)
    domains = [
        {each.domain for each in model.graph.node if each.op_type == "QuantizeLinear"}
        for model in (ours, theirs)
    ]
    assert ("com.microsoft" in domains[0]) is (config == "operators of com.microsoft")
    assert domains[0] == domains[1] or config != "operators of com.microsoft"


CHANNELS = [{"axis": 0, "rmin": -1.0, "rmax": 1.0}, *({"rmin": -c / 4, "rmax": c / 3} for c in (1, 2, 3))]
OVERRIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "another type": ("residual_cnn", {"m": {"quant_type": "QInt16"}, "w1": {"quant_type": "QInt16"}}),
    "another sign": ("residual_cnn", {"x": {"quant_type": "QUInt8"}, "w3": {"quant_type": "QUInt8"}}),
    "symmetric": ("residual_cnn", {"x": {"symmetric": True}, "w4": {"symmetric": False}}),
    "reduced": (
        "mlp",
        {"w2": {"reduce_range": True}, "w1": {"reduce_range": True}},
    ),
    "range of an activation": ("mlp", {"x": {"rmin": -1.0, "rmax": 7.0}, "h3": {"rmax": 3.0}}),
    "range of a weight": ("mlp", {"w1": {"rmin": -1.0, "rmax": 0.5}, "w3": {"rmax": 0.25}}),
    "scale of an activation": ("mlp", {"x": {"scale": 0.125, "zero_point": -3}}),
    "scale of a weight": ("mlp", {"w3": {"scale": 0.0625, "zero_point": 0}}),
    "axis": ("residual_cnn", {"w1": {"axis": 0}, "w2": {"axis": -4}}),
    "ranges of channels": ("residual_cnn", {"w1": CHANNELS}),
    "type of channels": ("residual_cnn", {"w2": [{"axis": 0, "quant_type": "QInt4"}]}),
    "second format": ("residual_cnn", {"r1": {"quant_type": "QUInt8", "convert": {"quant_type": "QUInt16"}}}),
    "second format with a range": (
        "mlp",
        {"x": {"quant_type": "QInt8", "convert": {"quant_type": "QInt16", "rmin": -2.0, "rmax": 2.0}}},
    ),
    "second format for some": (
        "attention",
        {"n": {"convert": {"quant_type": "QInt16", "recv_nodes": ["MatMul_q0", "MatMul_v"]}}},
    ),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_of_tensors(name: str, tmp_path: Path) -> None:
    case, overrides = OVERRIDES[name]
    model, feeds = CASES[case]()
    extra = {"TensorQuantOverrides": overrides}
    ours, theirs = both(model, feeds, tmp_path, extra_options=extra)
    assert assert_same_numbers(ours, theirs)
    assert quantized_activations(ours).keys() >= {key for key in overrides if not key.startswith("w")}


MATRICES = ("attention", "encoder_dynamo21", "decoder_script14")


@pytest.mark.parametrize("weight", ["QInt4", "QInt8", "QUInt4"])
@pytest.mark.parametrize("size", [3, 4, 16, 100])
@pytest.mark.parametrize("case", MATRICES)
def test_blocks_of_matrices(case: str, size: int, weight: str, tmp_path: Path) -> None:
    """Along axis 0, which is the summed one of a MatMul, as onnxruntime does unless told otherwise."""
    ours, theirs = (
        quantization_numbers(model)
        for model in both(
            *CASES[case](),
            tmp_path,
            weight_type=weight,
            op_types_to_quantize=["MatMul"],
            extra_options={"BlockSize": size},
        )
    )
    assert ours.keys() == theirs.keys() and any(array.ndim == 2 for array in ours.values())
    for name, array in theirs.items():
        if name.endswith("_scale"):  # of asymmetric blocks onnxruntime takes the width in float32
            np.testing.assert_allclose(ours[name], array, rtol=0 if weight != "QUInt4" else 2.0**-22)
        else:
            assert ours[name].dtype == array.dtype and np.array_equal(ours[name], array)


@pytest.mark.parametrize("case", ["residual_cnn", "digits_cnn"])
def test_float8(case: str, tmp_path: Path) -> None:
    """Scales are those of standard deviations, from histograms of other bins here."""
    ours, theirs = (
        quantization_numbers(model)
        for model in both(
            *CASES[case](),
            tmp_path,
            activation_type="QFLOAT8E4M3FN",
            weight_type="QFLOAT8E4M3FN",
            calibrate_method="Distribution",
        )
    )
    codes = [name for name in ours if name.endswith("_quantized")]
    assert len(codes) > 3
    for name in codes:
        scale = name.replace("_quantized", "_scale")
        np.testing.assert_allclose(ours[scale], theirs[scale], rtol=1e-6)
        mine, other = (numbers[name].astype(np.float32) for numbers in (ours, theirs))
        assert (mine != other).mean() < 0.001  # a scale that differs in the last bit moves a tie
    activations = [name for name in ours.keys() & theirs.keys() if name.endswith("_scale")]
    for name in activations:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3)
