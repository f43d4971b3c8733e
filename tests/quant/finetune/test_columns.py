from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quant import QuantizationError
from quant.finetune.block import Draw
from quant.finetune.columns import layer_columns
from quant.finetune.weights import from_matrix
from quant.finetune.windows import WindowColumns
from tests.quant.finetune.layers import Layer, columns_of
from tests.quant.graphs import Array, build, floats, node


def assert_product_is_output(layer: Layer) -> None:
    """W X, of which column order is (folded axis, samples, other axes), against the node's output."""
    wanted = layer.output
    product = layer.matrix.astype(np.float64) @ columns_of(layer.columns, layer.x)
    if isinstance(layer.columns, WindowColumns):
        folded = layer.columns.folded
        wanted = wanted[..., None]
        wanted = np.moveaxis(wanted, (1, 2 + folded), (0, 1))
    elif layer.node.inputs[1].name == "x":  # the data is the right operand
        wanted = np.moveaxis(wanted, -2, 0)
    else:
        wanted = np.moveaxis(wanted, -1, 0)
    wanted = wanted.reshape(product.shape)
    np.testing.assert_allclose(product, wanted, atol=1e-5 * max(1, np.abs(wanted).max(initial=0)))


def assert_round_trip(layer: Layer) -> None:
    again = from_matrix(layer.node, layer.matrix)
    assert again.flags.c_contiguous
    np.testing.assert_array_equal(again, layer.weight)


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = rank) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    groups, channels, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    kernel, strides = each(1, 3), each(1, 3)
    dilations = [1] * rank if auto_pad.startswith("SAME") else each(1, 2)  # all that onnxruntime runs
    return {
        "groups": groups,
        "channels": channels,
        "outputs": outputs,
        "kernel": kernel,
        "dilations": dilations,
        "strides": strides,
        "pads": each(0, 2, 2 * rank),
        "sizes": [draw(st.integers(1, 4)) + (k - 1) * d for k, d in zip(kernel, dilations, strict=True)],
        "padding": [draw(st.integers(0, stride - 1)) for stride in strides],
        "auto_pad": auto_pad,
    }


def convolution(given: dict[str, Any], op_type: str) -> Layer:
    groups, channels, outputs = given["groups"], given["channels"], given["outputs"]
    explicit = given["auto_pad"] == "NOTSET"
    transposed = op_type == "ConvTranspose"
    sides = (groups * channels, outputs) if transposed else (groups * outputs, channels)
    return Layer(
        op_type,
        (2, groups * channels, *given["sizes"]),
        (*sides, *given["kernel"]),
        group=groups,
        strides=given["strides"],
        dilations=given["dilations"],
        auto_pad=None if explicit else given["auto_pad"],
        pads=given["pads"] if explicit else None,
        output_padding=given["padding"] if transposed else None,
    )


@given(convolutions())
@settings(max_examples=150, deadline=None)
def test_the_matrix_times_the_columns_is_a_conv(given: dict[str, Any]) -> None:
    layer = convolution(given, "Conv")
    assert_product_is_output(layer)
    assert_round_trip(layer)


@given(convolutions())
@settings(max_examples=150, deadline=None)
def test_the_matrix_times_the_columns_is_a_conv_transpose(given: dict[str, Any]) -> None:
    kernel, pads, rank = given["kernel"], given["pads"], len(given["kernel"])
    full = [
        (size - 1) * s + op + (k - 1) * d + 1
        for size, s, op, k, d in zip(
            given["sizes"], given["strides"], given["padding"], kernel, given["dilations"], strict=True
        )
    ]
    assume(all(size > pads[axis] + pads[axis + rank] for axis, size in enumerate(full)))
    layer = convolution(given, "ConvTranspose")
    assert_product_is_output(layer)
    assert_round_trip(layer)


@pytest.mark.parametrize("auto_pad", [None, "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [8, 9, 10])
def test_the_output_shape_of_a_conv_transpose_decides_its_pads(auto_pad: str | None, size: int) -> None:
    layer = Layer("ConvTranspose", (2, 3, 5), (3, 2, 3), strides=[2], output_shape=[size], auto_pad=auto_pad)
    assert_product_is_output(layer)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_the_matrix_times_the_columns_is_a_gemm(trans_a: int, trans_b: int, alpha: float) -> None:
    layer = Layer(
        "Gemm",
        (5, 7) if trans_a else (7, 5),
        (4, 5) if trans_b else (5, 4),
        transA=trans_a,
        transB=trans_b,
        alpha=alpha,
    )
    assert_product_is_output(layer)
    assert_round_trip(layer)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_matrix_times_the_columns_is_a_matmul(batch: tuple[int, ...]) -> None:
    for layer in (
        Layer("MatMul", (*batch, 7, 5), (5, 4)),
        Layer("MatMul", (*batch, 5, 7), (4, 5), inputs="w x"),
    ):
        assert_product_is_output(layer)
        assert_round_trip(layer)


def test_a_vector_is_one_column() -> None:
    layer = Layer("MatMul", (5,), (5, 4))
    np.testing.assert_allclose(
        layer.matrix[0] @ columns_of(layer.columns, layer.x)[0, :, 0], layer.output, atol=1e-5
    )


def refused(nodes: list[Any], inputs: dict[str, Any], constants: dict[str, Array]) -> str:
    model = ir.from_proto(build(nodes, inputs, constants, "y"))
    with pytest.raises(QuantizationError) as caught:
        layer_columns(model.graph[0])
    return str(caught.value)


def test_what_has_no_weight_matrix_is_refused_with_the_reason() -> None:
    product = [node("MatMul", "x w", "y", name="mm")]
    stacked = refused(product, {"x": [2, 3, 4]}, {"w": floats(2, 4, 5)})
    assert re.search(r"layer 'mm': .*shape \(2, 4, 5\)", stacked)
    assert "not constant" in refused(product, {"x": [3, 4], "w": [4, 5]}, {})
    assert "both operands" in refused(product, {}, {"x": floats(3, 4), "w": floats(4, 5)})
    assert "no weight matrix" in refused([node("Relu", "x", "y")], {"x": [3]}, {})


@given(convolutions(), st.sampled_from(["Conv", "ConvTranspose"]), st.integers(1, 1 << 14))
@settings(max_examples=60, deadline=None)
def test_blocks_are_bounded_and_hold_every_column(given: dict[str, Any], op_type: str, limit: int) -> None:
    assume(op_type == "Conv" or not any(given["pads"]))
    columns = convolution(given, op_type).columns
    x = floats(3, given["groups"] * given["channels"], *(size + 4 for size in given["sizes"]), seed=3)
    whole, parts = columns_of(columns, x), columns_of(columns, x, limit)
    rows = whole.reshape(-1, whole.shape[2]).T
    again = parts.reshape(-1, parts.shape[2]).T
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], again[np.lexsort(again.T)])
    bound = max(limit, 4 * columns.groups * columns.inputs**2)
    for block in columns.blocks(x, limit):
        assert block.values.nbytes <= bound or block.values.shape[-1] * block.length == 1


def sorted_rows(columns: Array) -> Array:
    rows = columns.reshape(columns.shape[0] * columns.shape[1], columns.shape[2]).T
    return np.asarray(rows[np.lexsort(rows.T)])


@given(convolutions(), st.sampled_from(["Conv", "ConvTranspose"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_drawn_columns_are_some_of_all(given: dict[str, Any], op_type: str, seed: int) -> None:
    assume(op_type == "Conv" or not any(given["pads"]))
    columns = convolution(given, op_type).columns
    x = floats(3, given["groups"] * given["channels"], *(size + 4 for size in given["sizes"]), seed=3)
    whole = columns_of(columns, x)
    assert columns.count(x.shape) == whole.shape[2]
    everything = columns_of(columns, x, draw=Draw(1.0, (seed,)))
    np.testing.assert_array_equal(sorted_rows(everything), sorted_rows(whole))
    some = columns_of(columns, x, draw=Draw(0.3, (seed,)))
    np.testing.assert_array_equal(columns_of(columns, 2 * x, draw=Draw(0.3, (seed,))), 2 * some)
    rows = {tuple(row) for row in sorted_rows(whole)}
    assert {tuple(row) for row in sorted_rows(some)} <= rows


@pytest.mark.parametrize(
    ("op_type", "x", "w"),
    [("Conv", (8, 3, 30, 40), (4, 3, 3, 3)), ("Conv", (8, 6, 20), (4, 6, 1)), ("MatMul", (8, 9, 5), (5, 4))],
    ids=["lines", "points", "rows"],
)
def test_every_column_is_drawn_equally_often(op_type: str, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    layer = Layer(op_type, x, w)
    values = np.ones(x, np.float32) * np.arange(x[0]).reshape(-1, *[1] * (len(x) - 1))
    drawn = [columns_of(layer.columns, values, draw=Draw(0.1, (7, batch))) for batch in range(200)]
    counts = np.array([part.shape[2] for part in drawn])
    assert abs(counts.mean() / layer.columns.count(x) - 0.1) < 0.01
    samples = np.bincount(np.concatenate([part.max(axis=(0, 1)) for part in drawn]).astype(int), minlength=8)
    np.testing.assert_allclose(samples / samples.sum(), 1 / 8, atol=0.03)
