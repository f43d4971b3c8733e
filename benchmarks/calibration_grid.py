"""A grid of 40 calibration configurations, against the least time that it could take.

    python -m benchmarks.calibration_grid [MODEL.onnx ...] [--data CALIBRATION.npz] [--batch-size 32]

The floor is what no search can avoid: one pass of the float model over the calibration data for each
transformed graph (two here), and for each configuration one session and one pass of the candidate over
the evaluation data. It is measured in the same process, right after the search, with the same files.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from autosearch import AutoSearch, SearchResult
from autosearch.job import DataSource, load_data
from autosearch.problem import threads_per_worker
from evaluators import SessionSettings
from evaluators.sessions import create_session
from quant import CalibrationData, load_float_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
TRANSFORMED_GRAPHS = 2  # with and without cross-layer equalization

GRID = {
    "calibrate_method": ["MinMSE", "NonOverflow", "MinMax", "Entropy", "Percentile"],
    "activation_type": ["QUInt8", "QInt16"],
    "weight_type": ["QInt8"],
    "include_cle": [True, False],
    "extra_options": {"ActivationSymmetric": [True, False], "Percentile": [99.99]},
}


def run(model: Path, data: CalibrationData, n_jobs: int, folder: Path) -> tuple[SearchResult, float]:
    """The search and its seconds, from the constructor on."""
    start = time.perf_counter()
    search = AutoSearch(
        None,
        {
            "search_space": GRID,
            "n_jobs": n_jobs,
            "keep_models": "all",
            "search_output_dir": str(folder / "out"),
            "search_cache_dir": str(folder / "cache"),
            "search_log_path": str(folder / "auto_search.log"),
        },
        model,
        data,
    )
    search.search_model()
    assert search.result is not None
    return search.result, time.perf_counter() - start


def floor_seconds(model: Path, data: CalibrationData, candidates: Sequence[str]) -> tuple[float, float]:
    """Seconds of a float pass, and of a session and a pass for every candidate."""
    settings = SessionSettings(threads=threads_per_worker(1))

    def evaluate(session: ort.InferenceSession) -> float:
        start = time.perf_counter()
        for feed in data:
            session.run(None, feed)
        return time.perf_counter() - start

    float_session = create_session(model, settings)
    evaluate(float_session)
    float_pass = evaluate(float_session)
    start = time.perf_counter()
    for candidate in candidates:
        evaluate(create_session(candidate, settings))
    return float_pass, time.perf_counter() - start


def measure(model: Path, data: CalibrationData, n_jobs: int) -> None:
    """Prints one model's figures."""
    with tempfile.TemporaryDirectory() as name:
        result, seconds = run(model, data, n_jobs, Path(name))
        paths = [path for trial in result.trials if (path := trial.outcome.model_path)]
        float_pass, evaluations = floor_seconds(model, data, paths)
    floor = TRANSFORMED_GRAPHS * float_pass + evaluations
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    losses = [trial.difference for trial in result.trials if trial.difference is not None]
    print(f"{model.name}: {len(result.trials)} trials, {len(result.failed)} failed")
    print(f"  search   {seconds:7.2f} s   {seconds / floor:.2f} x the floor")
    print(f"  floor    {floor:7.2f} s   ({TRANSFORMED_GRAPHS} x {float_pass:.3f} s + {evaluations:.2f} s)")
    for step in ("quantize", "evaluate"):
        print(f"  {step:8} {sum(t.outcome.seconds.get(step, 0) for t in result.trials):7.2f} s")
    for stage, count in result.stages.items():
        hits = count.memory_hits + count.disk_hits
        print(f"    {stage:20} computed {count.computed:3}, found {hits:4}, {count.seconds:6.3f} s")
    print(f"  best L2 {min(losses):.3e}, worst {max(losses):.3e}; peak memory {peak_mb:.0f} MB")


def main() -> None:
    """Measures every model named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, default=[EXAMPLE / "digits_cnn.onnx"])
    parser.add_argument("--data", type=Path, default=EXAMPLE / "calibration.npz")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n-jobs", type=int, default=1)
    options = parser.parse_args()
    source = DataSource(path=options.data, batch_size=options.batch_size)
    for model in options.models:
        measure(model, load_data(source, load_float_model(model).inputs), options.n_jobs)


if __name__ == "__main__":
    main()
