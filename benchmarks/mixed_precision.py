"""Searches of a number format for every layer: what seeds bring, what TPE saves, what a trial costs.

    python -m benchmarks.mixed_precision hypervolume MODEL.onnx ... --data CALIB.npz --test TEST.npz
    python -m benchmarks.mixed_precision trials MODEL.onnx --data CALIB.npz --test TEST.npz
    python -m benchmarks.mixed_precision cost MODEL.onnx --data CALIB.npz --test TEST.npz

hypervolume: accuracy against average bitwidth after --trials trials of TPE, with and without the trials that
sensitivities propose; as a share of the rectangle between accuracy 0 and 1 and the least and the greatest
bitwidth of the space. Two spaces: fixed point, as MASE has it, and mxint.

trials: until TPE, and until brute force in random order, meet the best of a space that can be exhausted;
every configuration is evaluated once before, and both are told these values.

cost: of a trial of a layer-wise search by TPE, against one session and one pass of its model over the
evaluation data, measured right after the search, with the same files. The median over trials.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autosearch import AutoSearch, SearchResult
from autosearch.job import DataSource, load_data, load_labels
from autosearch.mirror import Mirror
from autosearch.pareto import hypervolume
from autosearch.problem import threads_per_worker
from autosearch.samplers import History, Known, make_sampler
from autosearch.space import SearchSpace, layer_sites
from evaluators import ClassificationEvaluator, SessionSettings
from quant import QuantConfig, load_float_model

FIXED_POINT = {
    "name": ["integer"],
    "data_in_width": [4, 6, 8],
    "data_in_frac_width": [2, 4, 6],
    "weight_width": [2, 3, 4, 6, 8],
    "weight_frac_width": [1, 3, 5, 7],
}
MXINT = {
    "name": ["mxint"],
    "data_in_width": [8],
    "weight_width": [2, 3, 4, 5, 6, 8],
    "weight_block_size": [[16]],
}
SPACES = {"fixed point": (FIXED_POINT, (2.0, 8.0)), "mxint": (MXINT, (2.5, 8.5))}
"""Choices of every layer with weights, and the least and greatest average bitwidth."""

TYPES = ("Conv", "ConvTranspose", "Gemm", "linear")
EXHAUSTIBLE = {
    "name": ["integer"],
    "data_in_width": [8],
    "data_in_frac_width": [3, 5],
    "weight_width": [2, 3, 4, 6],
    "weight_frac_width": [3, 5],
}
"""With one choice for each type of layer."""

SUM = {"accuracy": {"scale": 1.0}, "average_bitwidth": {"scale": 0.02}}


def layers(entry: Mapping[str, Any], share: str = "layer") -> dict[str, Any]:
    """The same choices for all layers with weights."""
    return {"layers": {"by": "type", "share": share, **dict.fromkeys(TYPES, entry)}}


class Bench:
    """A model and its data."""

    def __init__(self, options: argparse.Namespace, model: Path) -> None:
        self.model = load_float_model(model)
        size = options.batch_size
        data, test = (DataSource(path=path, batch_size=size) for path in (options.data, options.test))
        self.data = load_data(data, self.model.inputs)
        self.test, self.labels = load_data(test, self.model.inputs), load_labels(test)

    def search(self, folder: Path, **settings: Any) -> SearchResult:
        """Runs a search in the folder."""
        places = {
            "search_output_dir": str(folder / "out"),
            "search_cache_dir": str(folder / "cache"),
            "search_log_path": str(folder / "auto_search.log"),
        }
        search = AutoSearch(
            None, {**places, **settings}, self.model, self.data, self.test, eval_labels=self.labels
        )
        search.search_model()
        assert search.result is not None
        return search.result


def compare_seeds(options: argparse.Namespace) -> None:
    """Prints hypervolumes with and without seeds."""
    for path in options.model:
        bench = Bench(options, path)
        for name in options.space:
            entry, (least, greatest) = SPACES[name]
            means = []
            for seed_trials in (0, None):
                volumes, seconds = [], []
                for seed in range(options.seeds):
                    with tempfile.TemporaryDirectory() as folder:
                        start = time.perf_counter()
                        result = bench.search(
                            Path(folder),
                            search_space=layers(entry),
                            search_algo="TPE",
                            metrics={"accuracy": {}, "average_bitwidth": {}},
                            seed_trials=seed_trials,
                            search_seed=seed,
                            search_stop_condition={"iteration_limit": options.trials},
                            keep_models="best",
                        )
                        seconds.append(time.perf_counter() - start)
                    volumes.append(_volume(result, least, greatest))
                means.append(float(np.mean(volumes)))
                kind = "plain TPE" if seed_trials == 0 else "seeded TPE"
                shown = " ".join(f"{volume:.3f}" for volume in volumes)
                print(
                    f"{path.stem:14} {name:12} {kind:11} mean {means[-1]:.4f} ({shown}),"
                    f" {np.mean(seconds):.1f} s a search",
                    flush=True,
                )
            print(f"{path.stem:14} {name:12} ratio {means[1] / means[0]:.2f}")


def _volume(result: SearchResult, least: float, greatest: float) -> float:
    """Share of the rectangle that the trials dominate."""
    complete = [trial.outcome.measured for trial in result.trials if trial.state == "complete"]
    losses = np.array([[1 - each["accuracy"], each["average_bitwidth"] - least] for each in complete])
    return float(hypervolume(losses, np.array([1.0, greatest - least]))) / (greatest - least)


def compare_samplers(options: argparse.Namespace) -> None:
    """Prints how many trials TPE and brute force need to meet the best."""
    bench = Bench(options, options.model[0])
    written = layers(EXHAUSTIBLE, share="type")
    summed = {"metrics": SUM, "sum_scaled_metrics": True, "direction": "maximize"}
    with tempfile.TemporaryDirectory() as folder:
        result = bench.search(
            Path(folder), search_space=written, search_algo="grid_search", keep_models="best", **summed
        )
    value = {trial.digest: trial.values[0] for trial in result.trials if trial.values is not None}
    best = max(value.values())
    print(f"{len(value)} configurations, best {best:.4f}, met by {sum(v == best for v in value.values())}")
    space = SearchSpace(written, layers=partial(layer_sites, bench.model, QuantConfig()))
    means = []
    for name in ("BruteForce", "TPE"):
        needed = [_trials_until(best, name, space, value, seed) for seed in range(options.seeds)]
        means.append(np.mean(needed))
        print(f"{name:11} {needed}, mean {means[-1]:.1f}")
    print(f"ratio {means[1] / means[0]:.2f}")


def _trials_until(best: float, name: str, space: SearchSpace, value: Mapping[str, float], seed: int) -> int:
    mirror = Mirror("benchmark", [StudyDirection.MAXIMIZE])
    sampler, known = make_sampler(name, space, seed), dict[str, Known]()
    history = History(known, mirror.study)
    for number in range(len(value)):
        proposal = sampler.propose(history)
        assert proposal is not None and proposal.trial is not None
        digest = proposal.configuration.digest
        known[digest] = Known(number, (value[digest],))
        mirror.tell(proposal.trial.number, TrialState.COMPLETE, [value[digest]], {})
        if value[digest] == best:
            return number + 1
    raise AssertionError("the best is in the space")


def cost_of_a_trial(options: argparse.Namespace) -> None:
    """Prints the seconds of a trial and of the least that it could take."""
    for path in options.model:
        bench = Bench(options, path)
        with tempfile.TemporaryDirectory() as folder:
            result = bench.search(
                Path(folder),
                search_space=layers(FIXED_POINT),
                search_algo="TPE",
                metrics={"accuracy": {}, "average_bitwidth": {}},
                seed_trials=0,
                search_stop_condition={"iteration_limit": options.trials},
                keep_models="all",
            )
            trials = sorted(result.trials, key=lambda trial: trial.ended)
            apart = [(later.ended - earlier.ended).total_seconds() for earlier, later in pairwise(trials)]
            models = [Path(trial.outcome.model_path) for trial in trials if trial.outcome.model_path]
            settings = SessionSettings(threads=threads_per_worker(1))
            evaluator = ClassificationEvaluator(
                bench.test, bench.labels, from_logits=True, session_settings=settings
            )
            floors = []
            for model in models:
                start = time.perf_counter()
                evaluator.evaluate(model, (("session.disable_quant_qdq", "1"),))
                floors.append(time.perf_counter() - start)
        trial, floor = np.median(apart), np.median(floors)
        times = f"trial {1e3 * trial:.1f} ms, session and pass {1e3 * floor:.1f} ms"
        print(f"{path.stem:14} {times}: {trial / floor:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("hypervolume", "trials", "cost"))
    parser.add_argument("model", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="calibration data, .npz")
    parser.add_argument("--test", type=Path, required=True, help="evaluation data with labels, .npz")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--space", nargs="+", choices=tuple(SPACES), default=tuple(SPACES))
    parser.add_argument("--seeds", type=int, default=None, help="5 searches; 10 for trials")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (10 if options.what == "trials" else 5)
    run = {"hypervolume": compare_seeds, "trials": compare_samplers, "cost": cost_of_a_trial}
    run[options.what](options)


if __name__ == "__main__":
    main()
