from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from quant.graph.exposure import expose, hidden_tensors
from quant.graph.prepare import prepare
from tests.quant.bodies import (
    BOOL,
    INT64,
    body,
    branch,
    conditional,
    loop,
    model,
    nested,
    scan,
    sign_test,
    taken,
    unrolled,
    value,
)
from tests.quant.graphs import Array, Feed, floats, node, session


def exposed(source: onnx.ModelProto, names: list[str], feed: Feed) -> dict[str, Array]:
    """Outputs of the model with more of them, by name."""
    prepared, _ = prepare(ir.from_proto(source), False, subgraphs=True)
    before = [output.name or "" for output in prepared.graph.outputs]
    expose(prepared, names)
    run = session(ir.to_proto(prepared), optimized=False)
    found = dict(zip([output.name for output in run.get_outputs()], run.run(None, feed), strict=True))
    wanted = session(source, optimized=False).run(before, feed)
    for name, array in zip(before, wanted, strict=True):
        np.testing.assert_array_equal(found[name], array)  # what was there is as it was
    return found


def plain(source: onnx.ModelProto, name: str, feed: Feed) -> Array:
    """A value of a model without bodies."""
    copy = onnx.ModelProto.FromString(source.SerializeToString())
    copy.graph.output.add().name = name
    return np.asarray(session(copy, optimized=False).run([name], feed)[0])


@pytest.mark.parametrize("shift", [1, -1])
def test_one_branch_gives_its_values_and_the_other_none(shift: float) -> None:
    feed = {"x": floats(2, 6, 6, 6) + np.float32(shift)}
    second = "same_in_decide_then_branch"  # attributes are sorted by name
    found = exposed(conditional(), ["c", "same", second, "bent"], feed)
    names = (second, "same") if shift > 0 else ("same", second)
    attribute = "then_branch" if shift > 0 else "else_branch"
    np.testing.assert_array_equal(
        found[names[0]], plain(taken(conditional(), attribute), "same", feed).ravel()
    )
    assert found[names[1]].shape == (0,)
    assert found["bent"].size == (0 if shift > 0 else 2 * 6 * 6 * 6)


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_a_loop_gives_the_values_of_all_iterations(trips: int) -> None:
    feed: Feed = {"x": floats(3, 8)}
    found = exposed(loop(trips), ["a", "h", "s"], feed)
    for name in "as":
        steps = [plain(unrolled(trips), f"{name}{i}", feed).ravel() for i in range(trips)]
        np.testing.assert_allclose(found[name], np.concatenate([np.zeros(0), *steps]), rtol=1e-6, atol=1e-6)
    assert found["h"].size == trips * 24


def growing() -> onnx.ModelProto:
    """A Loop whose variable is longer after each iteration."""
    cell = body(
        [
            node("Concat", "h one", "next", axis=0),
            node("Neg", "next", "minus"),
            node("Identity", "go", "go_on"),
        ],
        [value("go_on", BOOL, []), value("next", shape=[None])],
        [value("index", INT64, []), value("go", BOOL, []), value("h", shape=[None])],
    )
    return model(
        [helper.make_node("Loop", ["trips", "yes", "x"], ["y"], "grow", body=cell)],
        [value("x", shape=["n"])],
        {"one": np.ones(1, np.float32), "trips": np.array(3), "yes": np.array(True)},
        [value("y", shape=["m"])],
    )


def test_shapes_may_change_from_iteration_to_iteration() -> None:
    x = np.array([2, 3], np.float32)
    found = exposed(growing(), ["minus"], {"x": x})["minus"]
    np.testing.assert_array_equal(found, -np.array([2, 3, 1, 2, 3, 1, 1, 2, 3, 1, 1, 1]))


def test_branches_within_a_loop() -> None:
    feed: Feed = {"x": floats(2, 8)}
    found = exposed(nested(), ["up", "down", "r", "n"], feed)
    assert found["up"].size and found["down"].size  # both are taken
    assert found["up"].size + found["down"].size == 4 * 16 == found["n"].size
    weight = floats(8, 8, seed=1, scale=0.4)
    h, ups, downs = found["r"], [], []
    for index in range(4):
        if h.sum() > 0:
            ups.append(h @ weight)
        else:
            downs.append(h @ floats(8, 8, seed=6))
        h = -found["n"].reshape(4, 2, 8)[index]
    np.testing.assert_allclose(found["up"], np.concatenate(ups).ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["down"], np.concatenate(downs).ravel(), rtol=1e-4, atol=1e-5)


def test_scan_stacks_its_steps() -> None:
    feed: Feed = {"x": floats(2, 5, 4), "first": floats(2, 3, seed=1)}
    found = exposed(scan(), ["px", "h"], feed)
    wanted = np.moveaxis(feed["x"], 1, 0) @ floats(4, 8, seed=1)
    np.testing.assert_allclose(np.moveaxis(found["px"].reshape(5, 2, 8), 1, 1), wanted, rtol=1e-5, atol=1e-5)
    assert found["h"].size == 5 * 2 * 8


def _in_scan(inner: list[onnx.NodeProto], last: str) -> ir.Model:
    cell = body(
        [*inner, node("ReduceMax", last, "next", keepdims=0)],
        [value("next", shape=[])],
        [value("h", shape=[]), value("x_t", shape=[4])],
    )
    source = model(
        [helper.make_node("Scan", ["zero", "x"], ["y"], "recur", body=cell, num_scan_inputs=1)],
        [value("x", shape=[5, 4])],
        {"zero": np.zeros((), np.float32)},
        [value("y", shape=[])],
    )
    return prepare(ir.from_proto(source), False, subgraphs=True)[0]


def test_what_a_scan_cannot_hand_on_is_named() -> None:
    varying = _in_scan([node("Greater", "x_t h", "larger"), node("Compress", "x_t larger", "some")], "some")
    reasons: dict[Any, str] = {item.name: reason for item, reason in hidden_tensors(varying.graph).items()}
    assert "may change from step to step" in reasons["some"] and "x_t" not in reasons
    choice = helper.make_node(
        "If",
        ["positive"],
        ["i"],
        "choose",
        then_branch=branch(node("Neg", "x_t", "then_out")),
        else_branch=branch(node("Abs", "x_t", "else_out")),
    )
    inside = hidden_tensors(_in_scan([*sign_test("x_t"), choice], "i").graph)
    reasons = {item.name: reason for item, reason in inside.items()}
    assert "inside If 'choose' within a Scan" in reasons["then_out"]
    assert not hidden_tensors(prepare(ir.from_proto(nested()), False, subgraphs=True)[0].graph)
