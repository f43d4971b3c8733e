from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from quant import QuantizationError
from quant.finetune.accumulator import MomentsAccumulator
from quant.finetune.block import BLOCK_BYTES, Block, Draw
from quant.finetune.moments import InputMoments
from quant.finetune.quadratic import Quadratic
from quant.finetune.weights import from_matrix
from tests.quant.finetune.layers import Layer, columns_of
from tests.quant.graphs import Array, floats, run

LAYERS: dict[str, tuple[Any, ...]] = {
    "conv": ("Conv", (4, 3, 9, 8), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "grouped": ("Conv", (4, 6, 9, 8), (4, 3, 3, 2), {"group": 2, "dilations": [2, 1], "pads": [0, 1, 2, 0]}),
    "depthwise": ("Conv", (4, 5, 7, 7), (5, 1, 3, 3), {"group": 5, "pads": [1, 1, 1, 1]}),
    "strided": ("Conv", (4, 3, 9, 8), (5, 3, 3, 3), {"strides": [2, 2]}),
    "strided rows": ("Conv", (4, 3, 9, 8), (5, 3, 3, 2), {"strides": [2, 1]}),
    "tiny map": ("Conv", (4, 3, 2, 2), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "long kernel": ("Conv", (4, 3, 12), (5, 3, 5), {}),
    "volume": ("Conv", (4, 2, 4, 5, 3), (3, 2, 3, 3, 2), {"pads": [1, 1, 0, 1, 1, 0]}),
    "pointwise": ("Conv", (4, 20, 3, 3), (5, 20, 1, 1), {}),
    "transposed": ("ConvTranspose", (4, 6, 5, 4), (6, 2, 3, 2), {"group": 3, "strides": [2, 2]}),
    "gemm": ("Gemm", (4, 20), (20, 3), {"alpha": 0.5}),
    "matmul": ("MatMul", (4, 6, 5), (5, 3), {}),
    "left matmul": ("MatMul", (4, 5, 6), (3, 5), {"inputs": "w x"}),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Layer:
    op_type, x, w, attributes = LAYERS[request.param]
    return Layer(op_type, x, w, **attributes)


def pairs(layer: Layer, sizes: tuple[int, ...] = (4, 1, 3)) -> list[tuple[Array, Array]]:
    batches = [layer.batch(seed, size) for seed, size in enumerate(sizes)]
    return [(x, x + floats(*x.shape, seed=9 + i, scale=0.3) + 0.1) for i, x in enumerate(batches)]


def accumulate(layer: Layer, batches: list[tuple[Array, Array]], **options: Any) -> MomentsAccumulator:
    accumulator = MomentsAccumulator(layer.columns, **options)
    for x, x_quantized in batches:
        add(accumulator, x, x_quantized)
    return accumulator


def add(
    accumulator: MomentsAccumulator,
    x: Array,
    x_quantized: Array,
    draw: Draw | None = None,
    max_bytes: int = BLOCK_BYTES,
) -> None:
    def blocks(values: Array) -> Iterator[Block]:
        columns = accumulator.columns
        return columns.drawn(values, draw) if draw else columns.blocks(values, max_bytes)

    accumulator.add(blocks(x), None if x_quantized is x else blocks(x_quantized))


def assert_same(found: InputMoments, wanted: InputMoments) -> None:
    for name in ("gram", "cross", "mean", "quantized_mean", "float_gram"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=2e-5, err_msg=name)


def brute_force(layer: Layer, batches: list[tuple[Array, Array]]) -> InputMoments:
    x, q = (
        np.concatenate([columns_of(layer.columns, pair[side]) for pair in batches], axis=2).astype(np.float64)
        for side in (0, 1)
    )
    n = x.shape[2]
    return InputMoments(q @ q.mT / n, x @ q.mT / n, x.mean(axis=2), q.mean(axis=2), x @ x.mT / n)


def test_moments_are_those_of_the_columns(layer: Layer) -> None:
    batches = pairs(layer)
    found = accumulate(layer, batches, float_gram=True).result()[0]
    assert all(array.dtype == np.float64 for array in (found.gram, found.cross, found.mean))
    assert_same(found, brute_force(layer, batches))


def test_the_error_of_a_candidate_is_a_quadratic_form(layer: Layer) -> None:
    """Against onnxruntime's own outputs: |W X - Q X̂|²."""
    x, x_quantized = layer.x, pairs(layer)[0][1]
    matrix, candidate = layer.matrix.astype(np.float64), np.round(layer.matrix.astype(np.float64) * 4) / 4
    accumulator = accumulate(layer, [(x, x_quantized)], float_gram=True)
    found = accumulator.result()[0]
    assert found.float_gram is not None
    form = (
        np.trace(candidate @ found.gram @ candidate.mT, axis1=1, axis2=2)
        - 2 * np.trace(matrix @ found.cross @ candidate.mT, axis1=1, axis2=2)
        + np.trace(matrix @ found.float_gram @ matrix.mT, axis1=1, axis2=2)
    )
    wanted = layer.output.astype(np.float64)
    other = from_matrix(layer.node, candidate).astype(np.float32)
    layer.proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(other, "w"))
    got = run(layer.proto, {"x": x_quantized})[0]
    np.testing.assert_allclose(form.sum() * accumulator.count, ((wanted - got) ** 2).sum(), rtol=1e-4)


def test_the_split_into_batches_and_blocks_does_not_show(layer: Layer) -> None:
    batches = pairs(layer)
    if layer.node.op_type != "MatMul" or layer.columns.inputs != layer.x.shape[0]:
        joined = tuple(np.concatenate(part) for part in zip(*batches, strict=True))
        whole = accumulate(layer, [joined]).result()[0]
        assert_same(accumulate(layer, batches).result()[0], whole)
        small = MomentsAccumulator(layer.columns)
        add(small, *joined, max_bytes=1)
        assert_same(small.result()[0], whole)


@pytest.mark.parametrize("same", [(), (0,), (0, 1, 2)])
def test_the_shift_of_the_outputs_stands_for_the_cross_moments(layer: Layer, same: tuple[int, ...]) -> None:
    batches = [(x, x if index in same else q) for index, (x, q) in enumerate(pairs(layer))]
    matrix = layer.matrix.astype(np.float64)
    weights = (layer.matrix, layer.matrix[:, :1] - 1)  # of two layers with the same input
    first = accumulate(layer, batches[:1], weights=weights)
    first.take(accumulate(layer, batches[1:], weights=weights))
    expected = brute_force(layer, batches)
    for found, weight in zip(first.result(), (matrix, matrix[:, :1] - 1), strict=True):
        one, other = Quadratic.of(weight, found), Quadratic.of(weight, expected)
        for part in ("gram", "linear", "constant"):
            np.testing.assert_allclose(getattr(one, part), getattr(other, part), atol=1e-4, err_msg=part)
        one, other = Quadratic.of(weight, found.centred()), Quadratic.of(weight, expected.centred())
        for part in ("gram", "linear", "constant"):
            np.testing.assert_allclose(getattr(one, part), getattr(other, part), atol=1e-4, err_msg=part)


def test_an_input_that_does_not_differ_has_one_gram_matrix(layer: Layer) -> None:
    batches = [(x, x) for x, _ in pairs(layer)]
    found = accumulate(layer, batches).result()[0]
    assert found.cross is found.gram is found.float_gram
    assert_same(found, brute_force(layer, batches))


def test_batches_that_differ_may_follow_ones_that_do_not(layer: Layer) -> None:
    different = pairs(layer)
    batches = [(different[0][0], different[0][0]), *different[1:]]
    for order in (batches, batches[::-1]):
        assert_same(accumulate(layer, order, float_gram=True).result()[0], brute_force(layer, batches))


@pytest.mark.parametrize("same", [(), (0,), (0, 1), (1, 2), (0, 1, 2)])
def test_merged_accumulators_are_as_one(layer: Layer, same: tuple[int, ...]) -> None:
    batches = [(x, x if index in same else q) for index, (x, q) in enumerate(pairs(layer))]
    first = accumulate(layer, batches[:1], float_gram=True)
    rest = accumulate(layer, batches[1:], float_gram=True)
    whole = accumulate(layer, batches, float_gram=True).result()[0]
    first.take(rest)
    assert_same(first.result()[0], whole)


@pytest.mark.parametrize("same", [False, True], ids=["two inputs", "one input"])
def test_a_share_of_the_columns_gives_their_moments(layer: Layer, same: bool) -> None:
    batches = [(x, x if same else q) for x, q in pairs(layer, (6, 6, 6))]
    accumulator = MomentsAccumulator(layer.columns, float_gram=True)
    draws = [Draw(0.6, (3, batch)) for batch in range(len(batches))]
    for draw, (x, x_quantized) in zip(draws, batches, strict=True):
        add(accumulator, x, x_quantized, draw)
    x, q = (
        np.concatenate(
            [
                columns_of(layer.columns, pair[side], draw=draw)
                for pair, draw in zip(batches, draws, strict=True)
            ],
            axis=2,
        ).astype(np.float64)
        for side in (0, 1)
    )
    n = x.shape[2]
    assert 0 < n == accumulator.count < 18 * layer.columns.count((1, *layer.x.shape[1:]))
    wanted = InputMoments(q @ q.mT / n, x @ q.mT / n, x.mean(axis=2), q.mean(axis=2), x @ x.mT / n)
    assert_same(accumulator.result()[0], wanted)


def test_empty_batches_count_for_nothing(layer: Layer) -> None:
    batches = pairs(layer)
    empty = (layer.batch(0, 0), layer.batch(0, 0))
    assert_same(accumulate(layer, [empty, *batches]).result()[0], accumulate(layer, batches).result()[0])
    with pytest.raises(QuantizationError, match="no output position"):
        accumulate(layer, [empty]).result()[0]
