from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant.graph.prepare import prepare
from quant.transforms.constant_folding import fold_constants
from tests.parity.models import CASES
from tests.quant.graphs import (
    build,
    floats,
    initializers,
    node,
    op_types,
    quantize,
    relative_error,
    run,
    serialized,
)


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    source = ir.from_proto(model)
    before = serialized(source)
    result = ir.to_proto(fold_constants(source))
    assert serialized(source) == before
    onnx.checker.check_model(result, full_check=True)
    return result


def test_chains_become_weights_of_their_own() -> None:
    model, feeds = CASES["constant_chain"]()
    prepared, _ = prepare(ir.from_proto(model), optimize=True)
    assert op_types(ir.to_proto(prepared)) == ["MatMul", "Add", "Relu", "MatMul"]
    for wanted, got in zip(run(model, feeds[0]), run(prepared, feeds[0]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    result = quantize(model, feeds, per_channel=True).model
    shapes = {
        array.shape
        for name, array in initializers(result).items()
        if array.dtype == np.int8 and array.ndim == 2
    }
    assert shapes == {(8, 12), (12, 5)}
    assert relative_error(run(model, feeds[0])[0], run(result, feeds[0])[0]) < 0.03


def test_values_are_computed_exactly_and_sources_with_readers_stay() -> None:
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0]),
        node("Split", "t", "a b", axis=0, num_outputs=2),
        node("MatMul", "x a", "h"),
        node("MatMul", "x b", "k"),
        node("Add", "h k", "s"),
        node("Gemm", "s w", "y"),
    ]
    weight = floats(6, 8, seed=1)
    model = build(nodes, {"x": (3, 4)}, {"w": weight}, "y")
    result = folded(model)
    assert op_types(result) == ["MatMul", "MatMul", "Add", "Gemm"]
    constants = initializers(result)
    assert set(constants) == {"w", "a", "b"}
    np.testing.assert_array_equal(np.concatenate([constants["a"], constants["b"]]), weight.T)
    feed = {"x": floats(3, 4, seed=2)}
    np.testing.assert_array_equal(run(result, feed)[0], run(model, feed)[0])


@pytest.mark.parametrize(
    "kept",
    [
        node("RandomNormalLike", "w", "c", seed=1.0),
        node("Expand", "w shape", "c"),
        node("Gelu", "w", "c", domain="com.microsoft"),
    ],
    ids=lambda kept: kept.op_type,
)
def test_nodes_that_stay(kept: onnx.NodeProto) -> None:
    constants = {"w": floats(6, 6), "shape": np.array([900, 6, 6])}
    tail = [node("Add", "x c", "y")]
    model = build([node("Identity", "x", "z"), *tail], {"x": (900, 6, 6), "c": (6, 6)}, {}, "y")
    del model.graph.input[1], model.graph.node[:]
    model.graph.node.extend([kept, *tail])
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    result = ir.to_proto(fold_constants(ir.from_proto(model)))
    assert op_types(result) == [kept.op_type, "Add"]


def test_graph_outputs_stay() -> None:
    model = build([node("Neg", "w", "y"), node("Neg", "x", "z")], {"x": (2,)}, {"w": floats(3)}, "y z")
    assert op_types(folded(model)) == ["Neg", "Neg"]
