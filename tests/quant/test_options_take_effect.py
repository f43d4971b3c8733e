"""Every option changes the quantized model in the documented way, or is listed as without effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_static

from quant import ConfigError, ExtraOptions, ModelError, ModelQuantizer, QuantConfig, QuantizedModel
from quant.calibration import collect
from quant.config import OTHER_NAMES, TensorOverride, flatten
from tests.quant.bodies import conditional
from tests.quant.graphs import Array, Feed, build, floats, initializers, node, op_types, quantize

FEEDS: list[Feed] = [{"x": floats(4, 6, 8, 8, seed=seed, scale=1 + seed)} for seed in range(3)]

WITHOUT_EFFECT = {
    "extra_options.CalibStridedMinMax": 2,
    "extra_options.CalibMaxIntermediateOutputs": 2,
}
"""Options about how much memory onnxruntime's calibration takes; ours always streams."""

ELSEWHERE = {
    "quant_format": "has one value, the other is refused: below",
    "use_external_data_format": "is about files: below",
    "execution_providers": "decide where the float model runs: below",
}


def network() -> onnx.ModelProto:
    """Something for most options: a Relu, a Clip, a pooling, a residual sum, a computed MatMul."""
    return build(
        [
            node("Conv", "x c1 b1", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "r"),
            node("Conv", "r c2 b2", "d", pads=[1, 1, 1, 1]),
            node("Clip", "d low high", "k"),
            node("Add", "r k", "s"),
            node("MaxPool", "s", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", "p", "g"),
            node("Flatten", "g", "f"),
            node("MatMul", "f m", "h"),
            node("Transpose", "h", "ht", perm=[1, 0]),
            node("MatMul", "ht h", "gram"),
            node("Tanh", "h", "t"),
            node("Transpose", "t", "moved", perm=[1, 0]),
            node("Softplus", "moved", "plus"),
            node("Reshape", "plus shape", "back"),
            node("Gemm", "back w wb", "y", transB=1),
        ],
        {"x": ["n", 6, 8, 8]},
        {
            "c1": floats(16, 6, 3, 3, seed=3) / 5,
            "b1": floats(16, seed=4),
            "c2": floats(16, 16, 3, 3, seed=5) / 5,
            "b2": floats(16, seed=6),
            "low": np.zeros((), np.float32),
            "high": np.full((), 4, np.float32),
            "m": floats(16, 32, seed=7) / 4,
            "shape": np.array([-1, 32]),
            "w": floats(10, 32, seed=9) / 4,
            "wb": floats(10, seed=10),
        },
        "y gram",
    )


MODEL = network()
Check = Callable[[QuantizedModel, QuantizedModel], bool]


@dataclass(frozen=True)
class Effect:
    """What an option does: values that have it, the rest of the configuration, and how it shows."""

    values: Any
    shows: Check
    rest: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[], onnx.ModelProto] = lambda: MODEL
    feeds: list[Feed] = field(default_factory=lambda: FEEDS)


def values(quantized: QuantizedModel) -> dict[str, Array]:
    return initializers(quantized.model)


def scale(quantized: QuantizedModel, name: str) -> float:
    return float(values(quantized)[f"{name}_scale"].max())


def narrower(name: str) -> Check:
    return lambda before, after: scale(after, name) < scale(before, name)


def float_now(*names: str) -> Check:
    return lambda before, after: set(names) <= before.bits.keys() - after.bits.keys()


def quantized_now(*names: str) -> Check:
    return lambda before, after: set(names) <= after.bits.keys() - before.bits.keys()


def bits_are(**wanted: int) -> Check:
    return lambda before, after: all(
        after.bits[name] == bits != before.bits[name] for name, bits in wanted.items()
    )


def becomes(what: Callable[[QuantizedModel], Any], value: Any) -> Check:
    return lambda before, after: what(after) == value != what(before)


def differs(what: Callable[[QuantizedModel], Any]) -> Check:
    return lambda before, after: what(after) != what(before)


def grows(what: Callable[[QuantizedModel], Any]) -> Check:
    return lambda before, after: what(after) > what(before)


def changes(name: str) -> Check:
    """The integers of a weight."""
    key = f"{name}_quantized"
    return lambda before, after: not np.array_equal(values(before)[key], values(after)[key])


def number(op_type: str) -> Callable[[QuantizedModel], int]:
    return lambda quantized: op_types(quantized.model).count(op_type)


def point(name: str) -> Callable[[QuantizedModel], int]:
    return lambda quantized: int(values(quantized)[f"{name}_zero_point"].reshape(-1)[0])


def step(name: str) -> Callable[[QuantizedModel], float]:
    return lambda quantized: scale(quantized, name)


def shape(name: str) -> Callable[[QuantizedModel], tuple[int, ...]]:
    """Of a tensor's scales."""
    return lambda quantized: values(quantized)[f"{name}_scale"].shape


def widths(quantized: QuantizedModel) -> set[int]:
    return set(quantized.bits.values())


def largest_code(quantized: QuantizedModel) -> int:
    return int(np.abs(values(quantized)["w_quantized"].astype(int)).max())


def is_power_of_two(quantized: QuantizedModel) -> bool:
    return bool(np.frexp(scale(quantized, "r"))[0] == 0.5)


def is_symmetric(quantized: QuantizedModel) -> bool:
    return abs(point("s")(quantized)) <= 1


def are_symmetric(quantized: QuantizedModel) -> bool:
    """The weights."""
    return all(point(name)(quantized) == 0 for name in ("c1", "c2", "m", "w"))


def domains(quantized: QuantizedModel) -> set[str]:
    return {each.domain for each in quantized.model.graph.node if each.op_type == "QuantizeLinear"}


def evenness(quantized: QuantizedModel) -> float:
    """Of the largest integers in the output channels of the first weight: least / greatest."""
    largest = np.abs(values(quantized)["c1_quantized"].astype(float)).max((1, 2, 3))
    return float(largest.min() / largest.max())


def readers(name: str) -> Callable[[QuantizedModel], list[str]]:
    return lambda quantized: [each.name for each in quantized.model.graph.node if name in each.input]


def _chain() -> onnx.ModelProto:
    """Three convolutions with uneven channels."""
    uneven = np.geomspace(0.1, 10, 8, dtype=np.float32)[:, None, None, None]
    return build(
        [
            node("Conv", "x c1 b1", "a"),
            node("Relu", "a", "r"),
            node("Conv", "r c2 b2", "b"),
            node("Relu", "b", "t"),
            node("Conv", "t c3", "y"),
        ],
        {"x": ["n", 6, 8, 8]},
        {
            "c1": floats(8, 6, 3, 3, seed=1) * uneven,
            "b1": floats(8, seed=2, scale=50),
            "c2": floats(8, 8, 3, 3, seed=3),
            "b2": floats(8, seed=4),
            "c3": floats(2, 8, 1, 1, seed=5),
        },
        "y",
    )


def _normalized() -> onnx.ModelProto:
    constants = {name: np.abs(floats(4, seed=seed)) + 1 for seed, name in enumerate("gbmv")}
    nodes = [node("Conv", "x c", "a"), node("BatchNormalization", "a g b m v", "n"), node("Relu", "n", "y")]
    return build(nodes, {"x": ["n", 6, 8, 8]}, {"c": floats(4, 6, 3, 3), **constants}, "y")


def _smoothed() -> onnx.ModelProto:
    return build(
        [
            node("LayerNormalization", "x gamma beta", "n", axis=-1),
            node("MatMul", "n w", "h"),
            node("Gemm", "h v b", "y"),
        ],
        {"x": ["n", 8]},
        {"gamma": floats(8, seed=1) + np.float32(3), "beta": floats(8, seed=2), "w": floats(8, 6, seed=3)}
        | {"v": floats(6, 4, seed=4), "b": floats(4, seed=5)},
        "y",
    )


def _overflowing() -> onnx.ModelProto:
    return build(
        [node("Gemm", "x w b", "y")], {"x": ["n", 4]},
        {"w": floats(4, 3) * np.float32(1e-7), "b": np.full(3, 1e3, np.float32)}, "y",
    )  # fmt: skip


ROWS: list[Feed] = [{"x": floats(16, 8, seed=seed)} for seed in range(2)]
NARROW_ROWS: list[Feed] = [{"x": floats(16, 4, seed=seed)} for seed in range(2)]

SMOOTHED: dict[str, Any] = {"model": _smoothed, "feeds": ROWS}


def equalized(**extra: Any) -> dict[str, Any]:
    return {"rest": {"include_cle": True, "extra_options": extra}, "model": _chain}


LEVEL_1 = {
    "calibrate_method": Effect("NonOverflow", becomes(is_power_of_two, True)),
    "activation_type": Effect("QInt16", bits_are(r=16)),
    "weight_type": Effect("QInt4", bits_are(c1=4, w=4)),
    "per_channel": Effect(True, becomes(shape("c1"), (16,))),
    "reduce_range": Effect(True, becomes(largest_code, 64)),
    "op_types_to_quantize": Effect(["Conv"], float_now("w", "m")),
    "op_types_to_exclude": Effect(["Gemm"], float_now("w", "y")),
    "nodes_to_quantize": Effect(["Conv_*"], float_now("w", "m")),
    "nodes_to_exclude": Effect(["Gemm_y"], float_now("w", "y")),
    "input_nodes": Effect(["MatMul_h"], float_now("c1", "c2", "s")),
    "output_nodes": Effect(["MatMul_h"], float_now("w", "y")),
    "optimize_model": Effect(False, becomes(number("BatchNormalization"), 1), model=_normalized),
    "include_cle": Effect(True, grows(evenness), model=_chain),
    "include_sq": Effect(True, differs(step("n")), **SMOOTHED),
    "include_fast_ft": Effect(True, changes("c1")),
    "layers": Effect({"Conv": {"name": "int4"}}, bits_are(c1=4, x=4)),
    "include_auto_mp": Effect(
        True, differs(widths), {"extra_options": {"AutoMixprecision": {"ErrorTarget": 1e-9}}}
    ),
}

AVERAGE = {"extra_options": {"CalibMovingAverage": True}}
FEW_LEVELS = {
    "calibrate_method": "LayerWisePercentile",
    "activation_type": "QInt4",
    "extra_options": {"PercentileCandidates": [80.0, 90.0, 97.0, 99.0, 99.9, 100.0]},
}
EITHER_BRANCH: list[Feed] = [
    {"x": floats(2, 6, 6, 6, seed=seed) + np.float32(shift)} for seed, shift in ((1, 1), (2, -1))
]

LEVEL_2 = {
    "BiasCorrection": Effect(True, changes("b1")),
    "ActivationSymmetric": Effect(True, becomes(point("r"), 0)),
    "WeightSymmetric": Effect(False, becomes(are_symmetric, False)),
    "CalibMovingAverage": Effect(True, narrower("x")),
    "CalibMovingAverageConstant": Effect(1.0, grows(step("x")), AVERAGE),
    "CalibTensorRangeSymmetric": Effect(True, becomes(is_symmetric, True)),
    "CalibDataSize": Effect(4, narrower("x")),
    "Percentile": Effect(90.0, narrower("x"), {"calibrate_method": "Percentile"}),
    "PercentileCandidates": Effect([60.0], narrower("x"), {"calibrate_method": "LayerWisePercentile"}),
    "LWPMetric": Effect("mse", grows(step("x")), FEW_LEVELS),
    "DistributionDeviations": Effect(1.0, narrower("x"), {"calibrate_method": "Distribution"}),
    "WeightCalibrateMethod": Effect("MSE", narrower("w"), {"weight_type": "QInt4"}),
    "AddQDQPairToWeight": Effect(True, becomes(lambda quantized: "c1" in values(quantized), True)),
    "DedicatedQDQPair": Effect(True, grows(number("QuantizeLinear"))),
    "QuantizeBias": Effect(False, float_now("b1", "b2", "wb")),
    "MatMulConstBOnly": Effect(True, float_now("gram")),
    "OpTypesToExcludeOutputQuantization": Effect(["MatMul"], float_now("gram")),
    "QDQOpTypePerChannelSupportToAxis": Effect(
        {"LayerNormalization": 0}, becomes(shape("gamma"), (8,)), {"per_channel": True}, **SMOOTHED
    ),
    "QDQKeepRemovableActivations": Effect(True, becomes(number("Relu"), 1)),
    "ForceQuantizeNoInputCheck": Effect(True, quantized_now("t", "moved")),
    "MinimumRealRange": Effect(1020.0, becomes(step("r"), 4.0)),
    "BlockSize": Effect(8, becomes(shape("m"), (2, 32))),
    "TensorQuantOverrides": Effect({"s": {"quant_type": "QInt16"}}, bits_are(s=16)),
    "ActivationRestrictedAsymmetric": Effect(True, becomes(point("x"), 128), {"activation_type": "QUInt8"}),
    "QDQDisableWeightAdjustForInt32Bias": Effect(True, narrower("w"), model=_overflowing, feeds=NARROW_ROWS),
    "UseQDQContribOps": Effect(True, becomes(domains, {"com.microsoft"})),
    "EnableSubgraph": Effect(True, quantized_now("own", "bent"), model=conditional, feeds=EITHER_BRANCH),
    "CLESteps": Effect(1, changes("c2"), **equalized()),
    "CLEScaleAppendBias": Effect(True, changes("c1"), **equalized()),
    "CLEScaleUseThreshold": Effect(True, changes("c1"), **equalized(CLEWeightThreshold=100.0)),
    "CLEWeightThreshold": Effect(100.0, changes("c1"), **equalized(CLEScaleUseThreshold=True)),
    "CLETotalLayerDiffThreshold": Effect(1e9, changes("c2"), **equalized(CLESteps=-1)),
    "SmoothAlpha": Effect(0.9, narrower("n"), {"include_sq": True}, **SMOOTHED),
}

CONVERTED = {"quant_type": "QInt16", "recv_nodes": ["Add_s"]}
SECOND = "r_convert_DequantizeLinear_Output"
OVERRIDES: dict[str, tuple[dict[str, Any], Check]] = {
    "quant_type": ({"s": {"quant_type": "QUInt16"}}, bits_are(s=16)),
    "symmetric": ({"s": {"symmetric": True}}, becomes(point("s"), 0)),
    "reduce_range": ({"w": {"reduce_range": True}}, becomes(largest_code, 64)),
    "rmin": ({"s": {"rmin": -1000.0}}, grows(step("s"))),
    "rmax": ({"s": {"rmax": 1.0}}, narrower("s")),
    "scale": ({"s": {"scale": 0.5, "zero_point": 1}}, becomes(step("s"), 0.5)),
    "zero_point": ({"s": {"scale": 0.5, "zero_point": 1}}, becomes(point("s"), 1)),
    "axis": ({"c1": {"axis": 0}}, becomes(shape("c1"), (16,))),
    "convert": ({"r": {"convert": {"quant_type": "QInt16"}}}, grows(number("QuantizeLinear"))),
    "recv_nodes": ({"r": {"convert": CONVERTED}}, becomes(readers(SECOND), ["Add_s"])),
}


def quantized_with(effect: Effect, **config: Any) -> QuantizedModel:
    return quantize(effect.model(), effect.feeds, **config)


def check(effect: Effect, config: Mapping[str, Any]) -> None:
    before, after = quantized_with(effect, **effect.rest), quantized_with(effect, **config)
    assert before.model.SerializeToString() != after.model.SerializeToString()
    assert effect.shows(before, after)


@pytest.mark.parametrize("option", LEVEL_1)
def test_level_1(option: str) -> None:
    effect = LEVEL_1[option]
    check(effect, {**effect.rest, option: effect.values})


@pytest.mark.parametrize("option", LEVEL_2)
def test_level_2(option: str) -> None:
    effect = LEVEL_2[option]
    extra = {**effect.rest.get("extra_options", {}), option: effect.values}
    check(effect, {**effect.rest, "extra_options": extra})


@pytest.mark.parametrize("key", OVERRIDES)
def test_overrides_of_tensors(key: str) -> None:
    overrides, shows = OVERRIDES[key]
    effect = Effect(overrides, shows)
    check(effect, {"extra_options": {"TensorQuantOverrides": overrides}})


@pytest.mark.parametrize("option", WITHOUT_EFFECT)
def test_the_others_change_nothing(option: str) -> None:
    plain = quantize(MODEL, FEEDS).model
    name = option.removeprefix("extra_options.")
    changed = quantize(MODEL, FEEDS, extra_options={name: WITHOUT_EFFECT[option]}).model
    assert plain.SerializeToString() == changed.SerializeToString()
    assert re.search(rf"{name}[^:]*: No effect", ExtraOptions.__doc__ or "")


def test_no_option_is_left_out() -> None:
    third = {name for name in flatten(QuantConfig().to_dict()) if name.count(".") == 2}
    shown = [
        *LEVEL_1,
        *(f"extra_options.{name}" for name in LEVEL_2),
        *WITHOUT_EFFECT,
        *ELSEWHERE,
    ]
    assert len(shown) == len(set(shown))
    assert set(shown) == flatten(QuantConfig().to_dict()).keys() - third
    assert OVERRIDES.keys() == TensorOverride.model_fields.keys()


def test_onnxruntimes_options_are_known_or_refused_with_a_remedy() -> None:
    documented = re.findall(r"^ {12,16}([A-Za-z.]+) = ", quantize_static.__doc__ or "", re.MULTILINE)
    assert len(documented) > 20
    for name in {*documented, "CalibPercentile", "DefaultTensorType"} - ExtraOptions.model_fields.keys():
        with pytest.raises(ConfigError, match=re.escape(OTHER_NAMES[name])):
            QuantConfig(extra_options={name: True})


def test_the_other_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quant_format: 'QOperator' is not a supported .* known: QDQ"):
        QuantConfig(quant_format="QOperator")


def test_external_data(tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "float.onnx")
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        config = QuantConfig(use_external_data_format=external)
        ModelQuantizer(config).quantize_model(tmp_path / "float.onnx", path, FEEDS)
        assert Path(f"{path}.data").exists() is external
    assert (tmp_path / "True.onnx").stat().st_size < (tmp_path / "False.onnx").stat().st_size
    inside, outside = (initializers(onnx.load(tmp_path / f"{name}.onnx")) for name in (False, True))
    assert inside.keys() == outside.keys()
    assert all(np.array_equal(inside[name], outside[name]) for name in inside)


def test_a_provider_that_is_not_there_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("quant.graph_stages.prepare", work)
    with pytest.raises(ModelError, match="execution_providers: onnxruntime here has no NopeProvider; it has"):
        quantize(MODEL, FEEDS, execution_providers=["NopeProvider"])


def test_the_provider_is_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    session = collect.float_session

    def remembered(model: Any, outputs: Any, providers: Any, threads: int) -> Any:
        asked.append(tuple(providers))
        return session(model, outputs, providers, threads)

    monkeypatch.setattr(collect, "float_session", remembered)
    quantize(MODEL, FEEDS, execution_providers=["CPUExecutionProvider"])
    assert set(asked) == {("CPUExecutionProvider",)}


def test_without_optimization_every_node_is_still_there() -> None:
    kept = op_types(quantize(MODEL, FEEDS, optimize_model=False, nodes_to_quantize=["Gemm_y"]).model)
    assert [kind for kind in kept if "quantize" not in kind.lower()] == op_types(MODEL)
