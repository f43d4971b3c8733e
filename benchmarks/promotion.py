"""Automatic mixed precision on models that plain int8 breaks, and what it costs.

python -m benchmarks.promotion [model.onnx data.npz input]

Error is relative to the best guess without a model, of the worst part of the outputs; agree is the share of
samples with the float model's class. The floor is the float model's own time for what is measured: groups
x batches. A model that is named gets outliers in its residual stream first, if it is a transformer: a
constant is added to two channels of the first sum that a LayerNormalization reads, and the gains of all
LayerNormalizations are fitted to what they gave before.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quant import CalibrationData, FloatModel, Pipeline, QuantConfig
from tests.quant.mixed_precision.models import detector, encoder, recurrent, swish

Feeds = list[dict[str, NDArray[np.float32]]]

OUTLIERS = {3: 60.0, 40: -45.0}
"""Channel -> what is added to it."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", help="a transformer, an archive and the name of its input")
    given = parser.parse_args().model
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    cases = {make.__name__: make() for make in (encoder, detector, swish, recurrent)}
    if given:
        path, archive, name = given
        with np.load(archive) as arrays:
            samples = arrays[name]
        feeds = [{name: samples[start : start + 32]} for start in range(0, len(samples), 32)]
        cases[Path(path).stem] = (onnx.load(path), feeds)
        cases[f"{Path(path).stem} with outliers"] = (with_outliers(onnx.load(path), feeds), feeds)
    print(f"{'model':28} {'granularity':11} {'groups':>6} {'wide':>4} {'error':>19} {'agree':>12}", end="")
    print(f" {'8-bit MACs':>10} {'weights':>7} {'activations':>11} {'seconds':>7} {'floor':>6}")
    for title, (model, feeds) in cases.items():
        for granularity in ("tensor", "node", "block"):
            report(title, model, feeds, granularity)


def report(title: str, model: onnx.ModelProto, feeds: Feeds, granularity: str) -> None:
    """Prints a line."""
    data = model.SerializeToString()
    float_model = FloatModel(Path(title), ir.from_proto(model), hashlib.sha256(data).hexdigest())
    pipeline = Pipeline(float_model, CalibrationData(feeds), threads=1)
    plain = pipeline.quantize(QuantConfig(per_channel=True))
    options = {"AutoMixprecision": {"Granularity": granularity}}
    start = time.perf_counter()
    mixed = pipeline.quantize(QuantConfig(per_channel=True, include_auto_mp=True, extra_options=options))
    seconds = time.perf_counter() - start
    found = mixed.promotion
    assert found is not None
    measured = feeds if title == "recurrent" else feeds[: -(-32 // len(next(iter(feeds[0].values()))))]
    start = time.perf_counter()
    wanted = outputs(model, feeds)
    once = (time.perf_counter() - start) * len(measured) / len(feeds)
    agree = [
        float((classes(wanted) == classes(outputs(q.standalone(), feeds))).mean()) for q in (plain, mixed)
    ]
    error = f"{found.error_before:9.3g} {found.error:9.3g}"
    print(f"{title:28} {granularity:11} {found.groups:6} {len(found.changed):4} {error}", end="")
    print(f"  {agree[0]:5.3f} {agree[1]:5.3f} {found.narrow.macs:10.1%} {found.narrow.weights:7.1%}", end="")
    print(f" {found.narrow.activations:11.1%} {seconds:7.2f} {once * found.groups:6.2f}")


def outputs(model: onnx.ModelProto, feeds: Feeds) -> NDArray[np.float32]:
    """The first output on all feeds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def classes(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The greatest of every row; of a detector, where scores pass one half."""
    return (values[..., 4:] > 0.5).astype(np.int64) if values.ndim == 3 else values.argmax(axis=-1)


def with_outliers(model: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """The model with huge channels in its residual stream, and gains that make them small again."""
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    wanted = inner(model, [node.output[0] for node in norms], feeds)
    stream = norms[0].input[0]
    width = wanted[0].shape[-1]
    constant = np.zeros(width, np.float32)
    constant[list(OUTLIERS)] = list(OUTLIERS.values())
    at = next(index for index, node in enumerate(model.graph.node) if stream in node.output)
    for node in model.graph.node:
        node.input[:] = [f"{stream}_shifted" if name == stream else name for name in node.input]
    model.graph.node.insert(
        at + 1, helper.make_node("Add", [stream, "outliers"], [f"{stream}_shifted"], "outliers")
    )
    model.graph.initializer.append(numpy_helper.from_array(constant, "outliers"))
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, target in zip(norms, wanted, strict=True):
        gain, shift = (initializers[name] for name in node.input[1:3])
        (found,) = inner(model, [node.output[0]], feeds)
        old_gain, old_shift = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in (gain, shift))
        normal = (found - old_shift) / old_gain
        rows, targets = (values.reshape(-1, width).astype(np.float64) for values in (normal, target))
        centred = rows - rows.mean(axis=0)
        slope = (centred * targets).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-9)
        offset = targets.mean(axis=0) - slope * rows.mean(axis=0)
        gain.CopyFrom(numpy_helper.from_array(slope.astype(np.float32), gain.name))
        shift.CopyFrom(numpy_helper.from_array(offset.astype(np.float32), shift.name))
    return model


def inner(model: onnx.ModelProto, names: list[str], feeds: Feeds) -> list[NDArray[np.float32]]:
    """Values of inner tensors on all feeds."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(wider.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(names, feed) for feed in feeds]
    return [np.concatenate(values) for values in zip(*found, strict=True)]


if __name__ == "__main__":
    main()
