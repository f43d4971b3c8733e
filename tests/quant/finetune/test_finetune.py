"""Finetuning whole models: the search for better roundings pays, and every option does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import ConfigError, Pipeline, QuantConfig, QuantizedModel
from quant.finetune.finetune import LAYERS_WITH_BIAS
from quant.finetune.layers import cut_off_at
from tests.quant.graphs import Array, Feed, build, floats, initializers, node, pipeline, run, run_quantized

DATA = {"x": floats(96, 3, 10, 10, seed=1)}
FEEDS: list[Feed] = [{"x": DATA["x"][start : start + 16]} for start in range(0, 96, 16)]


def network() -> onnx.ModelProto:
    """Convolution, depthwise, pointwise, transposed convolution, two matrices; uneven channels."""
    spread = np.geomspace(0.2, 3, 12).astype(np.float32)[:, None, None, None]
    return build(
        [
            node("Conv", "x c1 b1", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "r1"),
            node("Conv", "r1 dw b2", "d", pads=[1, 1, 1, 1], group=12, strides=[2, 2]),
            node("Relu", "d", "r2"),
            node("ConvTranspose", "r2 ct b3", "t", strides=[2, 2]),
            node("Relu", "t", "r3"),
            node("GlobalAveragePool", "r3", "g"),
            node("Flatten", "g", "f"),
            node("MatMul", "f m", "h"),
            node("Relu", "h", "r4"),
            node("Gemm", "r4 w wb", "y", transB=1, beta=0.5),
        ],
        {"x": ["n", 3, 10, 10]},
        {
            "c1": floats(12, 3, 3, 3, seed=3) * spread / 5,
            "b1": floats(12, seed=4),
            "dw": floats(12, 1, 3, 3, seed=5) / 2,
            "b2": floats(12, seed=6),
            "ct": floats(12, 20, 2, 2, seed=7) / 4,
            "b3": floats(20, seed=8),
            "m": floats(20, 24, seed=9) / 3,
            "w": floats(6, 24, seed=10) / 3,
            "wb": floats(6, seed=11),
        },
        "y",
        output_shape=["n", 6],
    )


@pytest.fixture(scope="module")
def stages() -> Pipeline:
    return pipeline(network(), FEEDS)


def error(quantized: QuantizedModel, samples: int = 96) -> float:
    data = {"x": DATA["x"][:samples]}
    wanted, got = run(network(), data)[0], run_quantized(quantized, data)[0]
    return float(np.mean((wanted - got) ** 2))


def config(finetune: dict[str, Any] | None = None, **changes: Any) -> QuantConfig:
    values: dict[str, Any] = {"activation_type": "QUInt8", "weight_type": "QInt4", "per_channel": True}
    options = {**changes.pop("extra_options", {}), "FastFinetune": finetune or {}}
    return QuantConfig(**values | changes, include_fast_ft=finetune is not None, extra_options=options)


@pytest.mark.parametrize("update_bias", [False, True])
@pytest.mark.parametrize("algorithm", ["adaround", "adaquant", "gptq"])
def test_finetuned_weights_are_much_better(stages: Pipeline, algorithm: str, update_bias: bool) -> None:
    nearest = stages.quantize(config())
    finetuned = stages.quantize(config({"OptimAlgorithm": algorithm, "UpdateBias": update_bias}))
    assert error(finetuned) < 0.25 * error(nearest)
    assert finetuned.bits == nearest.bits


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_type": "QInt8"},
        {"weight_type": "QUInt4", "per_channel": False},
        {"weight_type": "QInt2"},
        {"weight_type": "QInt8", "reduce_range": True, "per_channel": False},
        {"extra_options": {"BlockSize": 8}},
        {"extra_options": {"AddQDQPairToWeight": True}, "weight_type": "QInt8", "per_channel": False},
        {"extra_options": {"QuantizeBias": False}, "weight_type": "QInt8", "per_channel": False},
        {"weight_type": "QInt8", "include_cle": True},
        {"calibrate_method": "MinMSE"},
    ],
    ids=str,
)
def test_every_granularity_and_representation(stages: Pipeline, changes: dict[str, Any]) -> None:
    nearest = stages.quantize(config(**changes))
    finetuned = stages.quantize(config({"OptimAlgorithm": "gptq", "UpdateBias": True}, **changes))
    assert error(finetuned) < error(nearest)
    before, after = initializers(nearest.model), initializers(finetuned.model)
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert after[name].shape == values.shape and after[name].dtype == values.dtype
        if name.endswith(("_scale", "_zero_point")):
            np.testing.assert_array_equal(values, after[name])


def test_reduced_ranges_stay_reduced(stages: Pipeline) -> None:
    quantized = stages.quantize(config({}, weight_type="QInt8", reduce_range=True))
    codes = [values for name, values in initializers(quantized.model).items() if name.endswith("_quantized")]
    assert all(np.abs(values).max() <= 64 for values in codes if values.dtype == np.int8)


def test_the_same_configuration_gives_the_same_bytes() -> None:
    wanted = config({"OptimAlgorithm": "adaround", "NumIterations": 60})
    first, second = (
        Pipeline(stages.float_model, stages.data, threads=threads).quantize(wanted).model
        for threads in (1, 2)
        for stages in (pipeline(network(), FEEDS),)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_layers_that_two_configurations_share_are_finetuned_once() -> None:
    stages = pipeline(network(), FEEDS)
    stages.quantize(config({"DropRatio": 0.0}))
    assert stages.cache.counts["finetuned layers"].computed == 5
    stages.quantize(config({"DropRatio": 0.0}, activation_type="QUInt16"))
    assert stages.cache.counts["finetuned layers"].computed == 5  # float inputs, whatever the activations


def test_only_the_named_operators_are_finetuned(stages: Pipeline) -> None:
    nearest = initializers(stages.quantize(config()).model)
    gemm = initializers(stages.quantize(config({"TargetOpType": ["Gemm"]})).model)
    changed = {name for name, values in nearest.items() if (gemm[name] != values).any()}
    assert changed == {"w_quantized"}


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_drop_ratio(stages: Pipeline, ratio: float) -> None:
    assert error(stages.quantize(config({"DropRatio": ratio}))) < 0.6 * error(stages.quantize(config()))


def test_data_size(stages: Pipeline) -> None:
    few = stages.quantize(config({"OptimAlgorithm": "gptq", "DataSize": 16}))
    assert error(stages.quantize(config({"OptimAlgorithm": "gptq"}))) < error(few)


def test_some_of_the_columns_are_enough(stages: Pipeline) -> None:
    options: dict[str, Any] = {"OptimAlgorithm": "gptq", "MaxColumns": 1024}
    every, some, others = (
        stages.quantize(config({**options, **changes}))
        for changes in ({"MaxColumns": None}, {}, {"FixedSeed": 7})
    )
    codes = [initializers(quantized.model)["c1_quantized"] for quantized in (every, some, others)]
    assert (codes[0] != codes[1]).any() and (codes[1] != codes[2]).any()
    assert error(some) < 1.5 * error(every) and error(others) < 1.5 * error(every)
    assert error(some) < 0.25 * error(stages.quantize(config()))


@pytest.mark.parametrize("algorithm", ["adaround", "adaquant", "gptq"])
def test_layers_before_a_relu_are_refined(algorithm: str) -> None:
    stages = pipeline(network(), FEEDS)
    options: dict[str, Any] = {"OptimAlgorithm": algorithm, "DropRatio": 0.0, "NumIterations": 30}
    plain, aware = (
        initializers(stages.quantize(config({**options, "ReluAware": on})).model) for on in (False, True)
    )
    changed = {name for name, values in plain.items() if (aware[name] != values).any()}
    assert changed
    assert changed <= {
        "c1_quantized",
        "dw_quantized",
        "ct_quantized",
        "m_quantized",
    }  # not w: its output is y
    assert stages.cache.counts["finetuned layers"].computed == 9  # w is the same


@pytest.mark.parametrize(
    ("behind", "cut_at"),
    [
        ([("Relu", "a")], np.inf),
        ([("Clip", "a low high")], 6.0),
        ([("Clip", "a low")], np.inf),
        ([("Clip", "a high high")], None),
        ([("Sigmoid", "a")], None),
        ([("Relu", "a"), ("Sigmoid", "a")], None),
    ],
    ids=["relu", "clip", "open clip", "clip from 6", "sigmoid", "two readers"],
)
def test_where_outputs_are_cut_off(behind: list[tuple[str, str]], cut_at: float | None) -> None:
    outputs = [f"y{index}" for index in range(len(behind))]
    nodes = [node(op, inputs, output) for (op, inputs), output in zip(behind, outputs, strict=True)]
    constants = {"w": floats(4, 5), "low": np.float32(0), "high": np.float32(6)}
    model = ir.from_proto(build([node("MatMul", "x w", "a"), *nodes], {"x": [3, 4]}, constants, outputs[0]))
    assert cut_off_at(model.graph[0]) == cut_at


@pytest.mark.parametrize("option", ["SelectiveUpdate", "OutputQDQ"])
def test_updates_that_do_not_help_behind_are_undone(stages: Pipeline, option: str) -> None:
    options = {"OptimAlgorithm": "gptq", "DataSize": 32, "DropRatio": 0.0}
    chosen = stages.quantize(config({**options, option: True}))
    left = {skip.node for skip in chosen.skipped if "error behind it" in skip.reason}
    undone = {"Conv_a": "c1", "Conv_d": "dw", "ConvTranspose_t": "ct", "MatMul_h": "m", "Gemm_y": "w"}
    nearest = initializers(stages.quantize(config()).model)
    after = initializers(chosen.model)
    for name, weight in undone.items():
        same = (after[f"{weight}_quantized"] == nearest[f"{weight}_quantized"]).all()
        assert same == (name in left)
    if option == "SelectiveUpdate":
        assert error(chosen, 32) < error(stages.quantize(config()), 32)


def test_early_stop_and_learning_rates_change_the_result(stages: Pipeline) -> None:
    def codes(**options: Any) -> Array:
        model = stages.quantize(config({"OptimAlgorithm": "adaround", "NumIterations": 40, **options})).model
        values = initializers(model)
        return np.concatenate([values[f"{name}_quantized"].reshape(-1) for name in ("c1", "ct", "m", "w")])

    plain = codes()
    assert (codes(LearningRate=0.001) != plain).any()
    assert (codes(LRAdjust=[0.0, 0.001]) != plain).any()  # every layer's error is above 0
    np.testing.assert_array_equal(codes(LRAdjust=[1e9, 0.001]), plain)  # none is
    assert (codes(NumIterations=400) != plain).any()
    np.testing.assert_array_equal(codes(NumIterLR=[40, 0.001]), codes(LearningRate=0.001))
    for same in ({"BatchSize": 4}, {"NumBatches": 2}, {"FixedSeed": 7}, {"LogPeriod": 3}):
        np.testing.assert_array_equal(codes(**same), plain)


def test_progress_is_logged(stages: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="quant"):
        stages.quantize(config({"NumIterations": 33, "LogPeriod": 10}))
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("iteration 30: loss") for line in lines) == 5
    assert sum(line.startswith("Gemm_y: loss") for line in lines) == 1


def test_bias_correction_takes_the_mean_error_away(stages: Pipeline) -> None:
    plain = stages.quantize(config())
    corrected = stages.quantize(config(extra_options={"BiasCorrection": True}))
    wanted = run(network(), DATA)[0]
    shift = [np.abs((run(model.standalone(), DATA)[0] - wanted).mean(axis=0)) for model in (plain, corrected)]
    assert shift[1].max() < 0.2 * shift[0].max()
    changed = {
        name
        for name, values in initializers(plain.model).items()
        if (initializers(corrected.model)[name] != values).any()
    }
    assert changed == {"b1_quantized", "b2_quantized", "b3_quantized", "wb_quantized"}
    assert set(LAYERS_WITH_BIAS) == {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def test_layers_that_cannot_be_finetuned_are_named() -> None:
    shared = build(
        [node("MatMul", "x w", "a"), node("MatMul", "a w", "y")],
        {"x": ["n", 8]},
        {"w": floats(8, 8)},
        "y",
        output_shape=["n", 8],
    )
    quantized = pipeline(shared, [{"x": floats(16, 8)}]).quantize(QuantConfig(include_fast_ft=True))
    reasons = {skip.node: skip.reason for skip in quantized.skipped}
    assert reasons["MatMul_a"] == "not finetuned: its weight has other readers"
    floating = pipeline(network(), FEEDS).quantize(config({}, weight_type="QFLOAT8E4M3FN"))
    assert sum("not of an integer type" in skip.reason for skip in floating.skipped) == 5


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"OptimDevice": "tpu"}, "OptimDevice: 'tpu' is not a device"),
        ({"OptimDevice": "cuda:99"}, "no array library here can use 'cuda:99'"),
        ({"InferDevice": "gpu"}, "InferDevice: 'gpu' is not a device"),
        ({"LRAdjust": [0.1]}, "LRAdjust"),
        ({"BetaRange": [20, 0.5]}, "BetaRange"),
        (
            {"TargetOpType": ["Conf"]},
            "TargetOpType: 'Conf' is not an operator that can be finetuned; did you",
        ),
        ({"TargetOpType": "Softmax"}, "TargetOpType: 'Softmax' is not an operator that can be finetuned"),
        ({"TargetOpType": []}, "TargetOpType: names no operator"),
    ],
)
def test_bad_parameters_are_refused(stages: Pipeline, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        stages.quantize(config(options))
