"""FastFinetune on real models: error, accuracy and time of every algorithm, against nearest rounding.

    python -m benchmarks.finetune MODEL.onnx ... --data CALIBRATION.npz [--test LABELLED.npz]
        [--quark PYTHON] [--iterations 1000]

Seconds are those of the clock, and in brackets of the processor. L2 is the mean of squared differences
of the outputs on the calibration data (and in brackets on the test data, which no algorithm saw). With
``--quark``, AMD Quark's own FastFinetune runs with the same model, data and iterations in that interpreter
(``pip install amd-quark torch`` there), and its model is evaluated here; the last column then is its time
over ours for the same algorithm.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from autosearch.job import DataSource, load_data
from quant import CalibrationData, Pipeline, QuantConfig, load_float_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"

SETTINGS: dict[str, dict[str, Any]] = {
    "int8": {"weight_type": "QInt8"},
    "int4 per channel": {"weight_type": "QInt4", "per_channel": True},
}
ALGORITHMS: dict[str, dict[str, Any] | None] = {
    "nearest": None,
    "adaround": {"OptimAlgorithm": "adaround"},
    "adaround, 1000 iterations": {"OptimAlgorithm": "adaround", "NumIterations": 1000},
    "adaquant": {"OptimAlgorithm": "adaquant"},
    "gptq": {"OptimAlgorithm": "gptq"},
    "gptq, all columns": {"OptimAlgorithm": "gptq", "MaxColumns": None},
    "gptq, ReluAware": {"OptimAlgorithm": "gptq", "ReluAware": True},
    "gptq, biases too": {"OptimAlgorithm": "gptq", "UpdateBias": True},
}

QUARK = """
import sys, time
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import CalibrationDataReader
from quark.onnx import ModelQuantizer, QuantType
from quark.onnx.quantization.config import Config, QuantizationConfig

source, target, data, batch, algorithm, iterations = sys.argv[1:]


class Reader(CalibrationDataReader):
    def __init__(self):
        names = [value.name for value in onnx.load(source).graph.input]
        arrays = {name: value for name, value in np.load(data).items() if name in names}
        count = len(next(iter(arrays.values())))
        step = int(batch)
        self.feeds = [{n: a[i : i + step] for n, a in arrays.items()} for i in range(0, count, step)]
        self.rewind()

    def rewind(self):
        self.items = iter(self.feeds)

    def reset_iter(self):
        self.rewind()

    def __len__(self):
        return len(self.feeds)

    def get_next(self):
        return next(self.items, None)


finetune = {"DataSize": 256, "NumIterations": int(iterations), "OptimAlgorithm": algorithm, "BatchSize": 1}
finetune["LearningRate"] = 0.1 if algorithm == "adaround" else 1e-5
config = QuantizationConfig(
    calibrate_method=CalibrationMethod.MinMax,
    activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8,
    include_cle=False,
    include_fast_ft=True,
    extra_options={"FastFinetune": finetune},
)
reader = Reader()
start = time.perf_counter()
ModelQuantizer(Config(global_quant_config=config)).quantize_model(source, target, reader)
print("SECONDS", time.perf_counter() - start)
"""


def outputs(model: str | bytes, data: CalibrationData) -> NDArray[np.float32]:
    """The first output, over all batches."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in data])


class Scores:
    """Errors of candidates on calibration and test data, and their accuracy."""

    def __init__(self, model: Path, data: CalibrationData, test: Path | None, batch_size: int) -> None:
        self.sets = [data]
        self.labels = None
        if test is not None:
            self.labels = np.load(test)["labels"]
            name = next(iter(data.feeds[0]))
            images = np.load(test)[name]
            self.sets.append(CalibrationData([{name: images[i : i + 50]} for i in range(0, len(images), 50)]))
        self.wanted = [outputs(str(model), part) for part in self.sets]

    def line(self, model: str | bytes) -> str:
        """L2 (L2 on test data), accuracy."""
        got = [outputs(model, part) for part in self.sets]
        errors = [float(np.mean((a - b) ** 2)) for a, b in zip(self.wanted, got, strict=True)]
        text = f"{errors[0]:9.3e}" + (f" ({errors[1]:9.3e})" if len(errors) > 1 else "")
        if self.labels is None:
            return text
        own, floating = (np.mean(scores[1].argmax(1) == self.labels) for scores in (got, self.wanted))
        return f"{text}  {own:.4f} (float {floating:.4f})"


def quark(python: Path, model: Path, data: Path, batch_size: int, algorithm: str, iterations: int) -> Any:
    """Seconds, and the bytes of its model."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quark.onnx"
        arguments = [str(model), str(target), str(data), str(batch_size), algorithm, str(iterations)]
        done = subprocess.run(
            [str(python), "-c", QUARK, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        seconds = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("SECONDS")]
        if not seconds or not target.exists():
            raise SystemExit(f"quark failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return float(seconds[0]), target.read_bytes()


def measure(model: Path, options: argparse.Namespace) -> None:
    """Prints one model's figures."""
    source = DataSource(path=options.data, batch_size=options.batch_size)
    floating = load_float_model(model)
    data = load_data(source, floating.inputs)
    scores = Scores(model, data, options.test, options.batch_size)
    peers: dict[str, float] = {}
    if options.quark is not None:
        for algorithm in ("adaround", "adaquant"):
            arguments = (model, options.data, options.batch_size, algorithm, options.iterations)
            peers[algorithm], result = quark(options.quark, *arguments)
            title = f"quark {algorithm}, {options.iterations}"
            spent = f"{peers[algorithm]:7.2f} s {'':9}"
            print(f"{model.stem:14} {'int8':17} {title:26} {spent}{scores.line(result)}")
    for setting, weights in SETTINGS.items():
        for title, finetune in ALGORITHMS.items():
            config = QuantConfig(
                activation_type="QUInt8",
                include_fast_ft=finetune is not None,
                extra_options={"FastFinetune": finetune or {}},
                **weights,
            )
            pipeline = Pipeline(floating, data)  # nothing is shared: the time of one call
            start, used = time.perf_counter(), time.process_time()
            quantized = pipeline.quantize(config)
            seconds, used = time.perf_counter() - start, time.process_time() - used
            own = peers.get((finetune or {}).get("OptimAlgorithm", ""))
            faster = f"  {own / seconds:5.1f} x" if own and setting == "int8" else ""
            result = quantized.standalone().SerializeToString()
            spent = f"{seconds:7.2f} s ({used:5.2f})"
            print(f"{model.stem:14} {setting:17} {title:26} {spent}  {scores.line(result)}{faster}")


def main() -> None:
    """Measures every model named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, default=[EXAMPLE / "digits_cnn.onnx"])
    parser.add_argument("--data", type=Path, default=EXAMPLE / "calibration.npz")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quark", type=Path, metavar="PYTHON")
    parser.add_argument("--iterations", type=int, default=1000)
    options = parser.parse_args()
    for model in options.models:
        measure(model, options)


if __name__ == "__main__":
    main()
