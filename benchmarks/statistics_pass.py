"""The pass that collects statistics, against one pass of the float model over the same data.

    python -m benchmarks.statistics_pass [MODEL.onnx ...] [--data CALIBRATION.npz] [--batch-sizes 32 1]
    python -m benchmarks.statistics_pass --memory [MODEL.onnx ...]

Seconds are the least of a few rounds in which every pass takes its turn, from the making of the session on;
those of the reference are without it. Memory is the peak of a process of its own for each measurement: one
batch through the float model, and a calibration by Percentile with 1 000 samples. It is measured on a model
with large activations as well, which is made here.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from autosearch.job import DataSource, load_data
from quant import CalibrationData, Pipeline, QuantConfig, load_float_model
from quant.calibration.collect import collect_statistics
from quant.graph.operators import place
from quant.graph.placement import PlacementOptions

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
SAMPLES = 1000
MEMORY_BATCH = 16


def float_session(model: Path) -> ort.InferenceSession:
    """A session as onnxruntime makes it by default."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def seconds(passes: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least time of each."""
    least = dict.fromkeys(passes, float("inf"))
    for _ in range(rounds):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def measure_time(path: Path, data: CalibrationData, rounds: int) -> None:
    """Prints one model's ratios."""
    model = Pipeline(load_float_model(path), data).transform(QuantConfig()).model
    placement = place(model.graph, PlacementOptions.of(QuantConfig(), ()))
    tensors = placement.calibrated
    session = float_session(path)
    found = seconds(
        {
            "float pass": lambda: [session.run(None, feed) for feed in data],
            "MinMax": lambda: collect_statistics(model, tensors, data, histograms=False),
            "histograms": lambda: collect_statistics(model, tensors, data, histograms=True),
        },
        rounds,
    )
    floor = found.pop("float pass")
    ratios = ", ".join(f"{name} {value / floor:.2f} x" for name, value in found.items())
    print(f"{path.name}: {len(data)} batches, {len(tensors)} tensors, float pass {floor:.4f} s: {ratios}")


def large_activations(path: Path) -> tuple[int, ...]:
    """Writes 16 convolutions on images of 128 x 128; returns the shape of a batch."""
    generator = np.random.default_rng(0)
    nodes, initializers, value = [], [], "x"
    for layer in range(16):
        shape = (16, 3 if layer == 0 else 16, 3, 3)
        weight = generator.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        initializers.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [value := f"r{layer}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"]))
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 128, 128])
    means = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 1, 1])
    graph = helper.make_graph(nodes, "large", [images], [means], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return (MEMORY_BATCH, 3, 128, 128)


def work(what: str, path: Path, shape: Sequence[int]) -> None:
    """In a process of its own: does it on random samples, a few batches that repeat, and prints its peak."""
    generator = np.random.default_rng(0)
    float_model = load_float_model(path)
    name = float_model.inputs[0].name
    batches = [{name: generator.normal(size=shape).astype(np.float32)} for _ in range(2)]
    repeated = (batches * -(-SAMPLES // (2 * shape[0])))[: -(-SAMPLES // shape[0])]
    if what == "float":
        float_session(path).run(None, batches[0])
    else:
        config = QuantConfig(calibrate_method="Percentile")
        Pipeline(float_model, CalibrationData(repeated)).quantize(config)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_memory(path: Path, shape: Sequence[int]) -> None:
    """Prints one model's peaks."""
    peaks = []
    for what in ("float", "calibrate"):
        command = [sys.executable, "-m", "benchmarks.statistics_pass", "--work", what, str(path)]
        command += ["--shape", *map(str, shape)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(
        f"{path.name}: one batch of {shape[0]} {peaks[0]:.0f} MB, Percentile on {SAMPLES} samples"
        f" {peaks[1]:.0f} MB, {peaks[1] - peaks[0]:+.0f} MB"
    )


def main() -> None:
    """Measures every model named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, default=[EXAMPLE / "digits_cnn.onnx"])
    parser.add_argument("--data", type=Path, default=EXAMPLE / "calibration.npz")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--work", choices=["float", "calibrate"], help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.models[0], options.shape)
        return
    for path in options.models:
        sizes = (32,) if options.memory else options.batch_sizes
        for size in sizes:
            data = load_data(DataSource(path=options.data, batch_size=size), load_float_model(path).inputs)
            if options.memory:
                (values,) = data.feeds[0].values()
                measure_memory(path, values.shape)
            else:
                measure_time(path, data, options.rounds)
    if options.memory:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "large_activations.onnx"
            measure_memory(path, large_activations(path))


if __name__ == "__main__":
    main()
