from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from quant import ModelError
from quant.calibration.collect import collect_statistics
from tests.parity.models import CASES
from tests.quant.calibration.test_statistics import assert_same, of
from tests.quant.graphs import Array, build, floats, node, session

MODEL = build(
    [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Sigmoid", "r", "y")],
    {"x": ["N", 6]},
    {"w": floats(6, 5)},
    "y",
)
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
    for name in TENSORS:
        assert_same(first[name].merge(rest[name]), whole[name])


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
