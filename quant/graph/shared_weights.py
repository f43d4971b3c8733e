"""Weights that stay float, in one file that all candidates of a search refer to.

Candidates differ in their scales and integers; what stays float (embeddings, excluded nodes) is the
same in all of them. Where that is large, a candidate's initializers refer to a file that is named by
its content: it is written once, onnxruntime maps it into memory, and the page cache holds it once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from quant.cache import write_atomically

SMALLEST_BYTES = 1 << 16
"""Of a tensor that is worth a reference."""
LEAST_TOTAL_BYTES = 1 << 24
"""Of such tensors together; below it a model without a second file is worth more."""

ALIGNMENT = 4096
"""Tensors begin at pages, as onnxruntime maps them."""

_CHUNK = 1 << 22
_NAME = re.compile(r"weights-[0-9a-f]{16}\.data")


@dataclass(frozen=True)
class SharedWeights:
    """The content of such a file.

    Attributes:
        parts: Offset and bytes of each tensor, in order and without overlap; the bytes are views of
            the float model's weights.
    """

    parts: tuple[tuple[int, NDArray[np.uint8]], ...]

    @cached_property
    def name(self) -> str:
        """The file's: ``weights-`` and the first 16 hexadecimal digits of its sha256."""
        return _name_of(self.content())

    def content(self) -> Iterator[memoryview]:
        """The file's bytes in pieces; zeros between tensors."""
        position = 0
        for offset, data in self.parts:
            yield memoryview(bytes(offset - position))
            yield data.data
            position = offset + data.nbytes

    def write(self, folder: Path) -> None:
        """Writes the file, if it is not there already, or not whole.

        Raises:
            OSError: If it cannot be written; nothing is left behind.
        """
        path = folder / self.name
        with suppress(FileNotFoundError):
            stat = path.stat()
            if _name_of_file(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) == self.name:
                return
        write_atomically(path, self.content())

    def data(self, tensor: onnx.TensorProto) -> NDArray[np.uint8]:
        """The bytes that an initializer refers to."""
        offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
        return next(data for start, data in self.parts if start == offset)

    def put_into(self, model: onnx.ModelProto) -> None:
        """Replaces the references of a model by the data, in place."""
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.raw_data = self.data(tensor).tobytes()
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")


def share_weights(graph: ir.Graph) -> SharedWeights | None:
    """Replaces the large initializers of a graph by references, in place.

    Returns:
        What they refer to; None if all is left because it is not large enough.
    """
    large = {
        value: data
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.nbytes >= SMALLEST_BYTES
        and (data := _bytes_of(value.const_value)) is not None
    }
    if sum(data.nbytes for data in large.values()) < LEAST_TOTAL_BYTES:
        return None
    offset, parts = 0, []
    for data in large.values():
        parts.append((offset, data))
        offset = aligned(offset + data.nbytes)
    weights = SharedWeights(tuple(parts))
    for value, (offset, data) in zip(large, parts, strict=True):
        assert value.const_value is not None and value.name is not None
        shape = ir.Shape(value.const_value.shape.numpy())
        value.const_value = ir.ExternalTensor(
            weights.name, offset, data.nbytes, value.const_value.dtype, shape=shape, name=value.name
        )
    return weights


def _name_of(content: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    return f"weights-{digest.hexdigest()[:16]}.data"


@lru_cache(maxsize=64)
def _name_of_file(path: Path, inode: int, size: int, modified_ns: int) -> str:
    """What one version of a file should be called, which many candidates refer to."""
    with path.open("rb") as stream:
        return _name_of(iter(partial(stream.read, _CHUNK), b""))


def aligned(offset: int) -> int:
    """The next offset at which a tensor may begin."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def is_shared_weights(name: str) -> bool:
    """Whether a file's name is that of shared weights."""
    return _NAME.fullmatch(name) is not None


def external_files(path: Path) -> frozenset[str]:
    """Names of the files that a model's file refers to, as they are written there; none if it is no model.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError:
        return frozenset()
    return frozenset(
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and tensors of attributes, of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(inner)


def _bytes_of(tensor: ir.TensorProtocol) -> NDArray[np.uint8] | None:
    """A tensor's bytes as ONNX stores them, without a copy; None for strings and types packed into bytes."""
    if tensor.dtype is ir.DataType.STRING:
        return None
    array: NDArray[Any] = np.ascontiguousarray(tensor.numpy())
    if array.nbytes != tensor.nbytes or array.dtype.byteorder == ">":
        return None
    return array.reshape(-1).view(np.uint8)
