from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from quant import CalibrationData, Pipeline, QuantConfig, QuantizedModel, load_float_model
from quant.graph import shared_weights
from quant.graph.shared_weights import (
    ALIGNMENT,
    SharedWeights,
    external_files,
    is_shared_weights,
    share_weights,
)
from tests.quant.graphs import build, floats, initializers, node, pipeline, run

FEED = {"x": floats(16, 32)}
EXCLUDED = QuantConfig(nodes_to_exclude=["Gemm_h", "Gemm_r"])


@pytest.fixture(autouse=True)
def _low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "SMALLEST_BYTES", 1000)
    monkeypatch.setattr(shared_weights, "LEAST_TOTAL_BYTES", 10_000)


def mlp() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w b", "h"), node("Gemm", "h v", "r"), node("Gemm", "r u", "y")]
    constants = {"w": floats(32, 63), "b": floats(63), "v": floats(63, 64), "u": floats(64, 8)}
    return build(nodes, {"x": ["N", 32]}, constants, "y")


def inline(config: QuantConfig, monkeypatch: pytest.MonkeyPatch) -> QuantizedModel:
    """What comes out where nothing is shared."""
    with monkeypatch.context() as patch:
        patch.setattr(shared_weights, "LEAST_TOTAL_BYTES", 1 << 30)
        quantized = pipeline(mlp(), FEED).quantize(config)
    assert quantized.weights is None
    return quantized


def run_file(path: Path) -> Any:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, FEED)[0]


def references(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def test_large_float_weights_are_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    wanted = inline(EXCLUDED, monkeypatch)
    assert quantized.weights is not None
    name = quantized.weights.name
    found = references(quantized.model)
    assert set(found) == {"w", "v"}  # not the short b, not the quantized u
    assert {entry["location"] for entry in found.values()} == {name}
    quantized.save(tmp_path / "q.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx", name]
    data = (tmp_path / name).read_bytes()
    assert name == f"weights-{hashlib.sha256(data).hexdigest()[:16]}.data"
    assert is_shared_weights(name)
    for key in ("w", "v"):
        offset, length = int(found[key]["offset"]), int(found[key]["length"])
        assert offset % ALIGNMENT == 0
        assert data[offset : offset + length] == initializers(mlp())[key].tobytes()
    np.testing.assert_array_equal(run_file(tmp_path / "q.onnx"), run(wanted.model, FEED)[0])
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)
    assert external_files(tmp_path / "q.onnx") == {name}


def test_a_model_that_stands_alone_is_as_it_was_without_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    wanted = inline(EXCLUDED, monkeypatch)
    before = quantized.model.SerializeToString(deterministic=True)
    assert quantized.standalone() == wanted.model
    assert wanted.standalone() == wanted.model
    assert quantized.model.SerializeToString(deterministic=True) == before


def test_candidates_of_one_placement_share_one_file(tmp_path: Path) -> None:
    candidates = pipeline(mlp(), FEED)
    configs = [
        EXCLUDED,
        EXCLUDED.replace(calibrate_method="Percentile"),
        EXCLUDED.replace(weight_type="QUInt8"),
    ]
    for index, config in enumerate(configs):
        candidates.quantize(config).save(tmp_path / f"{index}.onnx")
    (weights,) = tmp_path.glob("weights-*")
    first = weights.stat()
    assert all(external_files(tmp_path / f"{index}.onnx") == {weights.name} for index in range(3))
    candidates.quantize(configs[0]).save(tmp_path / "3.onnx")
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_another_pipeline_and_name_give_the_same_bytes(tmp_path: Path) -> None:
    for folder, name in (("a", "q"), ("b", "another")):
        (tmp_path / folder).mkdir()
        pipeline(mlp(), FEED).quantize(EXCLUDED).save(tmp_path / folder / f"{name}.onnx")
    a, b = (sorted((tmp_path / folder).iterdir(), key=lambda path: path.suffix) for folder in "ab")
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\xff" + data[1:], lambda _: b""])
def test_damaged_weights_are_written_again(damage: Any, tmp_path: Path) -> None:
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    quantized.save(tmp_path / "q.onnx")
    (path,) = tmp_path.glob("weights-*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    os.utime(path, (1, 1))
    quantized.save(tmp_path / "p.onnx")
    assert path.read_bytes() == whole


def test_weights_deleted_while_the_model_was_written_are_there_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).suffix == ".onnx":
            next(tmp_path.glob("weights-*")).unlink()

    monkeypatch.setattr("os.replace", replace)
    quantized.save(tmp_path / "q.onnx")
    assert len(list(tmp_path.glob("weights-*"))) == 1


def test_all_goes_to_one_file_where_that_is_asked_for(tmp_path: Path) -> None:
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    quantized.save(tmp_path / "q.onnx", external_data=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx", "q.onnx.data"]
    assert external_files(tmp_path / "q.onnx") == {"q.onnx.data"}
    np.testing.assert_array_equal(run_file(tmp_path / "q.onnx"), run(quantized.standalone(), FEED)[0])
    loaded = onnx.load(tmp_path / "q.onnx")
    got, wanted = initializers(loaded), initializers(quantized.standalone())
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], wanted[name]) for name in wanted)


def test_models_beyond_what_protobuf_can_hold_bring_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant.graph.save._LARGEST_BYTES", 500)
    quantized = pipeline(mlp(), FEED).quantize(EXCLUDED)
    quantized.save(tmp_path / "q.onnx")
    assert external_files(tmp_path / "q.onnx") == {"q.onnx.data"}
    np.testing.assert_array_equal(run_file(tmp_path / "q.onnx"), run(quantized.standalone(), FEED)[0])


def test_float_weights_behind_their_pairs_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QuantConfig(extra_options={"AddQDQPairToWeight": True})
    quantized = pipeline(mlp(), FEED).quantize(config)
    quantized.save(tmp_path / "q.onnx")
    assert set(references(quantized.model)) == {"w", "v", "u"}
    np.testing.assert_array_equal(
        run_file(tmp_path / "q.onnx"), run(inline(config, monkeypatch).model, FEED)[0]
    )


def test_weights_from_an_external_file_are_shared(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "f.onnx", save_as_external_data=True, location="f.bin", size_threshold=0)
    read = Pipeline(load_float_model(tmp_path / "f.onnx"), CalibrationData(FEED)).quantize(EXCLUDED)
    own = pipeline(mlp(), FEED).quantize(EXCLUDED)
    assert read.weights is not None and own.weights is not None
    assert read.weights.name == own.weights.name
    assert read.standalone() == own.standalone()


def graph_of(**arrays: Any) -> ir.Graph:
    values = []
    for name, tensor in arrays.items():
        tensor = tensor if isinstance(tensor, ir.TensorProtocol) else ir.tensor(tensor, name=name)
        values.append(ir.Value(name=name, const_value=tensor))
    return ir.Graph([], [], nodes=[], initializers=values)


def test_every_element_type_is_stored_as_onnx_has_it() -> None:
    types = [np.float32, np.float16, np.float64, np.int64, np.int8, np.bool_]
    arrays = {np.dtype(t).name: (100 * floats(5000)).astype(t) for t in types}
    bfloat16 = numpy_helper.to_array(
        onnx.helper.make_tensor("b", onnx.TensorProto.BFLOAT16, [5000], floats(5000))
    )
    graph = graph_of(**arrays, bfloat16=bfloat16, turned=floats(100, 50).T)
    wanted = {name: value.const_value.tobytes() for name, value in graph.initializers.items()}
    weights = share_weights(graph)
    assert weights is not None
    content = b"".join(weights.content())
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert content[tensor.offset : tensor.offset + tensor.length] == wanted[name]


def test_strings_and_packed_types_are_left_alone() -> None:
    words = ir.StringTensor([b"word"] * 10_000, shape=ir.Shape([10_000]), name="words")
    nibbles = np.arange(40_000) % 7
    packed = ir.tensor(nibbles.astype(np.int8), dtype=ir.DataType.INT4, name="nibbles")
    graph = graph_of(words=words, nibbles=packed, table=floats(4000))
    weights = share_weights(graph)
    assert weights is not None
    shared = [n for n, v in graph.initializers.items() if isinstance(v.const_value, ir.ExternalTensor)]
    assert shared == ["table"]


@pytest.mark.parametrize(("rows", "shared"), [(9, False), (10, True)])
def test_the_limit_is_of_all_together(rows: int, shared: bool) -> None:
    arrays = {f"t{row}": floats(250) for row in range(rows)}
    assert (share_weights(graph_of(**arrays, small=floats(249))) is not None) == shared


def test_an_empty_graph_shares_nothing() -> None:
    assert share_weights(graph_of()) is None


def test_files_that_are_no_models_refer_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    assert external_files(tmp_path / "m.onnx") == frozenset()
    with pytest.raises(FileNotFoundError):
        external_files(tmp_path / "none.onnx")


def test_references_in_subgraphs_are_found(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(floats(4), "inner")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere.bin")
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    inner = onnx.helper.make_graph([node("Identity", "inner", "y")], "then", [], [value], [tensor])
    constant = onnx.helper.make_node("Constant", [], ["y"])
    constant.attribute.append(onnx.helper.make_attribute("value", tensor))
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    for index, each in enumerate((constant, branch)):
        model = onnx.helper.make_model(onnx.helper.make_graph([each], "g", [], [value]))
        (tmp_path / f"{index}.onnx").write_bytes(model.SerializeToString())
        assert external_files(tmp_path / f"{index}.onnx") == {"elsewhere.bin"}


def test_names() -> None:
    weights = SharedWeights(((0, np.arange(5, dtype=np.uint8)),))
    assert is_shared_weights(weights.name)
    for other in ("weights-0123.data", "weights-0123456789abcdef.data.tmp", "q.onnx.data"):
        assert not is_shared_weights(other)
