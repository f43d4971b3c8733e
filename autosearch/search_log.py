"""auto_search.log: what people `tail -f`."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from autosearch.errors import OutputError
from autosearch.trial import SearchResult, Trial
from evaluators import Metric

_LIBRARIES = ("quant", "evaluators", "autosearch")
_PACKAGES = ("onnx", "onnxruntime", "onnx-ir", "numpy", "optuna")
_SHOWN = 20


@contextmanager
def search_log(path: Path) -> Iterator[logging.Logger]:
    """A logger of one search alone, which also gets what the packages warn of while it runs.

    Raises:
        OutputError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"search_log_path {str(path)!r}: cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.Logger("autosearch.search", logging.INFO)  # not in the registry: no other search's
    log.addHandler(handler)
    libraries = [logging.getLogger(name) for name in _LIBRARIES]
    for library in libraries:
        library.addHandler(handler)
    try:
        yield log
    finally:
        for library in libraries:
            library.removeHandler(handler)
        handler.close()


def environment() -> str:
    """Versions and machine, on a line."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {packages}"


def trial_line(trial: Trial, position: str, metric: Metric, tolerance: float | None) -> str:
    """A trial on a line.

    Args:
        trial: One that ended.
        position: Its place, out of the total where that is known.
        metric: The searched one.
        tolerance: Of the search.
    """
    head = f"Executing search {position} with config [{trial.short}]"
    times = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in trial.outcome.seconds.items())
    if trial.outcome.error is not None:
        return f"{head}: failed: {trial.outcome.error}; {times or 'at once'}"
    if trial.outcome.pruned_at is not None:
        value = trial.outcome.intermediate[trial.outcome.pruned_at]
        part = f"after {trial.outcome.pruned_at} % of the evaluation data"
        return f"{head}: {metric.name} {value:.6g} {part}, pruned; {times}"
    verdict = "candidate" if trial.is_candidate else "not a candidate"
    bound = (
        "" if tolerance is None else f" (tolerance {'>=' if metric.is_similarity else '<='} {tolerance:g})"
    )
    promotion = "" if trial.outcome.promotion is None else f"; {trial.outcome.promotion}"
    return f"{head}: {measured(trial, metric)}{bound}, {verdict}; {times}{promotion}"


def measured(trial: Trial, metric: Metric) -> str:
    """The searched metric of a trial, and its difference where that is another number."""
    value = trial.outcome.metrics[metric.name]
    unit = f" {metric.unit}" if metric.unit else ""
    shown = f"{metric.name} {value:.6g}{unit}"
    return shown if metric.against_float else f"{shown} (difference {trial.difference:.6g})"


def log_result(log: logging.Logger, result: SearchResult, metric: Metric, ranked: list[Trial]) -> None:
    """The end of the log: results sorted, candidates, reason."""
    log.info("Sorted results, best first (%d of %d trials):", min(len(ranked), _SHOWN), len(result.trials))
    for rank, trial in enumerate(ranked[:_SHOWN]):
        mark = "candidate" if trial.is_candidate else "         "
        log.info(
            "  %3d. %s %s  [%s]  trial %d", rank, mark, measured(trial, metric), trial.short, trial.number
        )
    for trial in result.failed[:_SHOWN]:
        log.info("  failed: trial %d [%s]: %s", trial.number, trial.short, trial.outcome.error)
    if result.pruned:
        saved = sum(trial.outcome.seconds_saved for trial in result.pruned)
        log.info("Pruned: %d trials, which saved about %.2f s of evaluation", len(result.pruned), saved)
    for stage, count in result.stages.items():
        found = count.memory_hits + count.disk_hits
        log.info(
            "Stage %s: computed %d times in %.2f s, found %d times",
            stage,
            count.computed,
            count.seconds,
            found,
        )
    log.info("Searched candidates: %d", len(result.candidates))
    log.info("Stopped: %s; %.1f s", result.stop_reason, result.seconds)
