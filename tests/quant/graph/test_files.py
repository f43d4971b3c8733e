"""Loading, saving, and sessions on models from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from quant import ModelError, Pipeline, load_float_model
from quant.calibration.data import CalibrationData
from quant.config import QuantConfig
from quant.graph.save import save_model
from quant.graph.session import float_session
from tests.quant.graphs import build, floats, initializers, node, quantize, run

FEED = {"x": floats(16, 32)}


def mlp() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")]
    constants = {"w": floats(32, 64), "b": floats(64), "v": floats(64, 8)}
    return build(nodes, {"x": ["N", 32]}, constants, "y")


def write_external(folder: Path, threshold: int) -> Path:
    path = folder / "external.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=threshold)
    return path


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        load_float_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="no file"):
        load_float_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not onnx", bytes(100)])
def test_files_that_are_no_models_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_float_model(path)


def test_what_the_checker_refuses_is_refused(tmp_path: Path) -> None:
    model = mlp()
    model.graph.node[0].op_type = "Gem"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="No Op registered for Gem"):
        load_float_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("sizes", [(), (1,), (1, 25, 40, 3000, 9), (600_000,)])
def test_a_model_is_written_as_protobuf_would(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Sizes around those at which a length takes another byte."""
    model = mlp()
    model.metadata_props.add(key="k", value="v")
    model.functions.add(name="f", domain="d")
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.arange(size, dtype=np.int32), f"c{size}") for size in sizes
    )
    save_model(model, tmp_path / "m.onnx", external_data=False)
    written = (tmp_path / "m.onnx").read_bytes()
    assert onnx.ModelProto.FromString(written) == model
    assert len(written) == model.ByteSize()
    assert [tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer] == [
        tensor.name for tensor in model.graph.initializer
    ]


def test_quantized_models_are_refused(tmp_path: Path) -> None:
    quantize(mlp(), FEED).save(tmp_path / "q.onnx")
    with pytest.raises(ModelError, match=r"already quantized: node '.*' is a .*QuantizeLinear"):
        load_float_model(tmp_path / "q.onnx")


def test_the_digest_is_of_all_files(tmp_path: Path) -> None:
    path = write_external(tmp_path, 0)
    digest = load_float_model(path).digest
    assert load_float_model(path).digest == digest
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load_float_model(path).digest != digest


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = write_external(tmp_path, 0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_float_model(path)


def test_inputs_are_what_a_feed_needs(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    (spec,) = load_float_model(tmp_path / "m.onnx").inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", np.float32, (None, 32))


@pytest.mark.parametrize("threshold", [0, 1024])
@pytest.mark.parametrize("excluded", [(), ("Gemm_y",)])
def test_external_weights_are_quantized_like_others(
    threshold: int, excluded: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_external(tmp_path, threshold)
    monkeypatch.chdir(Path("/"))
    config = QuantConfig(nodes_to_exclude=excluded)
    shared = Pipeline(load_float_model(path), CalibrationData(FEED))
    model = shared.quantize(config).model
    wanted = quantize(mlp(), FEED, nodes_to_exclude=excluded).model
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    mine, other = initializers(model), initializers(wanted)
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in other)
    shared.quantize(config.replace(calibrate_method="MinMSE", include_cle=True))  # reads them again


def test_external_data_is_saved_beside_the_model(tmp_path: Path) -> None:
    quantized = quantize(mlp(), FEED, nodes_to_exclude=["Gemm_y"])
    wanted = run(quantized.model, FEED)[0]
    for _ in range(2):  # saving leaves the model whole
        quantized.save(tmp_path / "q.onnx", external_data=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx", "q.onnx.data"]
        session = ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, FEED)[0], wanted)
    np.testing.assert_array_equal(run(quantized.model, FEED)[0], wanted)
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)


@pytest.mark.parametrize("external", [False, True])
def test_saving_is_atomic_and_repeatable(external: bool, tmp_path: Path) -> None:
    model = quantize(mlp(), FEED).model
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name / "q.onnx", external_data=external)
    files = [sorted((tmp_path / name).iterdir()) for name in ("a", "b")]
    assert len(files[0]) == 1 + external
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    with pytest.raises(OSError, match="missing"):
        save_model(model, tmp_path / "missing" / "q.onnx", external_data=external)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_inner_tensors_come_out_of_a_session() -> None:
    model = ir.from_proto(mlp())
    with float_session(model, ["h", "r"], ["CPUExecutionProvider"], 1) as session:
        h, r = session.run(["h", "r"], FEED)
    np.testing.assert_array_equal(np.maximum(h, 0), r)
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_unknown_providers_are_refused() -> None:
    with (
        pytest.raises(ModelError, match="execution_providers: onnxruntime here has no Abacus"),
        float_session(ir.from_proto(mlp()), [], ["Abacus"], 1),
    ):
        pass


def test_what_onnxruntime_cannot_run_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Magic", ["x"], ["h"], domain="elsewhere"),
            node("Relu", "h", "y"),
            node("Add", "y y", "z"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (16, 32))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (16, 32))],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    pipeline = Pipeline(load_float_model(tmp_path / "m.onnx"), CalibrationData(FEED))
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        pipeline.quantize(QuantConfig())


def test_data_that_the_graph_cannot_take_is_refused() -> None:
    model = build([node("MatMul", "x w", "y")], {"x": ["N", "M"]}, {"w": floats(32, 4)}, "y")
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        quantize(model, {"x": floats(2, 31)})
