"""A number format for every layer, from the configuration to what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quant import (
    CalibrationData,
    ConfigError,
    ModelQuantizer,
    Pipeline,
    QuantConfig,
    QuantizationError,
    StageCache,
    load_float_model,
)
from quant.formats import layer_formats
from quant.types import CALIBRATE_METHODS
from tests.parity.models import EXAMPLE
from tests.quant.bodies import conditional
from tests.quant.graphs import (
    build,
    floats,
    initializers,
    node,
    op_types,
    pipeline,
    quantize,
    relative_error,
    run,
    run_quantized,
)
from tests.quant.layers.formats import WEIGHTS
from tests.quant.layers.networks import batches, fixed_point, images, mlp, network, symmetric_int8

INTEGER = {"name": "integer", "data_in_width": 7, "data_in_frac_width": 4}
INTEGER |= {"weight_width": 5, "weight_frac_width": 4, "bias_width": 6, "bias_frac_width": 5}


@pytest.fixture(scope="module")
def cnn() -> Pipeline:
    with np.load(EXAMPLE / "calibration.npz") as archive:
        images = next(archive[name] for name in archive.files if archive[name].ndim == 4)
    model = load_float_model(EXAMPLE / "digits_cnn.onnx")
    return Pipeline(model, CalibrationData([{model.inputs[0].name: images[:32]}]), threads=1)


@pytest.fixture(scope="module")
def layered() -> Pipeline:
    """A layer of every kind."""
    return pipeline(network(), images(8))


def formatted(table: dict[str, Any], **config: Any) -> QuantConfig:
    return QuantConfig(layers=table, **config)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "float bias"])
def test_integers_equal_a_computation_by_hand(bias: bool) -> None:
    model, values = mlp()
    entry = INTEGER if bias else {key: value for key, value in INTEGER.items() if "bias" not in key}
    quantized = quantize(model, batches(), layers={"default": entry})
    b, c = ((fixed_point(values[name], 6, 5) if bias else values[name]) for name in "bc")
    for feed in batches():
        h = fixed_point(feed["x"], 7, 4) @ fixed_point(values["w"], 5, 4).T + b
        r = np.maximum(fixed_point(h, 7, 4), 0)
        y = fixed_point(r, 7, 4) @ fixed_point(values["v"], 5, 4) + c
        np.testing.assert_allclose(run_quantized(quantized, feed)[0], y, rtol=0, atol=1e-5)


def test_int8_equals_a_computation_by_hand() -> None:
    model, values = mlp()
    feeds = batches()
    quantized = quantize(model, feeds, layers={"default": {"name": "int8"}})
    whole = np.concatenate([feed["x"] for feed in feeds])
    ranges = {"x": (whole.min(), whole.max())}
    hidden = whole @ values["w"].T + values["b"]
    ranges |= {"h": (hidden.min(), hidden.max()), "r": (0.0, np.maximum(hidden, 0).max())}
    w, v = (symmetric_int8(values[name], values[name].min(), values[name].max()) for name in "wv")
    h = symmetric_int8(feeds[0]["x"], *ranges["x"]) @ w.T + values["b"]
    r = np.maximum(symmetric_int8(h, *ranges["h"]), 0)
    y = symmetric_int8(r, *ranges["r"]) @ v + values["c"]
    # sums of float32 in another order may move a value over the middle between two codes
    step = ranges["r"][1] / 127 * np.abs(v).max()
    got = run_quantized(quantized, feeds[0])[0]
    np.testing.assert_allclose(got, y, rtol=0, atol=2 * step)
    assert np.mean(np.abs(got - y) > 1e-5) < 0.05


@pytest.mark.parametrize("level", ["disabled", "all"])
def test_a_convolution_sees_rounded_numbers(level: str) -> None:
    constants = {"c": floats(4, 3, 3, 3, seed=1), "t": floats(4, 2, 2, 2, seed=2)}
    nodes = [node("Conv", "x c", "a"), node("ConvTranspose", "a t", "y", group=2)]
    model = build(nodes, {"x": [2, 3, 6, 6]}, constants, "y")
    quantized = quantize(model, {"x": floats(2, 3, 6, 6)}, layers={"default": INTEGER})
    x = floats(2, 3, 6, 6, seed=5)
    rounded = {name: fixed_point(array, 5, 4).astype(np.float32) for name, array in constants.items()}
    first = build(nodes[:1], {"x": [2, 3, 6, 6]}, {"c": rounded["c"]}, "a")
    second = build(nodes[1:], {"a": [2, 4, 4, 4]}, {"t": rounded["t"]}, "y")
    a = run(first, {"x": fixed_point(x, 7, 4).astype(np.float32)})[0]
    y = run(second, {"a": fixed_point(a, 7, 4).astype(np.float32)})[0]
    optimization = {"disabled": 0, "all": 99}[level]
    got = run_quantized(quantized, {"x": x}, _level(optimization))[0]
    np.testing.assert_allclose(got, y, rtol=0, atol=1e-4)


def _level(number: int) -> Any:
    import onnxruntime as ort

    return ort.GraphOptimizationLevel(number)


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("level", [0, 99], ids=["disabled", "all"])
def test_what_a_layer_reads_is_what_its_format_gives(case: str, level: int) -> None:
    model, values = mlp()
    feeds = batches()
    shared, config = pipeline(model, feeds), formatted({"Gemm_h": WEIGHTS[case]})
    quantized, _ = shared._formatted(shared.transform(config), config)
    gemm = next(each for each in quantized.model.graph.node if each.name == "Gemm_h")
    names = gemm.input[:2]
    quantized.model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    x, w = run_quantized(quantized, feeds[1], _level(level))[1:]
    formats = layer_formats(WEIGHTS[case])
    assert formats.data_in is not None and formats.weight is not None
    whole = np.concatenate([feed["x"] for feed in feeds])
    ranged = formats.data_in.fit(whole)
    np.testing.assert_array_equal(x, ranged.round(feeds[1]["x"]))
    np.testing.assert_array_equal(w, formats.weight.fit(values["w"]).round(values["w"]))


FORMATS: dict[str, dict[str, Any]] = {
    "integer": {"name": "integer", "data_in_width": 8, "weight_width": 8},
    "odd integer": {
        "name": "integer",
        "data_in_width": 6,
        "weight_width": 5,
        "weight_frac_width": 4,
        "bias_width": 5,
    },
    "wide integer": {"name": "integer", "data_in_width": 24, "weight_width": 20, "bias_width": 18},
    "unsigned": {"name": "integer", "data_in_width": 8, "data_in_is_signed": False, "weight_width": 8},
    "int2": {"name": "int8", "weight_name": "int2"},
    "int2 and blocks": {"name": "block_fp", "weight_name": "int2"},
    "int4 in blocks": {
        "name": "int4",
        "data_in_name": "uint8",
        "weight_granularity": "block",
        "weight_block_size": 8,
    },
    "channels": {"name": "int8", "weight_granularity": "channel", "bias_name": "int16"},
    "float8": {"name": "float8e4m3fn", "weight_name": "float8e5m2", "weight_granularity": "channel"},
    "half": {"name": "float16", "weight_name": "bfloat16", "bias_name": "float16"},
    "weights alone": {"name": "int16", "data_in_name": "none"},
    "inputs alone": {"name": "int16", "weight_name": "NA"},
    "float": {"name": "NA"},
}


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_runs_at_every_level(case: str, layered: Pipeline) -> None:
    quantized = layered.quantize(formatted({"default": FORMATS[case]}))
    onnx.checker.check_model(quantized.model, full_check=True)
    feed = images()[0]
    whole, plain = (run_quantized(quantized, feed, _level(level))[0] for level in (99, 0))
    assert relative_error(plain, whole) < 0.02
    if case == "float":
        assert relative_error(run(network(), feed)[0], whole) < 1e-6


@pytest.mark.parametrize(
    ("length", "width", "function"),
    [
        (16, 8, "MxIntRows"),
        (16, 32, "MxIntRows"),
        (20, 16, "MxIntPaddedRows"),
        ("w", 16, "MxIntRowsOfAnyShape"),
    ],
)
def test_functions_rely_on_the_axes_that_are_known(length: int | str, width: int, function: str) -> None:
    model = build([node("Relu", "x", "y")], {"x": ["n", 3, "h", length]}, {}, "y")
    columns = 20 if length == "w" else int(length)
    entry = {"name": "mxint", "data_in_width": 4, "data_in_block_size": width, "weight_name": "NA"}
    quantized = quantize(model, [{"x": floats(2, 3, 4, columns)}], layers={"default": entry})
    assert [own.name for own in quantized.model.functions] == [function]
    own = layer_formats(entry).data_in
    assert own is not None
    for batch, rows in ((1, 4), (5, 7)):
        x = floats(batch, 3, rows, columns, seed=batch)
        np.testing.assert_array_equal(run_quantized(quantized, {"x": x})[0], np.maximum(own.round(x), 0))


@pytest.mark.parametrize("case", ["channels", "int4 in blocks", "int2", "odd integer", "half"])
def test_packed_weights_are_the_format_s_own_values(case: str, layered: Pipeline) -> None:
    """What DequantizeLinear gives is what the format rounds the weight to."""
    config = formatted({"default": FORMATS[case]})
    nearest, numbers = layered._formatted(layered.transform(config), config)
    found = {each.output[0]: each for each in nearest.model.graph.node}
    readers = {each.name: each for each in nearest.model.graph.node}
    wanted, graph = {}, nearest.standalone()
    for constant in numbers.assignment.constants:
        own = numbers.rounded[constant.layer, constant.role]
        arranged = own.arrangement.arrange(numbers.constants[constant.name])
        value = own.arrangement.restore(own.format.round(np.asarray(arranged, np.float32)))
        name = readers[constant.reader].input[constant.position]
        if name in found:  # a node in front of it makes the real numbers
            wanted[name] = value
    assert len(wanted) >= 5
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in wanted)
    got = run(graph, images()[0], optimized=False)
    for value, (name, rounded) in zip(got, wanted.items(), strict=True):
        np.testing.assert_array_equal(value, rounded, err_msg=name)


def fork() -> onnx.ModelProto:
    """Two layers that read one tensor, and one weight."""
    nodes = [
        node("Relu", "x", "r"),
        node("MatMul", "r w", "p"),
        node("MatMul", "r w", "q"),
        node("Add", "p q", "s"),
        node("MatMul", "r w", "u"),
        node("Add", "s u", "y"),
    ]
    return build(nodes, {"x": ["n", 6]}, {"w": floats(6, 6)}, "y r")


def integer(width: int, weight_width: int = 8) -> dict[str, Any]:
    return {"name": "integer", "data_in_width": width, "weight_width": weight_width}


def test_readers_of_one_tensor_may_have_different_formats() -> None:
    table = {"MatMul_p": integer(8), "MatMul_q": integer(4), "MatMul_u": integer(8, 3)}
    quantized = quantize(fork(), {"x": floats(5, 6)}, layers=table)
    assert op_types(quantized.model).count("QuantizeLinear") == 2, "equal formats share a pair"
    assert [name for name in initializers(quantized.model) if name.startswith("w")].count("w") == 0
    codes = [name for name in initializers(quantized.model) if name.startswith("w_quantized")]
    assert len(codes) == 2, "equal formats share a weight"
    x = floats(9, 6, seed=4)
    r, w = np.maximum(x, 0), floats(6, 6)
    p, q, u = (
        fixed_point(r, width, width // 2) @ fixed_point(w, bits, bits // 2)
        for width, bits in ((8, 8), (4, 8), (8, 3))
    )
    got, untouched = run_quantized(quantized, {"x": x})
    np.testing.assert_allclose(got, p + q + u, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(untouched, r)


def test_a_layer_without_an_entry_stays_float_beside_others() -> None:
    quantized = quantize(fork(), {"x": floats(5, 6)}, layers={"MatMul_p": integer(8)})
    assert {layer.name for layer in quantized.layers if layer.searched} == {"MatMul_p"}
    assert "w" in initializers(quantized.model)
    weights = {layer.name: (layer.weights, layer.weight_bits) for layer in quantized.layers}
    assert weights["MatMul_p"] == (36, 8) and weights["MatMul_q"] == (36, 32)
    assert weights["MatMul_u"] == (0, 32), "what two layers share counts once"


def test_an_entry_takes_the_place_of_another_as_a_whole() -> None:
    table = {
        "by": "name",
        "default": integer(8),
        "linear": {"name": "int8", "bias_name": "int8"},
        "Gemm_h": {"name": "NA"},
    }
    model, _ = mlp()
    shared = pipeline(model, batches())
    costs = {layer.name: layer for layer in shared.quantize(formatted(table)).layers}
    bits = {name: (cost.activation_bits, cost.weight_bits, cost.bias_bits) for name, cost in costs.items()}
    assert bits == {"Gemm_h": (32, 32, 32), "Relu_r": (8, 32, 32), "MatMul_m": (8, 8, 8)}
    by_pattern = {"by": "pattern", ".*_r": integer(4), "Relu.*": integer(6), "default": {"name": "NA"}}
    costs = {layer.name: layer for layer in shared.quantize(formatted(by_pattern)).layers}
    assert [cost.activation_bits for cost in costs.values()] == [32, 4, 32]


def test_a_resolved_table_makes_the_same_model() -> None:
    model, _ = mlp()
    shared = pipeline(model, batches())
    config = formatted({"by": "type", "default": integer(8), "Gemm": {"name": "int8"}})
    assert config.layers is not None
    entries = config.layers.resolved(shared.layers(config))
    written = {"by": "name"} | {name: entry.to_dict() for name, entry in entries.items()}
    assert shared.quantize(formatted(written)).model == shared.quantize(config).model


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"Gem_h": integer(8)}, "layers: no layer of the model is called 'Gem_h'.*'Gemm_h'"),
    "weight": (
        {"Gemm_h": {"name": "integer", "data_in_width": 8}},
        "layers.Gemm_h.weight_width: .* needs it",
    ),
    "pattern": ({"by": "pattern", "Conv.*": integer(8)}, "layers: no layer's whole name matches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused(case: str) -> None:
    table, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        quantize(mlp()[0], batches(), layers=table)


def test_an_entry_without_a_weight_serves_layers_that_have_none() -> None:
    quantized = quantize(mlp()[0], batches(), layers={"relu": {"name": "integer", "data_in_width": 4}})
    assert [layer.activation_bits for layer in quantized.layers] == [32, 4, 32]


def test_a_float16_model_is_refused() -> None:
    graph = helper.make_graph(
        [node("MatMul", "x w", "y")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2, 4])],
        [numpy_helper.from_array(floats(3, 4).astype(np.float16), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(QuantizationError, match="convert float16 models to float32"):
        quantize(model, {"x": np.ones((2, 3), np.float16)}, layers={"default": integer(8)})


def test_bodies_are_left_alone() -> None:
    model = conditional()
    quantized = quantize(model, {"x": floats(2, 6, 6, 6)}, layers={"default": integer(12, 12)})
    assert _inner_nodes(quantized.model) == _inner_nodes(model) != []
    x = floats(2, 6, 6, 6, seed=3)
    assert relative_error(run(model, {"x": x})[0], run_quantized(quantized, {"x": x})[0]) < 0.1


def _inner_nodes(model: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    """Operators and inputs of the nodes in both branches."""
    decide = next(each for each in model.graph.node if each.op_type == "If")
    branches = sorted(decide.attribute, key=lambda attribute: attribute.name)
    return [(each.op_type, list(each.input)) for attribute in branches for each in attribute.g.node]


@pytest.mark.parametrize("method", CALIBRATE_METHODS)
@pytest.mark.parametrize("name", ["int8", "uint8", "float8e4m3fn"])
def test_every_calibration_method_gives_scales(method: str, name: str) -> None:
    model, _ = mlp()
    feeds = batches()
    quantized = quantize(model, feeds, calibrate_method=method, layers={"default": {"name": name}})
    scales = [value for key, value in initializers(quantized.model).items() if key.endswith("_scale")]
    assert len(scales) == 5
    powers = all((np.frexp(scale)[0] == 0.5).all() for scale in scales)
    assert powers is (method in ("MinMSE", "NonOverflow"))
    assert relative_error(run(model, feeds[0])[0], run_quantized(quantized, feeds[0])[0]) < 0.15


def test_transforms_come_first(cnn: Pipeline) -> None:
    feed = cnn.data.feeds[0]
    wanted = run(onnx.load(cnn.float_model.path), feed)[0]
    table = {"default": {"name": "int8"}}
    plain, equalized, smoothed = (
        relative_error(wanted, run_quantized(cnn.quantize(formatted(table, **config)), feed)[0])
        for config in ({}, {"include_cle": True}, {"include_cle": True, "include_sq": True})
    )
    assert equalized < 0.3 * plain and smoothed < 0.3 * plain
    names = [layer.name for layer in cnn.layers(QuantConfig(include_sq=True))]
    assert names == [layer.name for layer in cnn.layers(QuantConfig())]


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = [
        node("Relu", "x", "x_QuantizeLinear_Output_"),
        node("Add", "x x_QuantizeLinear_Output_", "x_scale_"),
        node("Mul", "x_scale_ x", "y", name="x_QuantizeLinear"),
    ]
    model = build(nodes, {"x": [2, 3]}, {}, "y")
    quantized = quantize(model, {"x": floats(2, 3)}, layers={"default": {"name": "int8"}})
    names = [name for each in quantized.model.graph.node for name in each.output]
    nodes_named = [each.name for each in quantized.model.graph.node]
    assert len(names) == len(set(names)) and len(nodes_named) == len(set(nodes_named))
    assert (
        relative_error(run(model, {"x": floats(2, 3)})[0], run_quantized(quantized, {"x": floats(2, 3)})[0])
        < 0.05
    )


def test_large_constants_outside_of_layers_stay_shared() -> None:
    table = np.zeros((4200, 1000), np.float32)
    table[:7] = floats(7, 1000)
    nodes = [
        node("Cast", "x", "ids", to=TensorProto.INT64),
        node("Gather", "table ids", "e"),
        node("MatMul", "e w", "y"),
    ]
    model = build(nodes, {"x": ["n"]}, {"table": table, "w": floats(1000, 8)}, "y")
    feed = {"x": np.arange(7, dtype=np.float32)}
    quantized = quantize(model, feed, layers={"default": integer(8)})
    assert quantized.weights is not None and quantized.model.ByteSize() < 100_000
    assert quantized.cost.other_weights == table.size
    assert relative_error(run(model, feed)[0], run_quantized(quantized, feed)[0]) < 0.2


def test_a_second_configuration_rounds_only_what_it_changes(cnn: Pipeline) -> None:
    config = formatted({"default": {"name": "int8"}})
    fresh = Pipeline(cnn.float_model, cnn.data, StageCache(), threads=1)
    layers = fresh.layers(config)
    first = fresh.quantize(config)
    weighted = [layer for layer in layers if layer.weight is not None]
    table = {"default": {"name": "int8"}, weighted[3].name: {"name": "int4"}}
    fresh.quantize(formatted(table))
    counts = fresh.cache.counts
    assert counts["rounded constants"].computed == len(weighted) + 1
    assert counts["activation formats"].computed == len({layer.tensors for layer in layers}) + 1
    assert (
        counts["statistics"].computed == counts["base model"].computed == counts["layer sizes"].computed == 1
    )
    assert fresh.quantize(config).model == first.model


@pytest.mark.parametrize(
    "case",
    [
        "integer", "minifloat_ieee", "minifloat_denorm", "log", "block_fp", "block_minifloat", "mxint",
        "mxfp", "ternary", "int4 by channel", "int4 by block", "float8e5m2",
    ],
)  # fmt: skip
def test_gptq_rounds_to_the_grid_of_any_format(case: str, layered: Pipeline) -> None:
    names = {"name": "none", "weight_name": WEIGHTS[case]["name"]}
    config = formatted({"default": WEIGHTS[case] | names})
    tuned = config.replace(include_fast_ft=True, extra_options={"FastFinetune": {"OptimAlgorithm": "gptq"}})
    feed = images()[1]
    wanted = run(network(), feed)[0]
    before, after = (
        relative_error(wanted, run_quantized(layered.quantize(each), feed)[0]) for each in (config, tuned)
    )
    assert after < 0.7 * before


@pytest.mark.parametrize("algorithm", ["adaround", "adaquant"])
def test_other_algorithms_and_biases(algorithm: str, layered: Pipeline) -> None:
    table = {"default": integer(8, 4) | {"data_in_frac_width": 3, "weight_frac_width": 3, "bias_width": 12}}
    options = {"FastFinetune": {"OptimAlgorithm": algorithm, "NumIterations": 50, "UpdateBias": True}}
    feed = images()[1]
    wanted = run(network(), feed)[0]
    nearest = layered.quantize(formatted(table))
    tuned = layered.quantize(formatted(table, include_fast_ft=True, extra_options=options))
    corrected = layered.quantize(formatted(table, extra_options={"BiasCorrection": True}))
    errors = [relative_error(wanted, run_quantized(each, feed)[0]) for each in (nearest, corrected, tuned)]
    assert errors[1] < errors[0] and errors[2] < 0.5 * errors[0]
    before, after = initializers(nearest.model), initializers(tuned.model)
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and all(name.endswith("_quantized") for name in changed)
    assert {len(np.unique(after[name])) <= 16 for name in changed if after[name].ndim > 1} == {True}


def test_the_quantizer_writes_and_a_dictionary_replays(tmp_path: Path) -> None:
    model, _ = mlp()
    onnx.save(model, tmp_path / "float.onnx")
    config = formatted({"by": "type", "linear": INTEGER, "default": {"name": "NA"}})
    quantizer = ModelQuantizer(config, cache_dir=tmp_path / "cache")
    result = quantizer.quantize_model(tmp_path / "float.onnx", tmp_path / "q.onnx", batches())
    assert onnx.load(tmp_path / "q.onnx") == result.model
    replayed = ModelQuantizer(QuantConfig(**config.to_dict()))
    assert replayed.quantize_model(tmp_path / "float.onnx", None, batches()).model == result.model


def test_the_bias_behind_a_matmul_is_corrected() -> None:
    model, values = mlp()
    table = {"linear": {"name": "none", "weight_name": "integer", "weight_width": 3, "bias_name": "NA"}}
    shared, feeds = pipeline(model, batches()), batches()
    config = formatted(table, extra_options={"BiasCorrection": True})
    corrected = initializers(shared.quantize(config).model)
    assert all((corrected[name] != values[name]).any() for name in "bc")
    wanted, plain, after = (
        np.concatenate([run_quantized(shared.quantize(each), feed)[0] for feed in feeds]).mean(axis=0)
        for each in (formatted({"default": {"name": "NA"}}), formatted(table), config)
    )
    assert np.abs(after - wanted).max() < 1e-5 < np.abs(plain - wanted).max()
