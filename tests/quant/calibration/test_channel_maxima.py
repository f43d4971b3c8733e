from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quant import DataError
from quant.calibration.channel_maxima import (
    ChannelMaxima,
    collect_channel_maxima,
    decode_channel_maxima,
    encode_channel_maxima,
)
from tests.quant.graphs import Array, build, floats, node

MODEL = build(
    [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
    {"x": ["N", "S", 6]},
    {"w": floats(6, 5)},
    "y",
)
SHAPES = [(3, 4, 6), (1, 7, 6), (0, 4, 6), (2, 0, 6), (5, 1, 6)]


def collect(batches: list[Array], **arguments: int) -> ChannelMaxima:
    feeds = [{"x": batch} for batch in batches]
    return collect_channel_maxima(ir.from_proto(MODEL), ("x", "h", "y"), feeds, **arguments)


@pytest.mark.parametrize("threads", [1, 0])
def test_of_every_channel_over_ragged_batches(threads: int) -> None:
    batches = [floats(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    found = collect(batches, threads=threads)
    rows = np.concatenate([batch.reshape(-1, 6) for batch in batches])
    assert list(found) == ["x", "h", "y"]
    assert {maxima.dtype for maxima in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["x"], np.abs(rows).max(axis=0))
    np.testing.assert_allclose(found["h"], np.abs(rows @ floats(6, 5)).max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["y"], np.maximum(rows @ floats(6, 5), 0).max(axis=0), rtol=1e-5)


def test_tensors_that_were_always_empty_are_missing() -> None:
    assert collect([np.empty((0, 4, 6), np.float32)]) == {}


def test_no_tensors_need_no_pass() -> None:
    assert collect_channel_maxima(ir.from_proto(MODEL), (), [{"x": floats(1)}]) == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    batch = floats(2, 3, 6)
    batch[1, 1, 4] = bad
    with pytest.raises(DataError, match="tensor 'x': NaN or infinite"):
        collect([floats(2, 3, 6), batch], threads=1)


def test_encoding_round_trips() -> None:
    found = collect([floats(2, 3, 6)])
    again = decode_channel_maxima(encode_channel_maxima(found))
    assert list(again) == list(found)
    for name, maxima in found.items():
        np.testing.assert_array_equal(again[name], maxima)
    assert decode_channel_maxima(encode_channel_maxima({})) == {}
