"""Time and memory of quantizing a large transformer whose statistics are known.

    python -m benchmarks.quantize_speed [--layers 8] [--threads 0]

Says what one more configuration of a search costs where only the weights have to be quantized: the
time of `Pipeline.quantize` and of saving the result, and the most memory that the process took beyond
what it had, against the size of the float weights. Then it opens the result in onnxruntime.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant import CalibrationData, Pipeline, QuantConfig, StageCache, load_float_model
from quant.graph.mapped_model import open_mapped

WIDTH, VOCABULARY, TOKENS = 512, 16_384, 16
_MIB = 1 << 20
_CONFIGURATIONS = {
    "weights int8": {},
    "per channel": {"per_channel": True},
    "weights int16": {"weight_type": "QInt16", "activation_type": "QInt16"},
    "float weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "excluded": {"nodes_to_exclude": ["embed", "up0", "down0", "up1", "down1"]},
}


def transformer(layers: int) -> onnx.ModelProto:
    """Embedding, then blocks of attention over the tokens and a multilayer perceptron; 8 x 512^2 each."""
    rng = np.random.default_rng(0)
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def matmul(source: str, name: str, rows: int, columns: int) -> str:
        weight = rng.normal(size=(rows, columns), scale=rows**-0.5).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [source, constant(f"{name}_w", weight)], [f"{name}_y"], name))
        return f"{name}_y"

    def op(op_type: str, sources: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op_type, sources, [f"{name}_y"], name, **attributes))
        return f"{name}_y"

    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    x = op("Gather", [constant("embedding", table), "tokens"], "embed")
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    for i in range(layers):
        q, k, v = (matmul(x, f"{part}{i}", WIDTH, WIDTH) for part in ("query", "key", "value"))
        scores = op("MatMul", [q, op("Transpose", [k], f"turned{i}", perm=[0, 2, 1])], f"scores{i}")
        mixed = op("MatMul", [op("Softmax", [scores], f"softmax{i}", axis=-1), v], f"mixed{i}")
        x = op("Add", [x, matmul(mixed, f"out{i}", WIDTH, WIDTH)], f"attended{i}")
        scale, shift = constant(f"scale{i}", ones), constant(f"shift{i}", zeros)
        x = op("LayerNormalization", [x, scale, shift], f"norm{i}", axis=-1)
        hidden = op("Relu", [matmul(x, f"up{i}", WIDTH, 2 * WIDTH)], f"relu{i}")
        x = op("Add", [x, matmul(hidden, f"down{i}", 2 * WIDTH, WIDTH)], f"fed{i}")
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", TOKENS])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", TOKENS, WIDTH])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@contextmanager
def watched() -> Iterator[list[float]]:
    """Seconds, and the greatest growth of the resident memory in MiB, once it is over."""
    seen: list[float] = []
    stop = threading.Event()
    before = peak = resident_mib()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, resident_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        yield seen
    finally:
        seen.append(time.perf_counter() - start)
        stop.set()
        thread.join()
        seen.append(max(peak, resident_mib()) - before)


def work(folder: Path, tokens: NDArray[np.int64], digest: str, directory: Path, label: str) -> None:
    """What a second process takes, with and without what the first one has left in its cache."""
    before = resident_mib()
    start = time.perf_counter()
    cache = StageCache(directory)
    model = open_mapped(folder / "model.onnx", digest, cache)
    pipeline = Pipeline(model, CalibrationData({"tokens": tokens}), cache)
    seconds = time.perf_counter() - start
    del model
    gc.collect()
    opened = resident_mib() - before
    pipeline.quantize(QuantConfig()).save(folder / "out" / "worker.onnx")
    gc.collect()
    print(
        f"{label}: open in {seconds:.2f} s, {opened:.0f} MiB of its own then,"
        f" {resident_mib() - before:.0f} after a configuration"
    )


def resident_mib() -> float:
    """Memory of this process alone: pages of files are not counted, which others may map, too."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save_model(transformer(options.layers), str(folder / "model.onnx"))
        size_mib = (folder / "model.onnx").stat().st_size / _MIB
        print(f"float model {size_mib:.0f} MiB")
        with watched() as seen:
            model = load_float_model(folder / "model.onnx")
        print(f"{'load':>14}: {seen[0]:6.2f} s, {seen[1]:6.0f} MiB more at most")
        tokens = np.random.default_rng(1).integers(0, VOCABULARY, size=(8, TOKENS))
        cache = StageCache(folder / "cache")
        pipeline = Pipeline(model, CalibrationData({"tokens": tokens}), cache, threads=options.threads)
        with watched() as seen:  # the statistics
            pipeline.quantize(QuantConfig(weight_type="QUInt8"))
        print(f"{'first':>14}: {seen[0]:6.2f} s, {seen[1]:6.0f} MiB more at most")
        (folder / "out").mkdir()
        for label, changes in _CONFIGURATIONS.items():
            one(pipeline, QuantConfig(**changes), folder / "out" / f"{label.replace(' ', '_')}.onnx", label)
        written = sum(file.stat().st_size for file in (folder / "out").iterdir())
        print(f"{len(_CONFIGURATIONS)} models take {written / _MIB:.0f} MiB on disk")
        digest = model.digest
        for directory, label in ((folder / "cache", "mapped"), (folder / "other cache", "of its own")):
            worker = multiprocessing.get_context("spawn").Process(
                target=work, args=(folder, tokens, digest, directory, f"a worker with weights {label}")
            )
            worker.start()
            worker.join()


def one(pipeline: Pipeline, config: QuantConfig, path: Path, label: str) -> None:
    """Quantizes, saves and opens with one configuration, twice."""
    for turn in ("new", "again"):
        with watched() as quantizing:
            quantized = pipeline.quantize(config)
        with watched() as saving:
            quantized.save(path)
        del quantized
        print(
            f"{label:>14}, {turn:5}: {quantizing[0]:5.2f} s, {quantizing[1]:5.0f} MiB more at most;"
            f" save {saving[0]:5.2f} s, {saving[1]:5.0f} MiB"
        )
    with watched() as opening:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    print(f"{'':>14}  session {opening[0]:5.2f} s, {opening[1]:5.0f} MiB")


if __name__ == "__main__":
    main()
