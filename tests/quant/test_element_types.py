"""Every type for activations with every type for weights, in float32 and float16 models."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from quant import ConfigError, Pipeline, QuantizedModel
from quant.config import QuantConfig
from quant.types import ELEMENT_NAMES, ELEMENT_TYPES, Encoding
from tests.quant.graphs import (
    Array,
    Feed,
    build,
    floats,
    initializers,
    node,
    pipeline,
    quantize,
    run,
    run_quantized,
)

FEEDS: list[Feed] = [{"x": floats(4, 6, 8, 8, seed=seed)} for seed in (1, 2)]
LEVELS = ort.GraphOptimizationLevel


def network() -> onnx.ModelProto:
    """Convolutions, a Relu, pooling, a Clip, a residual sum and a matrix: what fusions look for."""
    return build(
        [
            node("Conv", "x c1 b1", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "r"),
            node("Conv", "r dw b2", "d", pads=[1, 1, 1, 1], group=16),
            node("Clip", "d low high", "k"),
            node("Add", "r k", "s"),
            node("MaxPool", "s", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", "p", "g"),
            node("Flatten", "g", "f"),
            node("MatMul", "f m", "h"),
            node("Add", "h hb", "i"),
            node("Sigmoid", "i", "t"),
            node("Gemm", "t w wb", "y", transB=1),
        ],
        {"x": ["n", 6, 8, 8]},
        {
            "c1": floats(16, 6, 3, 3, seed=3) / 5,
            "b1": floats(16, seed=4),
            "dw": floats(16, 1, 3, 3, seed=5) / 2,
            "b2": floats(16, seed=6),
            "low": np.zeros((), np.float32),
            "high": np.full((), 4, np.float32),
            "m": floats(16, 32, seed=7) / 4,
            "hb": floats(32, seed=8),
            "w": floats(10, 32, seed=9) / 4,
            "wb": floats(10, seed=10),
        },
        "y",
        output_shape=["n", 10],
    )


@pytest.fixture(scope="module")
def stages() -> Pipeline:
    return pipeline(network(), FEEDS)


def outputs(quantized: QuantizedModel, level: ort.GraphOptimizationLevel) -> Array:
    return np.concatenate([run_quantized(quantized, feed, level)[0] for feed in FEEDS])


def real_outputs() -> Array:
    return np.concatenate([run(network(), feed)[0] for feed in FEEDS])


def distance(first: Array, second: Array) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


@pytest.mark.parametrize(("activation", "weight"), list(product(ELEMENT_NAMES, repeat=2)))
def test_every_combination_means_the_same_at_every_optimisation_level(
    stages: Pipeline, activation: str, weight: str
) -> None:
    config = QuantConfig(activation_type=activation, weight_type=weight, per_channel=True)
    quantized = stages.quantize(config)
    plain = outputs(quantized, LEVELS.ORT_DISABLE_ALL)
    real = real_outputs()
    for level in (LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL):
        optimised = outputs(quantized, level)
        # kernels on integers round once more or less; a wrong rewriting is as far off as the float model
        assert distance(optimised, plain) <= 0.35 * distance(plain, real) + 1e-5


@pytest.mark.parametrize("activation", ["QInt4", "QUInt4", "QInt2", "QUInt2", "QInt8", "QUInt16"])
def test_a_clip_before_narrow_types_is_left_alone(stages: Pipeline, activation: str) -> None:
    """onnxruntime rewrites a Clip or Relu of floats before QuantizeLinear, and knows bytes and more alone."""
    config = QuantConfig(
        activation_type=activation,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"], "QDQKeepRemovableActivations": True},
    )
    _check_levels(stages.quantize(config))


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "uint2", "int8", "uint16", "float8e5m2"])
def test_a_clip_before_narrow_formats_is_left_alone(stages: Pipeline, name: str) -> None:
    table = {"by": "type", "default": {"data_in_name": name}, "Relu": {"name": "NA"}}
    _check_levels(stages.quantize(QuantConfig(layers=table)))


def _check_levels(quantized: QuantizedModel) -> None:
    plain = outputs(quantized, LEVELS.ORT_DISABLE_ALL)
    optimised = outputs(quantized, LEVELS.ORT_ENABLE_ALL)
    assert distance(optimised, plain) <= 0.35 * distance(plain, real_outputs()) + 1e-5


@pytest.mark.parametrize("element", ELEMENT_NAMES)
@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"extra_options": {"BlockSize": 5}}], ids=str)
def test_runs_as_the_standard_says(element: str, options: dict[str, object]) -> None:
    """Against onnx's reference implementation of the operators."""
    quantized = quantize(network(), FEEDS, activation_type=element, weight_type=element, **options)
    wanted = ReferenceEvaluator(quantized.model).run(None, FEEDS[0])[0]
    got = outputs(quantized, LEVELS.ORT_DISABLE_ALL)[: len(wanted)]
    real = real_outputs()[: len(wanted)]
    assert distance(got, wanted) <= 0.05 * distance(wanted, real) + 5e-5


@pytest.mark.parametrize("kind", [Encoding.INTEGER, Encoding.FLOAT8])
def test_more_bits_come_nearer(stages: Pipeline, kind: Encoding) -> None:
    errors = {}
    for name, element in ELEMENT_NAMES.items():
        if ELEMENT_TYPES[element].encoding is kind and ELEMENT_TYPES[element].signed:
            quantized = stages.quantize(QuantConfig(activation_type=name, weight_type=name, per_channel=True))
            plain = outputs(quantized, LEVELS.ORT_DISABLE_ALL)
            errors[name] = distance(plain, real_outputs())
    if kind is Encoding.INTEGER:
        assert errors["QInt2"] > errors["QInt4"] > errors["QInt8"] > errors["QInt16"]
    else:  # mantissas of three bits and of two
        assert errors["QFLOAT8E5M2"] > errors["QFLOAT8E4M3FN"]


@pytest.mark.parametrize("weight", ["QInt8", "QInt4", "QFLOAT8E5M2", "QBFloat16"])
@pytest.mark.parametrize("activation", ["QInt8", "QUInt16", "QFLOAT8E4M3FN", "QBFloat16"])
def test_float16_models(activation: str, weight: str) -> None:
    half = _half(network())
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS]
    quantized = quantize(half, feeds, activation_type=activation, weight_type=weight, per_channel=True)
    values = initializers(quantized.model)
    assert all(array.dtype != np.float32 for array in values.values())
    assert all((array > 0).all() for name, array in values.items() if name.endswith("_scale"))

    def both(level: ort.GraphOptimizationLevel) -> Array:
        return np.concatenate([run_quantized(quantized, feed, level)[0] for feed in feeds]).astype(np.float32)

    plain = both(LEVELS.ORT_DISABLE_ALL)
    real = np.concatenate([run(half, feed)[0] for feed in feeds]).astype(np.float32)
    assert distance(plain, real) < 0.5 * np.std(real)
    assert distance(both(LEVELS.ORT_ENABLE_ALL), plain) <= 0.4 * distance(plain, real) + 1e-2


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return half


def test_session_config_is_recorded_in_the_model() -> None:
    quantized = quantize(network(), FEEDS, activation_type="QFLOAT8E4M3FN")
    recorded = {prop.key: prop.value for prop in quantized.model.metadata_props}
    assert recorded == {f"session_config.{key}": value for key, value in quantized.session_config}
    assert recorded
    assert not quantize(network(), FEEDS).session_config


class TestBlocks:
    def test_scales_lie_along_the_summed_dimension(self) -> None:
        quantized = quantize(network(), FEEDS, weight_type="QInt4", extra_options={"BlockSize": 12})
        values = initializers(quantized.model)
        assert values["m_scale"].shape == (2, 32) and values["w_scale"].shape == (10, 3)
        assert values["c1_scale"].shape == ()  # its kernel has nine positions
        for name, axis, full in (("m", 0, floats(16, 32, seed=7) / 4), ("w", 1, floats(10, 32, seed=9) / 4)):
            steps = np.repeat(values[f"{name}_scale"], 12, axis).take(range(full.shape[axis]), axis)
            codes = values[f"{name}_quantized"].astype(np.float32)
            clipped = np.clip(full, -8 * steps, 7 * steps)
            assert (np.abs(codes * steps - clipped) <= steps / 2 * 1.001).all()

    def test_asymmetric_blocks_have_zero_points_of_their_own(self) -> None:
        quantized = quantize(network(), FEEDS, weight_type="QUInt4", extra_options={"BlockSize": 8})
        assert len(np.unique(initializers(quantized.model)["m_zero_point"].astype(int))) > 1

    @pytest.mark.parametrize("weight", ["QInt4", "QInt8", "QUInt8", "QInt16"])
    @pytest.mark.parametrize("activation", ["QInt8", "QUInt8", "QInt16"])
    def test_run_at_every_level(self, activation: str, weight: str) -> None:
        """onnxruntime's kernel for a MatMul of bytes takes no blocks."""
        options = {"BlockSize": 8}
        quantized = quantize(
            network(), FEEDS, activation_type=activation, weight_type=weight, extra_options=options
        )
        _check_levels(quantized)

    def test_smaller_blocks_come_nearer(self, stages: Pipeline) -> None:
        errors = []
        for size in (32, 4):
            config = QuantConfig(
                activation_type="QInt16", weight_type="QUInt4", op_types_to_quantize=["MatMul", "Gemm"],
                extra_options={"BlockSize": size},
            )  # fmt: skip
            quantized = stages.quantize(config)
            plain = outputs(quantized, LEVELS.ORT_DISABLE_ALL)
            errors.append(distance(plain, real_outputs()))
        assert errors[1] < errors[0]


class TestOverrides:
    def bits(self, overrides: dict[str, object], **options: object) -> dict[str, int]:
        extra = {"TensorQuantOverrides": overrides}
        return dict(quantize(network(), FEEDS, extra_options=extra, **options).bits)

    def test_one_tensor_has_another_type(self) -> None:
        bits = self.bits({"s": {"quant_type": "QInt16"}, "m": {"quant_type": "QInt4"}})
        assert bits["s"] == 16 and bits["m"] == 4 and bits["c1"] == 8 and bits["r"] == 8
        assert bits["p"] == 16  # a pooled tensor has the values of its input

    def test_scale_and_zero_point_outright(self) -> None:
        quantized = quantize(
            network(), FEEDS, extra_options={"TensorQuantOverrides": {"s": {"scale": 0.25, "zero_point": -3}}}
        )
        values = initializers(quantized.model)
        assert values["s_scale"] == 0.25 and values["s_zero_point"] == -3

    def test_range_of_an_activation_and_of_channels(self) -> None:
        channels = [{"axis": 0, "rmax": 2.0, "rmin": -2.0}, *([{"rmax": 1.0, "rmin": -1.0}] * 15)]
        overrides = {"s": {"rmin": -1.0, "rmax": 3.0}, "c1": channels}
        values = initializers(
            quantize(network(), FEEDS, extra_options={"TensorQuantOverrides": overrides}).model
        )
        np.testing.assert_allclose(values["s_scale"], 4 / 255, rtol=1e-6)
        np.testing.assert_allclose(values["c1_scale"], np.array([2.0] + [1.0] * 15) / 127, rtol=1e-6)

    def test_a_relu_stays_in_front_of_a_symmetric_tensor(self) -> None:
        types = [item.op_type for item in quantize(network(), FEEDS).model.graph.node]
        overrides = {"r": {"symmetric": True}}
        kept = quantize(network(), FEEDS, extra_options={"TensorQuantOverrides": overrides}).model.graph.node
        assert "Relu" not in types and "Relu" in [item.op_type for item in kept]

    def test_second_format_for_some_readers(self) -> None:
        convert = {"quant_type": "QInt16", "recv_nodes": ["Add_s"]}
        extra = {"TensorQuantOverrides": {"r": {"quant_type": "QUInt8", "convert": convert}}}
        quantized = quantize(network(), FEEDS, extra_options=extra)
        readers = {item.name: list(item.input) for item in quantized.model.graph.node}
        adds = [inputs for name, inputs in readers.items() if any("r_convert" in value for value in inputs)]
        assert any("r_convert_DequantizeLinear_Output" in inputs for inputs in adds)
        values = initializers(quantized.model)
        assert values["r_zero_point"].dtype == np.uint8 and values["r_convert_zero_point"].dtype == np.int16
        plain = outputs(quantized, LEVELS.ORT_DISABLE_ALL)
        optimised = outputs(quantized, LEVELS.ORT_ENABLE_ALL)
        assert distance(plain, optimised) < 0.1 * np.std(plain)

    @pytest.mark.parametrize(
        ("overrides", "complaint"),
        [
            ({"nope": {"symmetric": True}}, "TensorQuantOverrides.nope: the model has no such tensor"),
            ({"s": {"scale": 0.5}}, "give both or neither"),
            ({"s": {"scale": 0.5, "zero_point": 0, "rmin": 0}}, "take the place of"),
            ({"s": {"rmin": 2.0, "rmax": 1.0}}, "rmin: 2.0 is above rmax 1.0"),
            ({"s": {"scale": 0.5, "zero_point": 300}}, "zero_point 300 is not possible with INT8"),
            ({"s": {"axis": 1}}, "this is an activation"),
            ({"c1": {"convert": {"quant_type": "QInt16"}}}, "this is a constant"),
            ({"c1": [{"axis": 0, "rmin": 0.0}] * 3}, "3 entries for 16 channels"),
            ({"s": {"convert": {"recv_nodes": ["Nope"]}}}, "no node 'Nope'"),
            ({"s": {"quant_typ": "QInt8"}}, "unknown key 'quant_typ'"),
            ({"s": {"quant_type": "QInt3"}}, "'QInt3' is not a supported quantized type"),
        ],
    )
    def test_nonsense_is_refused(self, overrides: dict[str, object], complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint.replace("(", "\\(")):
            self.bits(overrides)


def test_contrib_operators_where_the_domain_has_them() -> None:
    def domains(**options: object) -> set[str]:
        model = quantize(network(), FEEDS, extra_options={"UseQDQContribOps": True}, **options).model
        return {item.domain for item in model.graph.node if item.op_type == "QuantizeLinear"}

    assert domains(activation_type="QUInt16", weight_type="QInt4") == {"com.microsoft"}
    assert domains(activation_type="QFLOAT8E4M3FN") == {""}
