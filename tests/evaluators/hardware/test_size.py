import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from evaluators import EvaluationError
from evaluators.hardware.size import ModelSize
from tests.evaluators.graphs import affine, save, tensor


def weights_on_disk(path, location):
    """A model whose two weights lie in a file beside it."""
    model = onnx.load(affine(path))
    for initializer in model.graph.initializer:
        initializer.CopyFrom(numpy_helper.from_array(np.ones(600, np.float32), initializer.name))
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_a_model_in_one_file_has_its_size(tmp_path):
    path = affine(tmp_path / "m.onnx")
    assert ModelSize().measure(path) == (path.stat().st_size,)
    (metric,) = ModelSize().metrics
    assert (metric.name, metric.unit, metric.direction) == ("model_size", "B", "minimize")


def test_external_data_counts_once_and_whole(tmp_path):
    path = weights_on_disk(tmp_path / "m.onnx", "m.data")
    data = tmp_path / "m.data"
    assert data.stat().st_size >= 2 * 2400
    assert ModelSize().measure(path) == (path.stat().st_size + data.stat().st_size,)
    (tmp_path / "other.data").write_bytes(b"not its own")
    assert ModelSize().measure(path) == (path.stat().st_size + data.stat().st_size,)


def referring(name, location):
    value = numpy_helper.from_array(np.ones(2, np.float32), name)
    value.ClearField("raw_data")
    value.data_location = onnx.TensorProto.EXTERNAL
    value.external_data.add(key="location", value=location)
    return value


def test_tensors_of_bodies_attributes_and_functions_count(tmp_path):
    branch = helper.make_graph([], "branch", [], [tensor("inner", [2])], [referring("inner", "branch.data")])
    nodes = [
        helper.make_node("If", ["condition"], ["a"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["b"], value=referring("b", "constant.data")),
    ]
    graph = helper.make_graph(nodes, "graph", [tensor("condition", [], onnx.TensorProto.BOOL)], [])
    body = [helper.make_node("Constant", [], ["c"], value=referring("c", "function.data"))]
    function = helper.make_function("own", "f", [], ["c"], body, [helper.make_opsetid("", 21)])
    model = helper.make_model(graph, functions=[function])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    size = (tmp_path / "m.onnx").stat().st_size
    for name, length in (("branch.data", 1), ("constant.data", 10), ("function.data", 100)):
        (tmp_path / name).write_bytes(bytes(length))
        size += length
    assert ModelSize().measure(tmp_path / "m.onnx") == (size,)


def test_what_is_missing_or_no_model_is_named(tmp_path):
    path = weights_on_disk(tmp_path / "m.onnx", "m.data")
    (tmp_path / "m.data").unlink()
    with pytest.raises(EvaluationError, match=r"model_size: cannot read m\.data: No such file"):
        ModelSize().measure(path)
    with pytest.raises(EvaluationError, match=r"cannot read n\.onnx"):
        ModelSize().measure(tmp_path / "n.onnx")
    path.write_bytes(b"not a model")
    with pytest.raises(EvaluationError, match="no ONNX model"):
        ModelSize().measure(path)


def test_a_model_without_weights_has_a_size_too(tmp_path):
    path = save(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [tensor("x", [1])], [tensor("y", [1])]
    )
    assert ModelSize().measure(path) == (path.stat().st_size,)
