"""Does TPE find the best configuration sooner than brute force does?

    python -m examples.jets.compare
    python -m examples.jets.compare --seeds 10 --set model_input=../../results/jets_real/jets.onnx

Every configuration of search.yaml is tried in a random order, and TPE chooses a part of them; the score
of both is accuracy - 0.02 x average bitwidth. This is done with several seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from autosearch import SearchResult, Trial
from autosearch.cli import make_search
from autosearch.job import read_job
from autosearch.report import Curve, best_so_far, best_so_far_figure, mean_curve, write_page, write_picture

FOLDER = Path(__file__).parent
SAMPLERS = {"brute force": "BruteForce", "TPE": "TPE"}
RECORDED = ("accuracy", "loss", "average_bitwidth", "latency", "flops", "model_size")
SHARE = 0.999
"""Of the best score; a run has found the best when it is that near."""


def main() -> None:
    """Prints what was found, and draws the mean of the best scores so far."""
    options = _options()
    runs = {
        name: [run(sampler, seed, options) for seed in range(options.seeds)]
        for name, sampler in SAMPLERS.items()
    }
    curves = {name: [score_curve(name, result) for result in results] for name, results in runs.items()}
    best = max(curve.best[-1] for curve in curves["brute force"] if curve.best[-1] is not None)
    print(f"best score {best:.4f}; trials until a score of {SHARE * best:.4f}, by seed:")
    for name, of_seeds in curves.items():
        needed = [trials_needed(curve, SHARE * best) for curve in of_seeds]
        print(f"{name:12} {needed}, mean {fmean(needed):.1f}")
    print_trials(runs["brute force"][0].trials)
    draw([mean_curve(name, of_seeds) for name, of_seeds in curves.items()], options)


def run(sampler: str, seed: int, options: argparse.Namespace) -> SearchResult:
    """One search; the score is the sum of the scaled metrics."""
    changes = [
        f"search_algo={sampler}",
        f"search_seed={seed}",
        "sum_scaled_metrics=true",
        "direction=maximize",
    ]
    changes.append(f"search_output_dir={options.output_dir / sampler / str(seed)}")
    if sampler == "BruteForce":
        changes.append("search_stop_condition={}")
    search = make_search(read_job(FOLDER / "search.yaml", [*changes, *options.set]))
    search.search_model()
    assert search.result is not None
    return search.result


def score_curve(name: str, result: SearchResult) -> Curve:
    """The best score so far."""
    return best_so_far(
        name, [trial.values[0] if trial.values else None for trial in result.trials], "maximize"
    )


def trials_needed(curve: Curve, score: float) -> int:
    """Trials until a score; one more than were made if that was not reached."""
    return curve.trials_to_reach(score, "maximize") or len(curve.values) + 1


def print_trials(trials: Sequence[Trial]) -> None:
    """The five trials of the highest score, with all that was recorded."""
    ended = [trial for trial in trials if trial.values]
    print(f"\ntrial {' '.join(f'{name:>16}' for name in RECORDED)}")
    for trial in sorted(ended, key=lambda trial: -trial.values[0] if trial.values else 0)[:5]:
        measured = trial.outcome.measured
        print(f"{trial.number:5} {' '.join(f'{measured[name]:16.6g}' for name in RECORDED)}")


def draw(curves: Sequence[Curve], options: argparse.Namespace) -> None:
    """compare.html and compare.png."""
    title = f"Jets: best score so far, mean of {options.seeds} seeds"
    figure = best_so_far_figure(
        curves, title=title, metric="accuracy - 0.02 x average bitwidth", show_trials=False
    )
    write_page(figure, options.output_dir / "compare.html")
    try:
        write_picture(figure, options.output_dir / "compare.png")
    except ValueError as error:
        print(f"note: {error}", file=sys.stderr)
    print(f"\n{options.output_dir / 'compare.html'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare TPE with brute force on the jet classifier.")
    parser.add_argument("--seeds", type=int, metavar="N", default=5)
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("results/jets_compare"))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as of autosearch search"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
