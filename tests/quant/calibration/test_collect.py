from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quant import (
    CalibrationData,
    CalibrationMethod,
    DataError,
    ExtraOptions,
    LayerWiseMethod,
    ModelError,
    PowerOfTwoMethod,
)
from quant.calibration.collect import collect_statistics
from quant.calibration.ranges import calibrated_range
from quant.calibration.statistics import merge_statistics
from tests.parity.models import CASES
from tests.quant.calibration.test_statistics import assert_same, of
from tests.quant.graphs import Array, build, floats, node, session

MODEL = build(
    [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Sigmoid", "r", "y")],
    {"x": ["N", 6]},
    {"w": floats(6, 5)},
    "y",
)
ZERO = np.zeros((), np.float32)
TENSORS = ("x", "h", "r", "y")


def batches() -> list[Array]:
    """Of several sizes, none of them contiguous."""
    return [floats(6, size, seed=size).T for size in (8, 3, 20)]


def collect(values: list[Array], **arguments: Any) -> Any:
    feeds = [{"x": value} for value in values]
    return collect_statistics(ir.from_proto(MODEL), TENSORS, feeds, histograms=True, **arguments)


@pytest.mark.parametrize("threads", [1, 2, 0])
def test_every_value_of_every_tensor_is_counted(threads: int) -> None:
    found = collect(batches(), threads=threads)
    weight = floats(6, 5)
    assert list(found) == list(TENSORS)
    assert_same(found["x"], of(*batches()))
    hidden = [batch @ weight for batch in batches()]
    np.testing.assert_allclose(found["h"].batch_max, [value.max() for value in hidden], rtol=1e-5)
    np.testing.assert_array_equal(found["r"].batch_max, np.maximum(found["h"].batch_max, 0))
    assert all(
        statistics.histogram.total == 31 * n
        for statistics, n in zip(found.values(), (6, 5, 5, 5), strict=True)
    )


def test_two_passes_merge_into_one() -> None:
    whole, first, rest = collect(batches()), collect(batches()[:1]), collect(batches()[1:])
    merged = merge_statistics(first, rest)
    assert list(merged) == list(whole)
    for name in TENSORS:
        assert_same(merged[name], whole[name])


def test_empty_batches_count_for_nothing() -> None:
    found = collect([batches()[0], np.empty((0, 6), np.float32)])
    for name, statistics in collect(batches()[:1]).items():
        assert_same(found[name], statistics)


def test_the_order_of_batches_shows_only_in_their_extremes() -> None:
    forward, backward = collect(batches()), collect(batches()[::-1])
    for name in TENSORS:
        np.testing.assert_array_equal(forward[name].batch_min, backward[name].batch_min[::-1])
        np.testing.assert_array_equal(forward[name].histogram.counts, backward[name].histogram.counts)


def test_inner_tensors_have_the_values_of_the_float_model() -> None:
    model, feeds = CASES["residual_cnn"]()
    names = [value.name for value in model.graph.output]
    found = collect_statistics(ir.from_proto(model), names, feeds, histograms=False)
    for position, name in enumerate(names):
        outputs = [session(model).run(None, feed)[position] for feed in feeds]
        np.testing.assert_allclose(found[name].batch_max, [value.max() for value in outputs], rtol=1e-5)
        assert found[name].histogram is None


def test_data_that_the_graph_cannot_take_is_refused() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        collect([floats(4, 7)])


def test_sequences_of_any_length_and_a_smaller_last_batch() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Softmax", "h", "p"),
        node("ReduceSum", "p axes", "y", keepdims=0),
    ]
    model = build(nodes, {"x": ["N", "T", 6]}, {"w": floats(6, 5), "axes": np.array([1])}, "y")
    shapes = [(4, 7), (4, 3), (4, 0), (4, 64), (1, 5)]
    feeds = [{"x": floats(n, t, 6, seed=t)} for n, t in shapes]
    found = collect_statistics(ir.from_proto(model), ("x", "h", "p", "y"), feeds, histograms=True)
    assert_same(found["x"], of(*(feed["x"] for feed in feeds)))
    assert found["h"].histogram is not None and found["y"].histogram is not None
    assert found["h"].histogram.total == 5 * sum(n * t for n, t in shapes)
    assert found["h"].batch_min.size == 4  # without the batch in which it was empty
    assert (found["y"].batch_max.size, found["y"].histogram.total) == (5, 5 * 17)


def test_a_tensor_that_is_always_empty_has_a_range_by_every_method() -> None:
    found = collect([np.empty((0, 6), np.float32)])["h"]
    assert found.histogram is not None and found.histogram.total == 0
    for method in (*CalibrationMethod, *PowerOfTwoMethod, *LayerWiseMethod):
        for symmetric in (None, True):
            options = ExtraOptions(CalibTensorRangeSymmetric=symmetric)
            assert calibrated_range(found, method, options, 255) == (0, 0)


@pytest.mark.parametrize("histograms", [True, False])
@pytest.mark.parametrize(("size", "threads"), [(3, 1), (40_000, 2)])
def test_infinities_and_nan_are_refused_with_the_tensors_name(
    histograms: bool, size: int, threads: int
) -> None:
    for operator, name in (("Log", "log"), ("Reciprocal", "reciprocal"), ("Sqrt", "root")):
        model = build([node(operator, "x", name), node("Relu", name, "y")], {"x": ["N"]}, {}, "y")
        values = np.full(size, -1 if operator == "Sqrt" else 0, np.float32)
        values[: size // 2] = 1
        with pytest.raises(DataError, match=f"tensor '{name}': NaN or infinite"):
            collect_statistics(
                ir.from_proto(model), (name,), [{"x": values}], histograms=histograms, threads=threads
            )


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_tensors_of_other_float_types(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    graph = helper.make_graph(
        [node("Cast", "x", "c", to=kind), node("Neg", "c", "n"), node("Cast", "n", "y", to=1)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    values = floats(50)
    found = collect_statistics(ir.from_proto(model), ("c", "n"), [{"x": values}], histograms=True)
    assert_same(found["c"], of(values.astype(dtype).astype(np.float32)))
    assert_same(found["n"], of(-values.astype(dtype).astype(np.float32)))


def test_inputs_that_are_not_floats_are_fed_as_they_are() -> None:
    graph = helper.make_graph(
        [node("Gather", "table ids", "g"), node("Where", "mask g zero", "y")],
        "graph",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {"table": floats(9, 3), "zero": ZERO}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feed = {"ids": np.array([8, 0, 3]), "mask": np.array([[True], [False], [True]])}
    found = collect_statistics(ir.from_proto(model), ("g", "y"), [feed], histograms=True)
    table = floats(9, 3)
    assert_same(found["g"], of(table[[8, 0, 3]]))
    assert_same(found["y"], of(table[[8, 0, 3]] * feed["mask"]))


def test_statistics_stop_at_the_wanted_number_of_samples() -> None:
    values = [floats(4, 6, seed=seed) for seed in range(3)]
    head = CalibrationData([{"x": value} for value in values]).head(6)
    found = collect_statistics(ir.from_proto(MODEL), ("x",), head, histograms=True)
    assert_same(found["x"], of(values[0], values[1][:2]))
