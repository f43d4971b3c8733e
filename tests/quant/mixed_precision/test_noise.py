from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quant import CalibrationData
from quant.mixed_precision.noise import Reference
from quant.mixed_precision.states import carried_states, spread
from quant.mixed_precision.yardstick import Yardstick, yardstick
from tests.quant.graphs import Array, Feed, build, floats, node
from tests.quant.mixed_precision.models import RECORDED, detector, recurrent

ALL = np.asarray(0)


def one_part(outputs: list[Array], feeds: list[Feed] | None = None) -> Reference:
    return Reference([[f] for f in outputs], [[ALL]] * len(outputs), 1, feeds or [])


def measured(model_and_feeds: object) -> Yardstick:
    model, feeds = model_and_feeds  # type: ignore[misc]
    data = CalibrationData(feeds)
    return yardstick(ir.from_proto(model), data, None, providers=("CPUExecutionProvider",), threads=1)


def test_the_mean_of_the_other_samples_is_worth_an_error_of_one() -> None:
    batches = [floats(5, 4, seed=1) + 100, floats(3, 4, seed=2) + 100]
    rows = np.concatenate(batches).astype(np.float64)
    others = (rows.sum(axis=0) - rows) / (len(rows) - 1)
    reference = one_part(batches)
    assert reference.noise([[others[:5]], [others[5:]]]).worst == pytest.approx(1)
    assert reference.noise([[f] for f in batches]).worst == 0
    noisy = [f + np.float32(0.1) for f in batches]
    assert reference.noise([[q] for q in noisy]).mean_square == pytest.approx(0.01, rel=1e-3)


def test_an_input_is_a_guess_as_well() -> None:
    x = floats(8, 6)
    y = x + floats(8, 6, seed=1, scale=0.01)
    assert one_part([y], [{"x": x}]).noise([[x]]).worst == pytest.approx(1)
    assert one_part([y]).noise([[x]]).worst < 1e-3
    assert one_part([x], [{"x": x}]).noise([[x * 1.1]]).worst == one_part([x]).noise([[x * 1.1]]).worst


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_is_infinitely_wrong(value: float) -> None:
    f = floats(4, 3)
    q = f.copy()
    q[1, 1] = value
    worst = one_part([f]).noise([[q]]).worst
    assert worst > 1e60 and not np.isnan(worst)


def test_integers_are_right_or_wrong() -> None:
    f = np.arange(12).reshape(4, 3)
    q = f.copy()
    q[:2, 0] += 1000
    assert one_part([f]).noise([[q]]).worst == pytest.approx(2 / 12)


def test_outputs_of_another_shape_count_as_zeros() -> None:
    f = floats(4, 3)
    reference = one_part([f])
    assert reference.noise([[floats(2, 3)]]) == reference.noise([[np.zeros_like(f)]])


def test_parts_are_what_a_concat_brings_together() -> None:
    found = measured(detector())
    assert found.parts == ("boxes", "score_unit")
    labels = found.reference.labels[0][0]
    assert (labels[..., :4] == 0).all() and (labels[..., 4:] == 1).all()
    without_scores = [[np.where(label[0] == 1, 0, f[0])] for f, label in _pairs(found)]
    boxes, scores = found.reference.noise(without_scores).relative
    assert boxes == 0 and scores > 1


def _pairs(found: Yardstick) -> list[tuple[list[Array], list[Array]]]:
    return [
        (list(f), list(label))
        for f, label in zip(found.reference.outputs, found.reference.labels, strict=True)
    ]


def test_labels_follow_splits_transposes_and_reshapes() -> None:
    nodes = [
        node("Split", "x", "a b", axis=1, num_outputs=2),
        node("Relu", "a", "ra"),
        node("Relu", "x", "rx"),
        node("Concat", "ra rx", "c", axis=1),
        node("Transpose", "c", "t", perm=[0, 2, 1]),
        node("Reshape", "t shape", "y"),
    ]
    model = build(nodes, {"x": ["N", 4, 3]}, {"shape": np.array([0, -1])}, "y")
    found = measured((model, [{"x": floats(2, 4, 3)}, {"x": floats(5, 4, 3)}]))
    assert found.parts == ("ra", "rx")
    expected = np.tile([0, 0, 1, 1, 1, 1], 3)
    assert all((label[0] == expected).all() for _, label in _pairs(found))


def test_feeds_that_repeat_outputs_are_runs_of_steps() -> None:
    found = measured(recurrent())
    assert len(found.feeds) == len(RECORDED)
    assert found.carried[0] == {} and all(each == {"h": 0, "c": 1} for each in found.carried[1:])
    shuffled = [found.feeds[0], found.feeds[3], found.feeds[2], found.feeds[3]]
    outputs = [found.reference.outputs[index] for index in (0, 3, 2, 3)]
    assert carried_states(shuffled, outputs) == ({}, {}, {}, {"h": 0, "c": 1})


def test_samples_come_from_all_over_the_data() -> None:
    feeds = [{"x": np.full((4, 1), index)} for index in range(10)]
    assert [int(feed["x"][0, 0]) for feed in spread(feeds, 17, 40)] == [0, 2, 4, 6, 8]
    assert len(spread(feeds, 400, 40)) == 10
