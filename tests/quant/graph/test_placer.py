from __future__ import annotations

import numpy as np
import pytest

from tests.quant.graphs import (
    build,
    floats,
    initializers,
    node,
    op_types,
    quantize,
    relative_error,
    run,
)


@pytest.mark.parametrize("order", ["bias first", "operand first"])
def test_a_bias_that_is_an_operand_too_is_quantized_twice(order: str) -> None:
    layer, sum_ = node("Gemm", "x w b", "h"), node("Add", "x b", "a")
    nodes = [layer, sum_] if order == "bias first" else [sum_, layer]
    model = build(
        nodes, {"x": (4, 6)}, {"w": floats(6, 6, seed=1), "b": floats(6, seed=2, scale=1e-2)}, "h a"
    )
    feed = {"x": floats(4, 6, seed=3)}
    result = quantize(model, feed, activation_type="QUInt8").model
    tensors = initializers(result)
    assert tensors["b_quantized"].dtype == np.uint8
    bias = tensors["b0_quantized"].astype(np.float64) * tensors["b0_quantized_scale"]
    assert tensors["b0_quantized"].dtype == np.int32
    np.testing.assert_allclose(bias, floats(6, seed=2, scale=1e-2), atol=tensors["b0_quantized_scale"].max())
    assert len({tensor.name for tensor in result.graph.initializer}) == len(result.graph.initializer)
    assert op_types(result).count("DequantizeLinear") == 6  # x, w, both of b, and the outputs
    for wanted, got in zip(run(model, feed), run(result, feed), strict=True):
        assert relative_error(wanted, got) < 0.03
