from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import ModelError, QuantConfig
from quant.graph.segment_runner import SegmentRunner
from quant.graph.segments import Segment, plan_segments
from quant.graph.session import float_session
from tests.parity.models import CASES
from tests.quant.graphs import Array, Feed, build, floats, node, pipeline

PROVIDERS = ("CPUExecutionProvider",)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def walk(
    model: ir.Model, cuts: Sequence[Sequence[str]], feeds: Sequence[Feed], **options: Any
) -> list[list[Feed]]:
    """Values of each cut in each batch."""
    with SegmentRunner(model, cuts, feeds, threads=1, **options) as runner:
        return [
            [{name: array.copy() for name, array in values.items()} for values in runner.advance()]
            for _ in cuts
        ]


def at_once(model: ir.Model, names: Sequence[str], feeds: Sequence[Feed]) -> list[Feed]:
    """The same tensors as further outputs of the whole model, optimised in full."""
    given = {value.name for value in model.graph.inputs}
    computed = [name for name in dict.fromkeys(names) if name not in given]
    with float_session(model, computed, PROVIDERS, 1) as session:
        return [dict(zip(computed, session.run(computed, feed), strict=True)) | feed for feed in feeds]


def layer_inputs(model: ir.Model) -> list[tuple[str]]:
    inputs = [value.inputs[0].name for value in model.graph if value.op_type in LAYERS]
    return [(name,) for name in dict.fromkeys(inputs)]


def as_model(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    assert isinstance(model, ir.Model)
    return model


def quantized(name: str, **config: Any) -> tuple[ir.Model, list[Feed]]:
    proto, feeds = CASES[name]()
    return as_model(pipeline(proto, feeds).quantize(QuantConfig(**config)).model), feeds


def diamond() -> ir.Model:
    """x -> a -> b -> d, a -> c, (d, c, x) -> e -> y; f leads nowhere that is wanted."""
    nodes = [
        node("MatMul", "x w1", "a"),
        node("Relu", "a", "b"),
        node("Sigmoid", "a", "c"),
        node("MatMul", "b w2", "d"),
        node("Neg", "a", "f"),
        node("Sum", "d c x", "e"),
        node("MatMul", "e w3", "y"),
    ]
    weights = {f"w{i}": floats(4, 4, seed=i) for i in (1, 2, 3)}
    return as_model(build(nodes, {"x": ["N", 4]}, weights, "y f"))


DIAMOND_CUTS = (("x",), ("b",), ("e", "b"), ("y",))


def diamond_feeds() -> list[Feed]:
    """Of several sizes, one of them empty."""
    return [{"x": floats(size, 4, seed=size)} for size in (3, 5, 0, 1)]


def assert_equal(found: list[list[Feed]], cuts: Sequence[Sequence[str]], whole: list[Feed]) -> None:
    assert len(found) == len(cuts)
    for cut, batches in zip(cuts, found, strict=True):
        assert len(batches) == len(whole)
        for values, wanted in zip(batches, whole, strict=True):
            assert sorted(values) == sorted(set(cut))
            for name in cut:
                assert values[name].dtype == wanted[name].dtype
                np.testing.assert_array_equal(values[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("name", sorted(CASES))
def test_values_are_those_of_the_whole_float_model(name: str) -> None:
    proto, feeds = CASES[name]()
    model = as_model(proto)
    cuts = [*layer_inputs(model), tuple(value.name or "" for value in model.graph.outputs)]
    whole = at_once(model, [name for cut in cuts for name in cut], feeds)
    for cut, batches in zip(cuts, walk(model, cuts, feeds), strict=True):
        for values, wanted in zip(batches, whole, strict=True):
            for key in cut:
                scale = np.abs(wanted[key]).max()
                np.testing.assert_allclose(values[key], wanted[key], atol=2e-6 * float(scale) + 1e-12)


@pytest.mark.parametrize("activation_type", ["QUInt8", "QInt8", "QInt16"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_values_of_a_quantized_model_are_equal_to_the_last_bit(name: str, activation_type: str) -> None:
    model, feeds = quantized(name, activation_type=activation_type)
    outputs = tuple(value.name or "" for value in model.graph.outputs)
    cuts = [*layer_inputs(model), outputs]
    assert_equal(walk(model, cuts, feeds), cuts, at_once(model, [n for cut in cuts for n in cut], feeds))


def test_integers_cross_the_cuts_of_a_quantized_model() -> None:
    model, _ = quantized("digits_cnn")
    segments = plan_segments(model.graph, layer_inputs(model))
    kinds = {value.name: value.producer() for n in model.graph for value in n.outputs}
    crossing = [name for segment in segments for name in segment.kept]
    assert crossing and {kinds[name].op_type for name in crossing} == {"QuantizeLinear"}


def check_partition(model: ir.Model, segments: Sequence[Segment], wanted: set[str]) -> None:
    counts = Counter(n.name for segment in segments for n in segment.new_nodes)
    assert set(counts.values()) == {1}
    run = {n.name for segment in segments for n in segment.nodes}
    assert run == wanted
    repeated = [n for n in model.graph if n.name in run - counts.keys()]
    assert {n.op_type for n in repeated if n.name in behind_the_data(model)} <= {"DequantizeLinear"}


def behind_the_data(model: ir.Model) -> set[str]:
    """Names of the nodes that an input of the graph leads to."""
    reached, values = set[str](), {value.name for value in model.graph.inputs}
    for n in model.graph:
        if any(value is not None and value.name in values for value in n.inputs):
            reached.add(n.name or "")
            values |= {value.name for value in n.outputs}
    return reached


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_node_belongs_to_one_segment(name: str) -> None:
    model, _ = quantized(name)
    cuts = [*layer_inputs(model), tuple(value.name or "" for value in model.graph.outputs)]
    check_partition(model, plan_segments(model.graph, cuts), {n.name or "" for n in model.graph})


def test_what_no_cut_needs_is_not_run_and_what_none_reads_again_is_dropped() -> None:
    model = diamond()
    segments = plan_segments(model.graph, DIAMOND_CUTS)
    check_partition(model, segments, {n.name or "" for n in model.graph} - {"Neg_f"})
    assert [segment.requested for segment in segments] == [("x",), ("b",), ("e", "b"), ("y",)]
    assert [set(segment.kept) for segment in segments] == [set(), {"a", "b"}, {"e"}, set()]
    assert [set(segment.dropped) for segment in segments] == [set(), set(), {"a", "b"}, {"e"}]
    assert [set(segment.inputs) for segment in segments] == [set(), {"x"}, {"a", "b", "x"}, {"e"}]


@pytest.mark.parametrize("keep_bytes", [None, 0, 100])
def test_batches_of_any_shape_in_memory_and_in_files(
    keep_bytes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, feeds = diamond(), diamond_feeds()
    found = walk(model, DIAMOND_CUTS, feeds, keep_bytes=keep_bytes)
    whole = at_once(model, ("x", "b", "e", "y"), feeds)
    assert_equal(found, DIAMOND_CUTS, whole)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["digits_cnn", "plumbing"])
def test_files_hold_what_memory_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, feeds = quantized(name)
    cuts = layer_inputs(model)
    in_memory, in_files = walk(model, cuts, feeds, keep_bytes=None), walk(model, cuts, feeds, keep_bytes=0)
    for one, other in zip(in_memory, in_files, strict=True):
        for values, wanted in zip(one, other, strict=True):
            for key in values:
                np.testing.assert_array_equal(values[key], wanted[key])
    assert os.listdir(tmp_path) == []


def test_memory_stays_below_the_limit() -> None:
    feeds = diamond_feeds()
    with SegmentRunner(diamond(), DIAMOND_CUTS, feeds, threads=1, keep_bytes=100) as runner:
        for _ in DIAMOND_CUTS:
            for _ in runner.advance():
                assert runner._frontier.bytes_in_memory <= 100
        assert runner._frontier.bytes_in_memory == 0
        assert not runner._frontier._files


def test_a_walk_that_is_left_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with SegmentRunner(diamond(), DIAMOND_CUTS, diamond_feeds(), threads=1, keep_bytes=0) as runner:
        runner.advance()
        next(runner.advance())
    assert os.listdir(tmp_path) == []


def set_initializer(model: ir.Model, name: str, array: Array) -> None:
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def test_changed_initializers_take_effect_in_later_segments_only() -> None:
    model, feeds = diamond(), diamond_feeds()
    cuts = (("a",), ("e",), ("y",))
    before = at_once(model, ("a",), feeds)
    with SegmentRunner(model, cuts, feeds, threads=1) as runner:
        first = [values["a"].copy() for values in runner.advance()]
        set_initializer(model, "w2", floats(4, 4, seed=22))
        second = [values["e"].copy() for values in runner.advance()]
        set_initializer(model, "w2", floats(4, 4, seed=23))  # its reader has run
        set_initializer(model, "w3", floats(4, 4, seed=33))
        third = [values["y"].copy() for values in runner.advance()]
    set_initializer(model, "w2", floats(4, 4, seed=22))
    after = at_once(model, ("e", "y"), feeds)
    for batch in range(len(feeds)):
        np.testing.assert_allclose(first[batch], before[batch]["a"], rtol=1e-6)
        np.testing.assert_allclose(second[batch], after[batch]["e"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(third[batch], after[batch]["y"], rtol=1e-5, atol=1e-6)


def test_batches_that_were_not_asked_for_run_before_the_next_cut() -> None:
    feeds = diamond_feeds()
    wanted = walk(diamond(), DIAMOND_CUTS, feeds)[3]
    with SegmentRunner(diamond(), DIAMOND_CUTS, feeds, threads=1) as runner:
        runner.advance()
        next(runner.advance())
        runner.advance()
        found = list(runner.advance())
        with pytest.raises(IndexError):
            runner.advance()
    for values, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(values["y"], other["y"])


def test_subgraphs_read_values_from_earlier_segments() -> None:
    branch = [
        onnx.helper.make_graph([node(op, "a", f"{op}_out")], op, [], [onnx.ValueInfoProto(name=f"{op}_out")])
        for op in ("Relu", "Neg")
    ]
    nodes = [
        node("MatMul", "x w", "a"),
        node("ReduceSum", "a", "s", keepdims=0),
        node("Greater", "s zero", "positive"),
        node("If", "positive", "y", then_branch=branch[0], else_branch=branch[1]),
    ]
    constants = {"w": floats(4, 4), "zero": np.float32(0)}
    model = as_model(build(nodes, {"x": ["N", 4]}, constants, "y", output_shape=["N", 4]))
    feeds = [{"x": floats(3, 4, seed=seed)} for seed in range(4)]
    cuts = (("a",), ("positive",), ("y",))
    assert_equal(walk(model, cuts, feeds), cuts, at_once(model, ("a", "positive", "y"), feeds))


def test_tensors_that_no_data_reaches_are_refused() -> None:
    with pytest.raises(ModelError, match="no tensor 'bb'; did you mean 'b'"):
        plan_segments(diamond().graph, [("bb",)])
    with pytest.raises(ModelError, match="'w2' is constant"):
        plan_segments(diamond().graph, [("w2",)])
