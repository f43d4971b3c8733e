"""`AutoSearch`: what a caller makes, and the resources that a search holds while it runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from numpy.typing import ArrayLike
from optuna.exceptions import StorageInternalError

from autosearch.compat import read_config
from autosearch.errors import StudyError
from autosearch.lock import exclusive, shared
from autosearch.problem import Data, Problem, pose
from autosearch.run import Run
from autosearch.search_log import search_log
from autosearch.storage import close_session, open_storage, sqlite_url
from autosearch.study import SearchStudy
from autosearch.trial import SearchResult, Trial
from quant import FloatModel, QuantConfig

_ALL_FLOAT = QuantConfig(layers={"by": "type", "default": {"name": None}})
"""Every layer is chosen to stay as it is: a cost without calibration or rounding."""

_TERMINATED = 128 + signal.SIGTERM
"""Exit code, as shells give it."""

_INTERRUPTED = b"\nInterrupted: ending after the running trials; press Ctrl-C again to stop at once\n"


class AutoSearch:
    """Searches for the best way to quantize a model."""

    def __init__(
        self,
        quantization_config: QuantConfig | Mapping[str, Any] | None = None,
        auto_search_config: object = None,
        model_input: str | Path | FloatModel = "",
        calibration_data_reader: Data = (),
        eval_data_reader: Data | None = None,
        *,
        eval_labels: ArrayLike | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        """Checks everything before any work is done.

        Args:
            quantization_config: What all configurations share; the search space goes over it.
            auto_search_config: An `AutoSearchConfig`, a class with such attributes, a dict, or the
                path of a YAML file.
            model_input: The float model.
            calibration_data_reader: onnxruntime's `CalibrationDataReader`, or an iterable of
                ``{input name: array}``.
            eval_data_reader: What built-in evaluators run models on; None = the calibration data.
            eval_labels: Of that data, in the order of its samples: classes for accuracy and loss, tokens
                for perplexity (which takes the input tokens without them).
            source: Where the data came from, recorded so that a configuration can be replayed.

        Raises:
            ConfigError, DataError, ModelError, OutputError: Naming the place, the value and the
                remedy.
        """
        self.problem: Problem = pose(
            quantization_config,
            read_config(auto_search_config),
            model_input,
            calibration_data_reader,
            eval_data_reader,
            eval_labels,
        )
        self.study: optuna.Study | None = None
        self.result: SearchResult | None = None
        self._source = {
            "model": str(self.problem.float_model.path),
            "model_digest": self.problem.float_model.digest,
            "calibration_data_digest": self.problem.data.digest,
            **(source or {}),
        }

    def search_model(self) -> list[dict[str, Any]]:
        """Runs the search, or goes on with it where an earlier run of the same stopped.

        Returns:
            The candidates, best first, each with ``config_index`` (the trial's number),
            ``difference``, ``model_path``, ``config``, ``metrics``, ``scaled_metrics``, ``seconds``;
            of several objectives, the Pareto front. `result` has every trial, `study` the Optuna study.

        Raises:
            StudyError: If the stored study is of another search, or is in use.
        """
        settings = self.problem.settings
        directory = self.problem.output_dir
        with ExitStack() as stack:
            stack.enter_context(shared(directory) if self.problem.is_shared else exclusive(directory))
            log = stack.enter_context(search_log(Path(settings.search_log_path), self.problem.is_shared))
            started = time.monotonic()
            float_values = self._evaluate_float_model()
            storage = open_storage(settings.storage or sqlite_url(directory), settings.storage_patience)
            stack.callback(close_session, storage)
            study = SearchStudy(
                storage,
                self.problem.fingerprint,
                self.problem.objectives.directions,
                settings.study_name,
                settings.heartbeat_interval if self.problem.is_shared else None,
            )
            stack.callback(_quietly, study.leave)
            self.study = study.study
            if study.is_evaluator_changed(self.problem.evaluator_code):
                log.warning(
                    "The evaluator's code has changed since this study began; results of earlier trials are"
                    " kept. Give another study_name to evaluate everything again."
                )
            interruption = stack.enter_context(_interruption())
            run = Run(
                self.problem,
                study,
                log,
                interruption,
                source=self._source,
                float_values=float_values,
                started=started,
            )
            try:
                self.result = run.search()
            except StorageInternalError as error:
                raise StudyError(
                    f"storage: {error.__cause__ or error}; when that is mended, the same command goes on"
                ) from error
        return [_candidate(trial) for trial in self.result.candidates]

    def _evaluate_float_model(self) -> dict[str, float]:
        """The float model's own values, of metrics that it has some of."""
        problem = self.problem
        cost = None
        if problem.evaluation.is_of_hardware:
            pipeline = problem.objective(problem.objectives).pipeline
            cost = pipeline.quantize(_ALL_FLOAT).cost
        return problem.evaluation.of_float_model(problem.float_model.path, cost)


def _quietly(step: Callable[[], None]) -> None:
    """The storage may be what failed."""
    with suppress(StorageInternalError, OSError):
        step()


def _candidate(trial: Trial) -> dict[str, Any]:
    return {
        "config_index": trial.number,
        "difference": trial.difference,
        "model_path": trial.outcome.model_path,
        "config": dict(trial.config),
        "metrics": trial.outcome.measured,
        "scaled_metrics": dict(trial.scaled),
        "seconds": trial.seconds,
    }


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, after which running trials end; the second one stops at once.

    So does SIGTERM, by which clusters end what they want to run elsewhere: trials are given back.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        with suppress(OSError):  # not through streams, which may be in the middle of a write
            os.write(2, _INTERRUPTED)

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, handle)}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # else the caller has plans of its own
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, end)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
