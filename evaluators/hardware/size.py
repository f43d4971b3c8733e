"""How many bytes a model takes on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from evaluators.errors import EvaluationError
from evaluators.metric import Metric
from evaluators.sessions import SessionConfig


class ModelSize:
    """The bytes of a model's file, and of the files with its external data, each counted once.

    A file of external data counts whole, also where other models refer to it.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One, "model_size"."""
        return (Metric("model_size", "B", "minimize"),)

    def measure(self, model_path: Path, session_config: SessionConfig = ()) -> tuple[float, ...]:
        """The size in bytes.

        Raises:
            EvaluationError: If a file is missing, or is no model.
        """
        try:
            model = onnx.load_model(model_path, load_external_data=False)
            paths = {model_path.parent / name for name in _external_files(model)}
            return (float(sum(path.stat().st_size for path in (model_path, *paths))),)
        except DecodeError as error:
            raise EvaluationError("model_size: the file is no ONNX model") from error
        except OSError as error:
            missing = Path(error.filename or model_path).name
            raise EvaluationError(f"model_size: cannot read {missing}: {error.strerror}") from error

    def __repr__(self) -> str:
        return "ModelSize()"


def _external_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold external data, relative to the model's folder."""
    nodes = (node for function in model.functions for node in function.node)
    return {
        entry.value
        for tensor in (*_tensors(model.graph), *_tensors_of_nodes(nodes))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Stored tensors of a graph and the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors(graph)
