"""Graphs as torch.onnx 2.13 writes them, node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import CalibrationData, Pipeline, QuantConfig, load_float_model
from quant.layers import module_paths
from tests.quant.graphs import build, floats, node

SCOPES = "pkg.torch.onnx.name_scopes"
REWRITTEN = "pkg.onnxscript.rewriter.rule_name"
WIDTH = {"name": "integer", "data_in_width": 8, "weight_width": 4}


def linear(number: int, inputs: str, output: str, name: str, **metadata: str) -> onnx.NodeProto:
    made = node("Gemm", f"{inputs} seq_blocks.{number}.weight seq_blocks.{number}.bias", output, transB=1)
    return described(made, name, **metadata)


def described(made: onnx.NodeProto, name: str, **metadata: str) -> onnx.NodeProto:
    made.name = name
    for key, value in metadata.items():
        made.metadata_props.add(key={"scopes": SCOPES, "rule": REWRITTEN}[key], value=value)
    return made


def parameters(*numbers: int) -> dict[str, np.ndarray]:
    found = {f"seq_blocks.{number}.weight": floats(4, 4, seed=number) for number in numbers}
    return found | {f"seq_blocks.{number}.bias": floats(4, seed=number) for number in numbers}


def traced() -> onnx.ModelProto:
    """Sequential(Linear, ReLU, Linear) by the exporter of TorchScript, and a BatchNorm to be folded."""
    normalization = {"seq_blocks.3.weight": floats(4), "mean": floats(4), "var": np.abs(floats(4)) + 1}
    nodes = [
        linear(0, "x", "/seq_blocks/seq_blocks.0/Gemm_output_0", "/seq_blocks/seq_blocks.0/Gemm"),
        described(
            node("Relu", "/seq_blocks/seq_blocks.0/Gemm_output_0", "r"), "/seq_blocks/seq_blocks.1/Relu"
        ),
        linear(2, "r", "g", "/seq_blocks/seq_blocks.2/Gemm"),
        described(
            node("BatchNormalization", "g seq_blocks.3.weight seq_blocks.3.weight mean var", "y"),
            "/seq_blocks/seq_blocks.3/BatchNormalization",
        ),
    ]
    return build(nodes, {"x": ["n", 4]}, parameters(0, 2) | normalization, "y", opset=17)


def exported() -> onnx.ModelProto:
    """The same by the exporter of torch.export, which has folded the BatchNorm into the second Linear."""
    nodes = [
        linear(0, "x", "linear", "node_linear", scopes="['', 'seq_blocks', 'seq_blocks.0', 'linear']"),
        described(
            node("Relu", "linear", "relu"),
            "node_relu",
            scopes="['', 'seq_blocks', 'seq_blocks.1', 'relu']",
        ),
        linear(
            2,
            "relu",
            "y",
            "node_Gemm_14",
            scopes="['', 'seq_blocks', 'seq_blocks.3', '_native_batch_norm']",
            rule="FuseBatchNormIntoGemm",
        ),
    ]
    return build(nodes, {"x": ["n", 4]}, parameters(0, 2), "y", opset=20)


def paths(*nodes: onnx.NodeProto, **constants: np.ndarray) -> dict[str, str]:
    model = build(list(nodes), {"x": ["n", 4, 4]}, constants, nodes[-1].output[0])
    return module_paths(ir.from_proto(model).graph)


def test_a_traced_model() -> None:
    found = module_paths(ir.from_proto(traced()).graph)
    assert [*found.values()] == ["seq_blocks.0", "seq_blocks.1", "seq_blocks.2", "seq_blocks.3"]


def test_an_exported_model() -> None:
    assert module_paths(ir.from_proto(exported()).graph) == {
        "node_linear": "seq_blocks.0",
        "node_relu": "seq_blocks.1",
        "node_Gemm_14": "seq_blocks.2",
    }


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/fc1/Gemm", "fc1"),
        ("/Relu", None),
        ("Relu_7", None),
        ("/layers.0/fc/Relu", "layers.0.fc"),
        ("/layer1/layer1.0/downsample/downsample.1/Relu", "layer1.0.downsample.1"),
        ("/model/decoder/layers.11/self_attn/q_proj/Relu", "model.decoder.layers.11.self_attn.q_proj"),
    ],
)
def test_paths_in_names(name: str, path: str | None) -> None:
    assert paths(described(node("Relu", "x", "y"), name)).get(name) == path


def test_a_tied_weight_does_not_decide_where_the_node_says_more() -> None:
    tied = {"embed.weight": floats(4, 4)}
    head = node("MatMul", "x embed.weight", "y")
    assert paths(described(head, "/lm_head/MatMul"), **tied) == {"/lm_head/MatMul": "lm_head"}
    scopes = "['', 'lm_head', 'linear']"
    assert paths(described(head, "node_linear", scopes=scopes), **tied) == {"node_linear": "lm_head"}


@pytest.mark.parametrize("scopes", ["", "[", "['']", "3", "['', 'add']"])
def test_metadata_that_say_nothing(scopes: str) -> None:
    assert paths(described(node("Relu", "x", "y"), "node_add", scopes=scopes)) == {}


@pytest.mark.parametrize("make", [traced, exported], ids=["traced", "exported"])
@pytest.mark.parametrize("key", ["seq_blocks_2", "seq_blocks.2"])
def test_a_table_names_modules(make: object, key: str, tmp_path: Path) -> None:
    """Through conversion, folding and equalization; the model is that of the node's name."""
    assert callable(make)
    model = make()
    onnx.save(model, tmp_path / "model.onnx")
    float_model = load_float_model(tmp_path / "model.onnx")
    pipeline = Pipeline(float_model, CalibrationData([{"x": floats(8, 4)}]))
    node_name = next(each.name for each in model.graph.node if "seq_blocks.2.weight" in each.input)
    by_module, by_node = (
        pipeline.quantize(QuantConfig(layers={name: WIDTH}, include_cle=True)) for name in (key, node_name)
    )
    assert by_module.standalone().graph == by_node.standalone().graph
    assert [cost.name for cost in by_module.cost.layers if cost.weight_bits == 4] == [node_name]
