"""How long a model takes for one batch, beside the float model on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import ExecutionOrder

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import Metric
from evaluators.sessions import Feed, SessionConfig, SessionSettings, create_session

_MS_PER_SECOND = 1000
_STOP_SPINNING = ("session.force_spinning_stop", "1")
"""Threads of the model that waits would else look for work, at the expense of the model that runs."""


@dataclass(frozen=True)
class LatencyOptions:
    """How latency is measured.

    Attributes:
        runs: Timed runs of each model.
        warmup: Runs of each model before those, not timed.
        threads: Threads within an operator.
        batch: Samples in a run; None = one, or as many as the model is fixed to.

    Raises:
        EvaluatorInputError: If one is no integer or too small.
    """

    runs: int = 50
    warmup: int = 5
    threads: int = 1
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("runs", 1), ("warmup", 0), ("threads", 1), ("batch", 1)):
            value = getattr(self, name)
            if name == "batch" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise EvaluatorInputError(f"{name}: must be an integer from {least}, not {value!r}")


class Latency:
    """Times a model and the float model in turn, run by run.

    In each pair of runs both models are run once; which comes first changes from pair to pair. What slows
    the machine down for longer than a run (heat, other processes) then slows both, and the ratio
    of a pair's times is free of it:

        latency         median of the model's times, in ms
        latency_spread  their interquartile range, in ms
        latency_ratio   median over the pairs of model's time / float model's time

    Sessions have all graph optimisations, and what goes in and comes out is in the main memory.

    Args:
        options: How.
        float_model: Path of the float model.
        feeds: Of which the first is run, its samples repeated or cut to a batch.
        session_settings: How models are run; the number of threads is that of the options.

    Raises:
        EvaluatorInputError: If the float model cannot be loaded, there is no feed, or the models are fixed
            to other sizes of batches.
    """

    def __init__(
        self,
        options: LatencyOptions,
        float_model: str | Path,
        feeds: Iterable[Feed],
        session_settings: SessionSettings | None = None,
    ) -> None:
        self._options = options
        self._float_model = Path(float_model)
        self._session_settings = replace(session_settings or SessionSettings(), threads=options.threads)
        feed = next(iter(feeds), None)
        if not feed:
            raise EvaluatorInputError("latency: the data has no feed to time models on")
        try:
            inputs = create_session(self._float_model, self._session_settings).get_inputs()
        except EvaluationError as error:
            raise EvaluatorInputError(f"float model {self._float_model}: {error}") from error
        fixed = {each.name: each.shape[0] for each in inputs if each.shape and type(each.shape[0]) is int}
        self._feed = batch_of(feed, options.batch, fixed)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Latency, its spread, and its ratio to the float model's."""
        return (
            Metric("latency", "ms", "minimize"),
            Metric("latency_spread", "ms", "minimize"),
            Metric("latency_ratio", "", "minimize"),
        )

    def measure(self, model_path: Path, session_config: SessionConfig = ()) -> tuple[float, ...]:
        """Values of the metrics.

        Raises:
            EvaluationError: If one of the models does not run.
        """
        float_session = self._session(self._float_model)
        session = self._session(model_path, session_config)
        try:
            times = time_in_turn(
                self._run_of(session), self._run_of(float_session), self._options, time.perf_counter
            )
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            raise EvaluationError(f"latency: the model does not run: {error}") from error
        return summary(*times)

    def _session(self, path: Path, config: SessionConfig = ()) -> onnxruntime.InferenceSession:
        """Runs nodes in the order in which they run where nobody asks for another one."""
        entries = (_STOP_SPINNING, *config)
        return create_session(path, self._session_settings, entries, order=ExecutionOrder.DEFAULT)

    def _run_of(self, session: onnxruntime.InferenceSession) -> Callable[[], object]:
        return lambda: session.run(None, self._feed)

    def __repr__(self) -> str:
        shapes = {name: (array.dtype.str, array.shape) for name, array in self._feed.items()}
        return f"Latency({self._options}, {shapes}, {self._session_settings})"


def time_in_turn(
    run: Callable[[], object],
    run_float: Callable[[], object],
    options: LatencyOptions,
    clock: Callable[[], float],
) -> tuple[Sequence[float], Sequence[float]]:
    """Seconds of each run of a model and of the float model.

    Args:
        run, run_float: Run the models once.
        options: How many pairs of runs.
        clock: Returns seconds.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for pair in range(options.warmup + options.runs):
        for which in (0, 1) if pair % 2 else (1, 0):
            start = clock()
            (run, run_float)[which]()
            if pair >= options.warmup:
                seconds[which].append(clock() - start)
    return seconds


def summary(seconds: Sequence[float], float_seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median and interquartile range in ms, and the median ratio of paired runs.

    Quartiles are interpolated linearly between the times next to them.
    """
    times, float_times = np.asarray(seconds), np.asarray(float_seconds)
    low, median, high = np.percentile(times, [25, 50, 75]) * _MS_PER_SECOND
    smallest = np.finfo(np.float64).tiny  # a clock that does not advance during a run
    ratio = np.median(np.maximum(times, smallest) / np.maximum(float_times, smallest))
    return float(median), float(high - low), float(ratio)


def batch_of(feed: Feed, batch: int | None, fixed: dict[str, int]) -> dict[str, NDArray[Any]]:
    """A feed of another number of samples: the first ones, or all of them again and again.

    Arrays whose first axis is as long as that of the first array have samples along it; others (masks,
    constants) stay as they are.

    Args:
        feed: What to make it of.
        batch: Number of samples; None = as many as the model takes, one if that is free.
        fixed: Lengths of the first axes of inputs, where they are fixed.

    Raises:
        EvaluatorInputError: If an input is fixed to another number of samples.
    """
    first = next(iter(feed.values()))
    size = first.shape[0] if first.ndim else 0
    batched = [name for name, array in feed.items() if array.ndim and array.shape[0] == size]
    sizes = {name: fixed[name] for name in batched if name in fixed}
    wanted = batch or next(iter(sizes.values()), 1)
    for name, length in sizes.items():
        if length != wanted:
            raise EvaluatorInputError(
                f"metric_options.latency.batch: {wanted}, but input {name!r} of the model takes {length} "
                "samples at once; leave the option out, or export the model with a free batch size"
            )
    if not size:
        return dict(feed)
    samples = np.arange(wanted) % size
    return {name: array[samples] if name in batched else array for name, array in feed.items()}
