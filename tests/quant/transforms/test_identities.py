from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from quant.graph.prepare import prepare
from quant.transforms.identities import drop_identities
from tests.quant.bodies import branch, model, sign_test, value
from tests.quant.graphs import build, floats, node, run


def dropped(source: onnx.ModelProto) -> ir.Model:
    copy = ir.from_proto(source)
    drop_identities(copy.graph)
    feed = {"x": floats(2, 4)}
    for wanted, got in zip(run(source, feed), run(copy, feed), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [output.name for output in copy.graph.outputs] == [output.name for output in source.graph.output]
    return copy


def test_chains_disappear_and_outputs_keep_their_names() -> None:
    nodes = [
        node("Identity", "x", "a"),
        node("Neg", "a", "b"),
        node("Identity", "b", "c"),
        node("Identity", "c", "y"),
    ]
    assert [each.op_type for each in dropped(build(nodes, {"x": ["n", 4]}, {}, "y")).graph] == ["Neg"]


def test_what_joins_an_input_a_constant_or_an_output_to_an_output_stays() -> None:
    nodes = [
        node("Identity", "x", "through"),
        node("Identity", "k", "constant"),
        node("Neg", "x", "y"),
        node("Identity", "y", "again"),
    ]
    source = build(nodes, {"x": ["n", 4]}, {"k": floats(2)}, "through constant y again")
    assert len(list(dropped(source).graph)) == 4


def test_a_branch_that_gives_an_outer_value_keeps_its_identity() -> None:
    choice = helper.make_node(
        "If",
        ["positive"],
        ["y"],
        "decide",
        then_branch=branch(node("Identity", "r", "same")),
        else_branch=branch(node("Neg", "r", "other")),
    )
    nodes = [node("Relu", "x", "r"), *sign_test("x"), choice]
    shape = ["n", 4]
    source = model(
        nodes, [value("x", shape=shape)], {"zero": np.zeros((), np.float32)}, [value("y", shape=shape)]
    )
    dropped(source)
    prepared, _ = prepare(ir.from_proto(source), True)
    for seed in range(3):
        feed = {"x": floats(2, 4, seed=seed)}
        np.testing.assert_array_equal(run(prepared, feed)[0], run(source, feed)[0])
