from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from quant import CalibrationData, FloatModel, ModelError, Pipeline, QuantConfig, StageCache, load_float_model
from quant.graph import mapped_model, shared_weights
from quant.graph.mapped_model import decode_model, encode_model, map_weights, open_mapped
from tests.quant.graphs import build, float_model, floats, node, serialized

FEED = {"x": floats(16, 32)}


@pytest.fixture(autouse=True)
def _low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "SMALLEST_BYTES", 1000)
    monkeypatch.setattr(shared_weights, "LEAST_TOTAL_BYTES", 10_000)
    monkeypatch.setattr(mapped_model, "LEAST_BYTES", 10_000)
    monkeypatch.setattr("quant.cache.disk._MAPPED_BYTES", 1000)


def mlp() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")]
    constants = {"w": floats(32, 63), "b": floats(63), "v": floats(63, 64)}
    return build(nodes, {"x": ["N", 32]}, constants, "y")


def write(folder: Path, model: onnx.ModelProto | None = None) -> FloatModel:
    onnx.save(model or mlp(), folder / "m.onnx")
    return load_float_model(folder / "m.onnx")


def base_of(array: Any) -> Any:
    """What an array is a view of, in the end."""
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


def test_the_next_process_has_the_weights_of_the_cache(tmp_path: Path) -> None:
    model = write(tmp_path)
    assert map_weights(model, StageCache(tmp_path / "cache")).model is model.model
    other = StageCache(tmp_path / "cache")
    (tmp_path / "m.onnx").unlink()
    mapped = open_mapped(tmp_path / "m.onnx", model.digest, other)
    assert other.counts["float model"].disk_hits == 1
    assert (mapped.path, mapped.digest) == (model.path, model.digest)
    assert mapped.inputs == model.inputs
    for name in ("w", "v"):
        array = mapped.model.graph.initializers[name].const_value.numpy()
        assert isinstance(base_of(array), mmap.mmap)
        assert array.flags.aligned and not array.flags.writeable
    assert serialized(mapped.model) == serialized(model.model)


@pytest.mark.parametrize("config", [{}, {"include_cle": True, "per_channel": True}, {"include_sq": True}])
def test_mapped_weights_give_the_same_model(config: dict[str, Any], tmp_path: Path) -> None:
    model = write(tmp_path)
    excluded = QuantConfig(nodes_to_exclude=["Gemm_y"], **config)
    made = []
    for directory in (None, tmp_path / "cache", tmp_path / "cache"):
        pipeline = Pipeline(model, CalibrationData(FEED), StageCache(directory), threads=1)
        made.append(pipeline.quantize(excluded).standalone().SerializeToString(deterministic=True))
    assert made[0] == made[1] == made[2]


def test_entries_may_be_evicted_while_they_are_used(tmp_path: Path) -> None:
    model = write(tmp_path)
    map_weights(model, StageCache(tmp_path / "cache"))
    mapped = open_mapped(model.path, model.digest, StageCache(tmp_path / "cache"))
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.unlink()
    assert serialized(mapped.model) == serialized(model.model)
    again = open_mapped(model.path, model.digest, StageCache(tmp_path / "cache"))
    assert serialized(again.model) == serialized(model.model)


def test_without_an_entry_the_file_is_read(tmp_path: Path) -> None:
    model = write(tmp_path)
    assert open_mapped(model.path, model.digest, StageCache()).digest == model.digest
    with pytest.raises(ModelError, match="no file"):
        open_mapped(tmp_path / "none.onnx", model.digest, StageCache(tmp_path / "cache"))


def test_a_file_that_has_changed_is_not_taken_for_the_same(tmp_path: Path) -> None:
    model = write(tmp_path)
    map_weights(model, StageCache(tmp_path / "cache"))
    changed = mlp()
    changed.doc_string = "another"
    write(tmp_path, changed)
    mapped = open_mapped(model.path, model.digest, StageCache(tmp_path / "cache"))
    assert serialized(mapped.model) == serialized(model.model)
    (entry,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    entry.write_bytes(b"damaged")
    for directory in (tmp_path / "cache", None):
        with pytest.raises(ModelError, match="has changed since"):
            open_mapped(model.path, model.digest, StageCache(directory))


def test_small_models_and_caches_in_memory_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = float_model(mlp())
    assert map_weights(model, StageCache()) is model
    monkeypatch.setattr(mapped_model, "LEAST_BYTES", 1 << 20)
    assert map_weights(model, StageCache(tmp_path)) is model
    assert not list(tmp_path.iterdir())


def test_external_data_are_mapped_already(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=5000)
    model = load_float_model(tmp_path / "m.onnx")
    assert map_weights(model, StageCache(tmp_path / "cache")) is model
    assert not (tmp_path / "cache").exists()


def test_a_round_trip_keeps_everything() -> None:
    proto = mlp()
    constant = numpy_helper.from_array(floats(3000), "inner")
    branch = helper.make_graph(
        [node("Add", "h shift", "z")],
        "branch",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(floats(63), "shift")],
    )
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=constant))
    proto.graph.node.append(helper.make_node("If", ["t"], ["k"], then_branch=branch, else_branch=branch))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(3000, dtype=np.int64), "ids"))
    proto.metadata_props.add(key="author", value="me")
    model = ir.from_proto(proto)
    data = b"".join(encode_model(model))
    assert serialized(decode_model(memoryview(data))) == serialized(model)


def test_many_small_tensors_travel_in_the_graph() -> None:
    weights = {f"w{index}": floats(4, 4, seed=index) for index in range(200)}
    sums = ["x", *(f"s{index}" for index in range(199)), "y"]
    nodes = [node("MatMul", f"{sums[i]} w{i}", sums[i + 1]) for i in range(200)]
    model = ir.from_proto(build(nodes, {"x": ["N", 4]}, weights, "y"))
    data = b"".join(encode_model(model))
    assert serialized(decode_model(memoryview(data))) == serialized(model)
