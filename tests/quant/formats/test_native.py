"""Formats as QuantizeLinear and DequantizeLinear nodes, run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quant.constant_params import code_tensor
from quant.formats import Native
from quant.requirements import session_config
from tests.quant.formats.cases import CASES, F32, Case, case, session, values, weights

GRANULAR = (
    *(case(f"int{bits}", symmetric=True, granularity="channel") for bits in (2, 4, 8, 16)),
    *(case(f"{sign}int4", symmetric=False, granularity="block", block_size=8) for sign in ("", "u")),
    case("int8", granularity="block"),
    case("float8e4m3fn", granularity="channel"),
    case("float8e5m2", granularity="block", block_size=16),
)

WITH_NODES = [
    own for own in CASES if (native := own.format.native()) is not None and native.params is not None
]


def tensors(native: Native) -> tuple[list[onnx.TensorProto], dict[str, int]]:
    """Scale and zero point, and the attributes of the nodes."""
    params = native.params
    assert params is not None
    scale = onnx.numpy_helper.from_array(np.asarray(params.scale, np.float32), "scale")
    attributes = {} if params.axis is None else {"axis": params.axis}
    if params.block_size is not None:
        attributes["block_size"] = params.block_size
    return [scale, code_tensor(params.zero_point, native.element, "zero")], attributes


def run(native: Native, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], x: F32) -> F32:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", value[:1], value[1:], constants)
    ir_version = 13 if native.opset > 21 else 10
    opset = [helper.make_opsetid("", native.opset)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=ir_version)
    onnx.checker.check_model(model)
    (y,) = session(model, session_config([native.element], [])).run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "bytes"])
@pytest.mark.parametrize("own", WITH_NODES, ids=str)
def test_quantize_and_dequantize(own: Case, packed: bool) -> None:
    native = own.format.native(packed=packed)
    assert native is not None
    x = values(33, 50, exponents=(-20, 12)).clip(-1e6, 1e6)
    constants, attributes = tensors(native)
    nodes = []
    source = "x"
    if native.clip is not None:
        constants += [
            onnx.numpy_helper.from_array(np.float32(bound), name)
            for bound, name in zip(native.clip, ("low", "high"), strict=True)
        ]
        nodes.append(helper.make_node("Clip", ["x", "low", "high"], ["clipped"]))
        source = "clipped"
    nodes += [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["codes"], **attributes),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], **attributes),
    ]
    np.testing.assert_array_equal(run(native, nodes, constants, x), own.format.round(x))


@pytest.mark.parametrize("own", [*WITH_NODES, *GRANULAR], ids=str)
def test_packed_weights(own: Case) -> None:
    weight = weights(6, 40)
    fitted = own.of("weight").fit(weight)
    native = fitted.native()
    assert native is not None and native.params is not None
    axis = None if native.params.axis is None else native.params.axis % weight.ndim
    native = replace(native, params=replace(native.params, axis=axis))
    constants, attributes = tensors(native)
    constants.append(code_tensor(native.codes(weight), native.element, "codes"))
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"], **attributes),
        helper.make_node("Add", ["values", "x"], ["y"]),
    ]
    np.testing.assert_array_equal(run(native, nodes, constants, 0 * weight), fitted.round(weight))


@pytest.mark.parametrize(
    ("width", "signed", "packed", "type_name", "clips"),
    [
        (1, True, True, "INT2", True),
        (2, False, True, "UINT2", False),
        (3, True, True, "INT4", True),
        (3, True, False, "INT8", True),
        (4, True, True, "INT4", False),
        (4, True, False, "INT8", True),
        (8, False, False, "UINT8", False),
        (9, True, False, "INT16", True),
        (16, True, True, "INT16", False),
    ],
)
def test_integers_take_the_next_wider_type(
    width: int, signed: bool, packed: bool, type_name: str, clips: bool
) -> None:
    native = case("integer", width=width, is_signed=signed).format.native(packed=packed)
    assert native is not None
    assert native.element.ir.name == type_name and (native.clip is not None) is clips
    assert native.opset == (25 if width <= 2 and packed else 21)


def test_wide_integers_are_not_native() -> None:
    assert case("integer", width=17).format.native() is None


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_halves_are_cast(name: str) -> None:
    own = case(name).format
    native = own.native()
    assert native is not None and native.params is None
    x = values(6, 40)
    np.testing.assert_array_equal(native.codes(x).astype(np.float32), own.round(x))


def test_codes_of_blocks_that_end_early() -> None:
    weight = weights(3, 20)
    fitted = case("int8", granularity="block", block_size=16).of("weight").fit(weight)
    native = fitted.native()
    assert native is not None and native.params is not None
    assert native.params.scale.shape == (3, 2)
    np.testing.assert_array_equal(fitted.round(weight)[:, 16:], fitted.round(weight[:, :20])[:, 16:])
