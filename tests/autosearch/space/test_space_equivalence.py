"""What the rules call equal is equal: the quantizer writes the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autosearch.space import SearchSpace
from autosearch.space.effective import config_digest, effective_config
from autosearch.space.parts import Part
from quant import CalibrationData, Pipeline, load_float_model
from quant.config import QuantConfig, unflatten

SPACES: list[dict[str, Any]] = [
    {
        "calibrate_method": [
            "MinMax",
            "Percentile",
            "LayerWisePercentile",
            "Entropy",
            "MinMSE",
            "NonOverflow",
            "MSE",
            "Distribution",
        ],
        "reduce_range": [False, True],
        "weight_type": ["QInt8", "QUInt8"],
        "per_channel": [False, True],
        "extra_options": {
            "ActivationSymmetric": [False, True],
            "WeightSymmetric": [None, True, False],
            "CalibTensorRangeSymmetric": [None, True, False],
            "MinimumRealRange": [None, 3.0],
            "QDQKeepRemovableActivations": [False, True],
            "CalibMovingAverage": [False, True],
            "Percentile": [99.0, 95.0],
            "DistributionDeviations": [8.0, 1.0],
            "WeightCalibrateMethod": ["MinMax", "MSE"],
            "PercentileCandidates": [[90.0, 99.0], [95.0]],
        },
    },
    {
        "per_channel": [False, True],
        "include_cle": [False, True],
        "op_types_to_quantize": [["Conv", "Gemm"], ["Gemm", "Conv"], []],
        "nodes_to_exclude": [[], ["conv1", "gemm"], ["gemm", "conv1"]],
        "extra_options": {
            "ActivationSymmetric": [False, True],
            "QDQKeepRemovableActivations": [False, True],
            "QDQOpTypePerChannelSupportToAxis": [{}, {"LayerNormalization": 0}],
            "CalibMovingAverageConstant": [0.01, 0.5],
            "CLESteps": [2, -1],
            "CLEScaleUseThreshold": [False, True],
            "CLEWeightThreshold": [0.5, 0.1],
            "CLETotalLayerDiffThreshold": [2e-7, 0.1],
        },
    },
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Conv, Relu, Conv, Clip, LayerNormalization, Gemm."""
    generator = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Clip", ["c2", "low", "high"], ["k"], name="clip"),
        helper.make_node("Flatten", ["k"], ["f"], name="flatten"),
        helper.make_node("LayerNormalization", ["f", "s", "t"], ["l"], name="norm"),
        helper.make_node("Gemm", ["l", "w3", "b3"], ["y"], name="gemm", transB=1),
    ]
    initializers = [
        constant("w1", 3, 2, 3, 3),
        constant("b1", 3),
        constant("w2", 2, 3, 3, 3),
        constant("b2", 2),
        numpy_helper.from_array(np.float32(-0.5), "low"),
        numpy_helper.from_array(np.float32(6), "high"),
        numpy_helper.from_array((1 + 0.1 * generator.random(18)).astype(np.float32), "s"),
        constant("t", 18),
        constant("w3", 4, 18),
        constant("b3", 4),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path: Path = tmp_path_factory.mktemp("model") / "float.onnx"
    onnx.save(model, path)
    feeds = [{"x": (generator.standard_normal((2, 2, 5, 5)) * (1 + i)).astype(np.float32)} for i in range(4)]
    return Pipeline(load_float_model(path), CalibrationData(feeds), histograms=True)


@pytest.mark.parametrize("number", range(len(SPACES)))
def test_effective_form_writes_the_same_model(pipeline: Pipeline, number: int) -> None:
    space = SearchSpace(SPACES[number])
    assert space.raw_size is not None
    for index in np.random.default_rng(number).integers(space.raw_size, size=60):
        written = as_written(space.parts[0], int(index))
        assert quantized(pipeline, written) == quantized(pipeline, space.configuration(int(index)).config), (
            f"{written} is not {effective_config(written)}"
        )


def test_weight_symmetry_matters_with_per_channel(pipeline: Pipeline) -> None:
    """The scale of a LayerNormalization has no channel axis: it stays per tensor."""
    both = [
        QuantConfig(per_channel=True, extra_options={"WeightSymmetric": symmetric})
        for symmetric in (True, False)
    ]
    assert len({quantized(pipeline, config) for config in both}) == 2
    assert len({config_digest(config) for config in both}) == 2


def as_written(part: Part, index: int) -> QuantConfig:
    """A point without the rules."""
    digits = zip(part.dimensions, part.digits(index), strict=True)
    chosen = {dimension.key: dimension.value(digit) for dimension, digit in digits}
    return QuantConfig(**unflatten({**part.base, **chosen}))


def quantized(pipeline: Pipeline, config: QuantConfig) -> bytes:
    serialized: bytes = pipeline.quantize(config).model.SerializeToString(deterministic=True)
    return serialized
