"""The search loop: ask, execute, record, decide whether to go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from logging import Logger
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from tqdm import tqdm

from autosearch.compat import read_config
from autosearch.files import write_best, write_log
from autosearch.lock import exclusive
from autosearch.model_files import ModelFiles, remove_leftovers
from autosearch.problem import Data, Problem, pose
from autosearch.samplers import History, Known, Proposal
from autosearch.search_log import environment, log_result, measured, search_log, trial_line
from autosearch.stop import Progress, stop_reason
from autosearch.study import SearchStudy, known, open_storage, sqlite_url
from autosearch.trial import Outcome, SearchResult, Trial
from autosearch.workers import Executor, InProcess, WorkerProcesses
from evaluators import Metric
from quant import FloatModel, QuantConfig
from quant.cache import StageCount

SAME_FAILURES = 3
"""A search whose first trials fail this often with one cause has nothing to find."""

_LOG_EVERY_S = 5.0
_LOG_SHARE = 0.02
"""log.json is rewritten at most this often and for this share of the time; the study has it all."""

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
        self.problem = pose(
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
            run = _Run(
                self.problem, study, log, self._source, interruption, float_value=float_value, started=started
            )
            try:
                self.result = run.search()
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


class _Run:
    """One run of the loop and what it has seen so far."""

    def __init__(
        self,
        problem: Problem,
        study: SearchStudy,
        log: Logger,
        source: Mapping[str, Any],
        interruption: threading.Event,
        *,
        float_value: float,
        started: float,
    ) -> None:
        self.problem = problem
        self.study = study
        self.log = log
        self.source = source
        self.interruption = interruption
        self.started = started
        self.models = ModelFiles(problem.models_dir)
        self.earlier_s = study.elapsed_s()
        self.trials: dict[int, Trial] = {}
        self.known: dict[str, Known] = {}
        self.best_number: int | None = None
        self.since_best: int | None = None
        self.float_value = float_value
        self.write_log_after = time.monotonic() + _LOG_EVERY_S
        self.this_run = 0

    @property
    def metric(self) -> Metric:
        return self.problem.metric

    @property
    def best(self) -> Trial | None:
        return None if self.best_number is None else self.trials[self.best_number]

    @property
    def elapsed_s(self) -> float:
        """Of the whole search."""
        return self.earlier_s + time.monotonic() - self.started

    def search(self) -> SearchResult:
        """The loop, from the first line of the log to the last."""
        settings = self.problem.settings
        self._log_start()
        if not self.metric.against_float:
            self.log.info("Float model: %s %.6g", self.metric.name, self.float_value)
        self._recover()
        self.problem.models_dir.mkdir(parents=True, exist_ok=True)
        objective = self.problem.objective()
        executor: Executor = (
            InProcess(objective) if settings.n_jobs == 1 else WorkerProcesses(objective, settings.n_jobs)
        )
        try:
            reason = self._loop(executor)
        finally:
            executor.close()
            self._write_best()
            self._write_log()
        return self._end(reason, objective.pipeline.cache.counts)

    def _recover(self) -> None:
        """Takes up the trials of earlier runs.

        Where none succeeded, a cause outside of the search is likely, and all are tried again.
        """
        problem = self.problem
        remove_leftovers(problem.output_dir.glob(".*"))  # often the current directory: not what is below
        remove_leftovers(problem.models_dir.glob(".*"))
        remove_leftovers(problem.cache_dir.rglob(".*"))
        earlier, abandoned = self.study.recover()
        for digest in abandoned:
            self.models.delete(digest)
        if not any(trial.state == "complete" for trial in earlier):
            return
        for trial in earlier:
            self._remember(self._judged(trial))
        for trial in list(self.trials.values()):
            if not self._is_kept(trial):
                self.models.delete(trial.digest)
            path = self.models.path(trial.digest) if self.models.holds(trial) else None
            self._set_model(trial, path)
        self.log.info("Continuing after %d trials", len(self.trials))

    def _loop(self, executor: Executor) -> str:
        sampler = self.problem.sampler()
        history = History(self.known, self.study.study)
        running: dict[int, tuple[Proposal, datetime]] = {}
        exhausted = False
        # one bar, in the parent; tqdm itself keeps quiet where there is no terminal
        with tqdm(total=self.total, initial=len(self.trials), unit="trial", disable=None) as bar:
            while True:
                reason = self._stop_reason()
                while reason is None and not exhausted and len(running) < executor.slots:
                    if self._limit_reached_with(len(running)):
                        break
                    proposal = sampler.propose(history)
                    if proposal is None:
                        exhausted = True
                        break
                    self._start(proposal, executor, running)
                if not running:
                    return reason or "every configuration of the space has been tried"
                number, outcome = executor.next()
                self._finish(number, *running.pop(number), outcome)
                bar.update()
                if self.best is not None:
                    bar.set_postfix_str(
                        f"best {self.metric.name} {self.best.outcome.metrics[self.metric.name]:.4g}"
                    )

    def _start(
        self, proposal: Proposal, executor: Executor, running: dict[int, tuple[Proposal, datetime]]
    ) -> None:
        configuration = proposal.configuration
        number = self.study.start(proposal, *self.problem.space.trial_params(configuration))
        self.known[configuration.digest] = Known(number)
        running[number] = (proposal, datetime.now())
        executor.submit(number, configuration.config, self.models.path(configuration.digest))

    def _finish(self, number: int, proposal: Proposal, started: datetime, outcome: Outcome) -> None:
        configuration = proposal.configuration
        trial = self._judged(
            Trial(
                number=number,
                digest=configuration.digest,
                short=configuration.short,
                params=dict(configuration.params),
                config=configuration.config.to_dict(),
                outcome=outcome,
                difference=None,
                is_candidate=False,
                started=started,
                ended=datetime.now(),
            )
        )
        previous = self.best
        self._remember(trial)
        unwanted = [each for each in (trial, previous) if each is not None and not self._is_kept(each)]
        for each in unwanted:
            self._set_model(each, None)
        trial = self.trials[number]
        self.this_run += 1
        self.study.finish(trial, outcome.metrics.get(self.metric.name), self.elapsed_s)
        self.log.info(
            "%s; %s%s",
            trial_line(trial, self._position, self.metric, self.problem.settings.search_metric_tolerance),
            self._best_so_far(),
            self._time_left(),
        )
        if self.best_number == number:
            self._write_best()
        for each in unwanted:  # only now that no record names them
            self.models.delete(each.digest)
        if time.monotonic() > self.write_log_after:
            self._write_log()

    def _judged(self, trial: Trial) -> Trial:
        """The trial with its difference and whether it is a candidate under today's tolerance."""
        value = trial.outcome.metrics.get(self.metric.name)
        if value is None:
            return trial
        difference = self.metric.difference(value, self.float_value)
        within = self.metric.within(difference, self.problem.settings.search_metric_tolerance)
        return replace(trial, difference=difference, is_candidate=within)

    def _remember(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.known[trial.digest] = known(trial, self.metric.name)
        better = trial.difference is not None and (
            self.best is None or self._loss(trial) < self._loss(self.best)
        )
        if better:
            self.best_number = trial.number
        if better and trial.is_candidate:
            self.since_best = 0
        elif self.since_best is not None:
            self.since_best += 1

    def _loss(self, trial: Trial) -> float:
        assert trial.difference is not None
        return self.metric.loss(trial.difference)

    def _is_kept(self, trial: Trial) -> bool:
        """Whether its model was asked for; the best one always is, candidate or not."""
        keep = self.problem.settings.keep_models
        if trial.state == "failed":
            return False
        wanted = keep == "all" or (keep == "candidates" and trial.is_candidate)
        return wanted or trial.number == self.best_number

    def _set_model(self, trial: Trial, path: Path | None) -> None:
        outcome = replace(trial.outcome, model_path=None if path is None else str(path))
        self.trials[trial.number] = replace(trial, outcome=outcome)

    def _limit_reached_with(self, running: int) -> bool:
        """Whether the trials that are running may be the last ones."""
        limit = self.problem.settings.search_stop_condition.iteration_limit
        return limit is not None and len(self.trials) + running >= limit

    def _stop_reason(self) -> str | None:
        if self.interruption.is_set():
            return "interrupted"
        first = list(takewhile(lambda trial: trial.state == "failed", self.trials.values()))
        causes = {trial.outcome.error for trial in first}
        if len(first) == len(self.trials) >= SAME_FAILURES and len(causes) == 1:
            return f"the first {len(first)} trials failed with the same cause: {causes.pop()}"
        candidates = sum(trial.is_candidate for trial in self.trials.values())
        progress = Progress(len(self.trials), candidates, self.since_best, self.elapsed_s)
        return stop_reason(self.problem.settings.search_stop_condition.limits, progress)

    @cached_property
    def total(self) -> int | None:
        """How many trials there can be; None if nobody knows."""
        space, limit = self.problem.space, self.problem.settings.search_stop_condition.iteration_limit
        distinct = len(space.enumeration) if space.is_enumerable else space.raw_size
        known_sizes = [size for size in (distinct, limit) if size is not None]
        return min(known_sizes, default=None)

    @property
    def _position(self) -> str:
        """Of the newest trial: its place out of the total."""
        return str(len(self.trials)) if self.total is None else f"{len(self.trials)}/{self.total}"

    def _time_left(self) -> str:
        if self.total is None or not self.this_run:
            return ""
        each = (time.monotonic() - self.started) / self.this_run
        left = max(0, self.total - len(self.trials)) * each
        limit = self.problem.settings.search_stop_condition.time_limit
        if limit is not None:
            left = min(left, max(0.0, limit - self.elapsed_s))
        return f"; about {left:.0f} s left"

    def _best_so_far(self) -> str:
        if self.best is None:
            return "no result yet"
        return f"best {measured(self.best, self.metric)} (trial {self.best.number})"

    def _ranked(self) -> list[Trial]:
        """Trials with a result, best first; earlier ones first among equals."""
        complete = [trial for trial in self.trials.values() if trial.difference is not None]
        return sorted(complete, key=lambda trial: (self._loss(trial), trial.number))

    def _write_best(self) -> None:
        ranked = self._ranked()
        candidates = [trial for trial in ranked if trial.is_candidate]
        write_best(self.problem.output_dir, candidates or ranked[:1], self.metric.name, self.source)

    def _write_log(self) -> None:
        start = time.monotonic()
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        write_log(self.problem.output_dir, trials, self.metric.name, self.source)
        took = time.monotonic() - start
        self.write_log_after = start + max(_LOG_EVERY_S, took / _LOG_SHARE)

    def _restore_models(self) -> None:
        """Models of an earlier run that are wanted and gone are quantized again, to the same bytes."""
        pipeline = None
        for trial in self._ranked():
            if trial.outcome.model_path is not None or not self._is_kept(trial):
                continue
            pipeline = pipeline or self.problem.objective().pipeline
            config = QuantConfig(**trial.config)
            path = self.models.path(trial.digest)
            pipeline.quantize(config).save(path, external_data=config.use_external_data_format)
            if self.models.holds(trial):
                self._set_model(trial, path)
                continue
            self.models.delete(trial.digest)
            self.log.warning(
                "trial %d: its model, made again, is not the one evaluated, and was deleted", trial.number
            )

    def _log_start(self) -> None:
        problem, settings = self.problem, self.problem.settings
        self.log.info("Search %r: %s", self.study.name, environment())
        self.log.info(
            "Model %s (sha256 %s), %d calibration samples, %d evaluation samples",
            problem.float_model.path,
            problem.float_model.digest[:12],
            problem.data.samples,
            problem.evaluation_data.samples,
        )
        self.log.info(
            "%s by %s, %s, metric %s (%s), tolerance %s",
            settings.search_algo,
            type(problem.evaluator).__name__,
            f"seed {settings.search_seed}, {settings.n_jobs} job(s)",
            self.metric.name,
            self.metric.direction,
            "none: every configuration is a candidate"
            if settings.search_metric_tolerance is None
            else settings.search_metric_tolerance,
        )
        for note in problem.notes:
            self.log.warning(note)
        for line in problem.space.describe(first=0).lines():
            self.log.info(line)

    def _end(self, reason: str, stages: Mapping[str, StageCount]) -> SearchResult:
        self._restore_models()
        ranked = self._ranked()
        result = SearchResult(
            trials=tuple(sorted(self.trials.values(), key=lambda trial: trial.number)),
            candidates=tuple(trial for trial in ranked if trial.is_candidate),
            best=ranked[0] if ranked else None,
            stop_reason=reason,
            interrupted=self.interruption.is_set(),
            seconds=self.elapsed_s,
            stages=dict(stages),
        )
        self._write_best()
        self._write_log()
        log_result(self.log, result, self.metric, ranked)
        return result
