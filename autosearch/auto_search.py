"""`AutoSearch`: what a caller makes, and the resources that a search holds while it runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError

from autosearch.compat import read_config
from autosearch.errors import StudyError
from autosearch.lock import exclusive
from autosearch.problem import Data, Problem, pose
from autosearch.run import Run
from autosearch.search_log import search_log
from autosearch.study import SearchStudy, open_storage, sqlite_url
from autosearch.trial import SearchResult, Trial
from quant import FloatModel, QuantConfig

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
            eval_data_reader: What the built-in evaluator compares on; None = the calibration data.
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
            ``difference``, ``model_path``, ``config``, ``metrics``, ``seconds``. `result` has every
            trial, `study` the Optuna study.

        Raises:
            StudyError: If the stored study is of another search, or is in use.
        """
        settings = self.problem.settings
        directory = self.problem.output_dir
        with ExitStack() as stack:
            stack.enter_context(exclusive(directory))
            log = stack.enter_context(search_log(Path(settings.search_log_path)))
            started = time.monotonic()
            float_value = self._evaluate_float_model()
            storage = open_storage(settings.storage or sqlite_url(directory))
            study = SearchStudy(
                storage, self.problem.fingerprint, self.problem.metric.direction, settings.study_name
            )
            self.study = study.study
            interruption = stack.enter_context(_interruption())
            run = Run(
                self.problem,
                study,
                log,
                interruption,
                source=self._source,
                float_value=float_value,
                started=started,
            )
            try:
                self.result = run.search()
            except StorageInternalError as error:
                raise StudyError(
                    f"storage: {error.__cause__ or error}; when that is mended, the same search goes on"
                ) from error
            finally:
                storage.remove_session()
        return [_candidate(trial) for trial in self.result.candidates]

    def _evaluate_float_model(self) -> float:
        """The float model's own value of the searched metric; 0 where metrics compare with it anyway."""
        evaluator = self.problem.evaluator
        if self.problem.metric.against_float:
            return 0.0
        values = evaluator.evaluate(self.problem.float_model.path)
        return values[self.problem.metric.name]


def _candidate(trial: Trial) -> dict[str, Any]:
    return {
        "config_index": trial.number,
        "difference": trial.difference,
        "model_path": trial.outcome.model_path,
        "config": dict(trial.config),
        "metrics": dict(trial.outcome.metrics),
        "seconds": trial.seconds,
    }


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, after which running trials end; the second one stops at once."""
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

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
