from __future__ import annotations

from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest

from quant.calibration import collect
from quant.calibration.groups import memory_groups
from quant.graph.prepare import prepare
from tests.quant.calibration.test_statistics import assert_same
from tests.quant.graphs import build, floats, node

NODES = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Sigmoid", "r", "s"), node("Neg", "s", "y")]
PROTO = build(NODES, {"x": ["N", 6]}, {"w": floats(6, 5)}, "y")
MODEL, _ = prepare(ir.from_proto(PROTO), False)
TENSORS = ("x", "h", "r", "s", "y")
FEED = {"x": floats(10, 6)}  # 240 bytes, 200 of each other tensor


@pytest.mark.parametrize(
    ("most", "wanted"),
    [
        (1040, [["x", "h", "r", "s", "y"]]),
        (1039, [["x", "h", "r", "s"], ["y"]]),
        (440, [["x", "h"], ["r", "s"], ["y"]]),
        (1, [["x"], ["h"], ["r"], ["s"], ["y"]]),
    ],
)
def test_groups_fit_into_the_bytes(most: int, wanted: list[list[str]]) -> None:
    assert memory_groups(MODEL, TENSORS, FEED, most) == wanted


def test_unknown_shapes_and_no_tensors() -> None:
    assert memory_groups(MODEL, TENSORS, {}, 1) == [list(TENSORS)]
    assert memory_groups(MODEL, (), FEED, 1) == [[]]


@pytest.mark.parametrize("most", [1, 440, 1 << 20])
def test_groups_do_not_change_the_statistics(most: int) -> None:
    feeds = [{"x": floats(size, 6, seed=size)} for size in (10, 4, 1)]
    whole = collect.collect_statistics(MODEL, TENSORS, feeds, histograms=True)
    with mock.patch.object(collect, "_MOST_BYTES", most):
        found = collect.collect_statistics(MODEL, TENSORS, feeds, histograms=True)
    assert list(found) == list(whole)
    for name in TENSORS:
        np.testing.assert_allclose(found[name].batch_max, whole[name].batch_max, rtol=1e-6)
        assert found[name].histogram is not None and whole[name].histogram is not None
        assert found[name].histogram.total == whole[name].histogram.total
    assert_same(found["x"], whole["x"])
