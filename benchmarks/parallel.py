"""What worker processes bring and cost, and what the search itself costs.

    python -m benchmarks.parallel [grid] [finetune] [overhead] [memory] [--model MODEL.onnx] [--data DATA.npz]

grid, finetune: trials per second with n_jobs = 2 against n_jobs = 1 on one core, from the end of every
worker's first trial to that of the last one, each time on a cache that has the shared calibration alone.
overhead: time and memory of 10 000 trials that do nothing, in one process with SQLite. memory: what a worker
has for itself while it searches on a model of 100 MB, beyond a process that has imported onnxruntime alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autosearch import AutoSearch, Outcome, SearchResult
from autosearch import run as search_loop
from autosearch.job import DataSource, load_data
from autosearch.objective import Objective
from autosearch.workers import InProcess
from benchmarks.calibration_grid import EXAMPLE, GRID
from quant import CalibrationData, load_float_model

FINETUNING = {
    "calibrate_method": ["MinMax"],
    "include_fast_ft": [True],
    "extra_options": {
        "FastFinetune": {
            "OptimAlgorithm": ["adaround", "adaquant"],
            "NumIterations": [200, 500],
            "LearningRate": [0.1, 0.03, 0.01],
        }
    },
}
TRIALS = 10_000
LARGE_MB = 100
_WIDTH = 1280


def search(model: Path, data: Any, space: Any, folder: Path, name: str, **changes: Any) -> SearchResult:
    """A search with an output directory of its own and the folder's cache."""
    made = AutoSearch(
        None,
        {
            "search_space": space,
            "search_output_dir": str(folder / name),
            "search_cache_dir": str(folder / "cache"),
            "search_log_path": str(folder / f"{name}.log"),
            "keep_models": "best",
            **changes,
        },
        model,
        data,
    )
    made.search_model()
    assert made.result is not None
    return made.result


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Leaves this process, and those that it starts, so many."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def rate(result: SearchResult, jobs: int) -> float:
    """Trials per second after every worker's first one, up to the end of the last."""
    ends = sorted(trial.ended for trial in result.trials)[jobs - 1 :]
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()


def compare(title: str, model: Path, data: CalibrationData, space: Any, rounds: int) -> None:
    """Prints both rates, of the best of several rounds in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        search(model, data, GRID, folder, "warm")
        rates: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(rounds):
            for jobs, found in rates.items():
                own = (
                    folder / f"{title}{jobs}-{turn}"
                )  # finetuned layers of earlier rounds are not in its cache
                shutil.copytree(folder / "cache", own / "cache")
                with cores(jobs):
                    result = search(model, data, space, own, "out", n_jobs=jobs)
                assert not result.failed, result.failed[0].outcome.error
                found.append(rate(result, jobs))
        one, two = (max(found) for found in rates.values())
        print(
            f"{title}: {len(result.trials)} trials of {model.name}: {one:.2f} a second with one worker on one"
            f" core, {two:.2f} with two on two: {two / one:.2f} x"
        )


class Free(Objective):
    """Costs nothing."""

    def __init__(self) -> None:
        self.trials = 0

    def __call__(self, *_: Any) -> Outcome:
        self.trials += 1
        if self.trials % (TRIALS // 5) == 0:
            print(f"  after {self.trials:6} trials: {own_mb():.0f} MB")
        return Outcome({"L2": 1.0 / self.trials}, {"quantize": 1e-3, "evaluate": 1e-3})

    @property
    def stages(self) -> dict[str, Any]:
        return {}


def measure_overhead(model: Path, data: CalibrationData) -> None:
    """Prints time and memory of trials that do nothing."""
    others = 4 * 2 * 2 * 5  # values of the other keys
    space = {
        "calibrate_method": ["Percentile"],
        "activation_type": ["QUInt8", "QInt8", "QUInt16", "QInt16"],
        "per_channel": [False, True],
        "include_cle": [True],
        "extra_options": {
            "ActivationSymmetric": [False, True],
            "CLESteps": [1, 2, 3, 4, 5],
            "Percentile": [float(p) for p in np.linspace(99, 99.9999, TRIALS // others)],
        },
    }
    make_executor = search_loop.make_executor
    search_loop.make_executor = lambda *_: InProcess(Free())
    try:
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            result = search(model, data, space, Path(name), "out")
            seconds = time.perf_counter() - start
            record = sum(path.stat().st_size for path in (Path(name) / "out").rglob("*") if path.is_file())
    finally:
        search_loop.make_executor = make_executor
    print(
        f"overhead: {len(result.trials)} trials, {1000 * seconds / len(result.trials):.2f} ms each;"
        f" {record / TRIALS / 1000:.1f} kB of records each"
    )


def own_mb(pid: int | None = None) -> float:
    """Memory that a process has written for itself; what it maps from files is none of it."""
    text = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in text.splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) / 1024


def write_large_model(path: Path) -> Path:
    """Gemm and Relu in turn, with 100 MB of weights."""
    layers = LARGE_MB * 10**6 // (4 * _WIDTH * _WIDTH)
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        weight = rng.normal(scale=_WIDTH**-0.5, size=(_WIDTH, _WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}"], [f"g{layer}"], f"gemm{layer}"))
        nodes.append(helper.make_node("Relu", [f"g{layer}"], [f"r{layer}"], f"relu{layer}"))
        last = f"r{layer}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", _WIDTH]) for name in ("x", last))
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path)
    )
    return path


def workers() -> Iterator[int]:
    """Processes that this one started; one that is not yet a program of its own shows this one's memory."""
    own = Path("/proc/self/cmdline").read_bytes()
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/cmdline").read_bytes() not in (own, b""):
                yield int(pid)


def measure_memory() -> None:
    """Prints what a worker has for itself as a rule and at most, sampled while it computes."""
    idle = subprocess.Popen(
        [sys.executable, "-c", "import onnxruntime; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert idle.stdout is not None
    idle.stdout.readline()
    base = own_mb(idle.pid)
    idle.communicate(b"\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_large_model(folder / "large.onnx")
        feeds = [{"x": np.random.default_rng(1).normal(size=(8, _WIDTH)).astype(np.float32)}]
        space = {
            "calibrate_method": ["MinMax", "Percentile"],
            "activation_type": ["QUInt8", "QInt16"],
            "per_channel": [False, True],
        }
        samples: dict[int, list[float]] = {}
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                for pid in workers():
                    with suppress(OSError, ValueError):  # likewise
                        samples.setdefault(pid, []).append(own_mb(pid))

        search(model, feeds, space, folder, "warm")
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            search(model, feeds, space, folder, "measured", n_jobs=2)
        finally:
            done.set()
            watcher.join()
    print(f"memory: {base:.0f} MB of its own has a process with Python and onnxruntime alone")
    for number, found in enumerate(samples.values(), 1):
        later = found[len(found) // 2 :]  # it began with imports
        print(
            f"  worker {number}: beyond that median {np.median(later) - base:.0f} MB,"
            f" peak {max(later) - base:.0f} MB"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is named, or everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("grid", "finetune", "overhead", "memory")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--model", type=Path, default=EXAMPLE / "digits_cnn.onnx")
    parser.add_argument("--data", type=Path, default=EXAMPLE / "calibration.npz")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    source = DataSource(path=options.data, batch_size=options.batch_size)
    data = load_data(source, load_float_model(options.model).inputs)
    wanted = options.parts or parts
    if "grid" in wanted:
        compare("grid", options.model, data, GRID, options.rounds)
    if "finetune" in wanted:
        compare("finetune", options.model, data, FINETUNING, options.rounds)
    if "overhead" in wanted:
        measure_overhead(options.model, data)
    if "memory" in wanted:
        measure_memory()


if __name__ == "__main__":
    main()
