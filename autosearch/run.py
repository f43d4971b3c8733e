"""The search loop: ask, execute, record, decide whether to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from logging import Logger
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autosearch.files import write_best, write_log
from autosearch.ledger import Ledger
from autosearch.model_files import ModelFiles, remove_leftovers
from autosearch.problem import Problem
from autosearch.samplers import History, Known, Proposal
from autosearch.search_log import environment, log_result, measured, trial_line
from autosearch.space import Configuration
from autosearch.stage import Stage
from autosearch.stop import stop_reason
from autosearch.study import SearchStudy
from autosearch.time_left import TimeLeft
from autosearch.trial import Outcome, SearchResult, Trial
from autosearch.workers import Done, Executor, Task, make_executor
from quant import QuantConfig
from quant.cache import StageCount

_LOG_EVERY_S = 5.0
_LOG_SHARE = 0.02
"""log.json is rewritten at most this often and for this share of the time; the study has it all."""


class Run:
    """One run of the loop and what it has seen so far."""

    def __init__(
        self,
        problem: Problem,
        study: SearchStudy,
        log: Logger,
        interruption: threading.Event,
        *,
        source: Mapping[str, Any],
        float_value: float,
        started: float,
    ) -> None:
        """Takes what a search works with.

        Args:
            problem: What is searched.
            study: The record.
            log: For people.
            interruption: Set when running trials should be the last ones.
            source: Model and data, for replaying configurations.
            float_value: The float model's own value of the searched metric.
            started: When the search began, by `time.monotonic`.
        """
        self.problem = problem
        self.study = study
        self.log = log
        self.interruption = interruption
        self.source = source
        self.started = started
        self.earlier_s = study.elapsed_s()
        self.models = ModelFiles(problem.models_dir)
        self.ledger = Ledger(problem.metric, problem.settings.search_metric_tolerance, float_value)
        self.stage = problem.plan.first
        self.before_stage = 0
        self.time_left = TimeLeft(self.stage.space, self.stage.later)
        self.write_log_after = time.monotonic() + _LOG_EVERY_S

    @property
    def elapsed_s(self) -> float:
        """Of the whole search."""
        return self.earlier_s + time.monotonic() - self.started

    def search(self) -> SearchResult:
        """The loop, from the first line of the log to the last."""
        self._log_start()
        if not self.ledger.metric.against_float:
            self.log.info("Float model: %s %.6g", self.ledger.metric.name, self.ledger.float_value)
        self._recover()
        self.problem.models_dir.mkdir(parents=True, exist_ok=True)
        objective = self.problem.objective()
        executor = make_executor(objective, self.problem.settings, self._abandoned())
        try:
            reason = self._search_stages(executor)
        except BaseException:
            executor.close()
            for step in (self.study.release, self._write_best, self._write_log):
                with suppress(Exception):  # the disk or the storage may be what failed
                    step()
            raise
        finally:
            executor.close()
            self._remove_leftovers()
        return self._end(reason, executor.stages)

    def _recover(self) -> None:
        """Takes up the trials of earlier runs.

        Where none succeeded, a cause outside of the search is likely, and all are tried again.
        """
        self._remove_leftovers()
        earlier, abandoned = self.study.recover()
        for digest in abandoned:
            self.models.delete(digest)
        if not any(trial.state == "complete" for trial in earlier):
            return
        for trial in earlier:
            self.ledger.add(trial)
        for trial in self.ledger.by_number():
            if not self._is_kept(trial):
                self.models.delete(trial.digest)
            path = str(self.models.path(trial.digest)) if self.models.holds(trial) else None
            self.ledger.set_model(trial.number, path)
        self.log.info("Continuing after %d trials", len(earlier))

    def _abandoned(self) -> dict[Path, int]:
        """How often earlier runs ended within the trial of a configuration that never got to its end."""
        times = self.study.abandonments()
        return {self.models.path(d): count for d, count in times.items() if d not in self.ledger.known}

    def _remove_leftovers(self) -> None:
        """What processes were writing that were killed."""
        problem = self.problem
        remove_leftovers(problem.output_dir.glob(".*"))  # often the current directory: not what is below
        remove_leftovers(problem.models_dir.glob(".*"))
        remove_leftovers(problem.cache_dir.rglob(".*"))

    def _search_stages(self, executor: Executor) -> str:
        """One stage after another; why the last one ended."""
        # one bar, in the parent; tqdm itself keeps quiet where there is no terminal
        with tqdm(initial=len(self.ledger.trials), unit="trial", disable=None) as bar:
            stage: Stage | str = self.problem.plan.first
            while isinstance(stage, Stage):
                self._begin(stage)
                bar.total = self.total
                reason = self._loop(executor, bar)
                if reason is not None:
                    return reason
                stage = self.problem.plan.after(stage, self.ledger)
        return stage

    def _begin(self, stage: Stage) -> None:
        self.stage = stage
        self.before_stage = sum(trial.stage != stage.name for trial in self.ledger.trials.values())
        self.time_left = self.time_left.at_stage(stage.space, stage.later)
        if stage.introduction is not None:
            self.log.info(stage.introduction)
        for line in stage.space.describe(first=0).lines():
            self.log.info(line)

    def _loop(self, executor: Executor, bar: tqdm[Any]) -> str | None:
        """One stage; why the search ends within it, or None at the end of its space."""
        sampler = self.stage.sampler(self.problem.settings.search_seed)
        history = History(self.ledger.known, self.study.begin_stage(self.stage.name))
        running: dict[int, _Running] = {}
        exhausted = False
        while True:
            reason = self._stop_reason()
            while reason is None and not exhausted and len(running) < executor.slots:
                if self._limit_reached_with(len(running)):
                    break
                proposal = sampler.propose(history)
                exhausted = proposal is None
                if proposal is not None:
                    self._start(proposal, executor, running)
            if not running:
                return reason
            done = executor.next()
            self._finish(done, running.pop(done.number), executor.slots)
            bar.set_postfix_str(self._best_so_far(), refresh=False)
            bar.update()

    def _start(self, proposal: Proposal, executor: Executor, running: dict[int, _Running]) -> None:
        configuration, stage = proposal.configuration, self.stage
        number = self.study.start(proposal, *stage.space.trial_params(configuration), stage.name)
        self.ledger.known[configuration.digest] = Known(number)
        running[number] = _Running(configuration, datetime.now(), stage.name)
        path = self.models.path(configuration.digest)
        judge = self.problem.judge(self.ledger.trials.values())
        executor.submit(Task(number, configuration.config, path, judge))

    def _finish(self, done: Done, ran: _Running, slots: int) -> None:
        number, outcome = done.number, done.outcome
        previous = self.ledger.best
        trial = self.ledger.add(ran.ended(number, outcome))
        unwanted = [each for each in (trial, previous) if each is not None and not self._is_kept(each)]
        for each in unwanted:
            self.ledger.set_model(each.number, None)
        trial = self.ledger.trials[number]
        self.study.finish(trial, outcome.metrics.get(self.ledger.metric.name), self.elapsed_s)
        self.time_left.observe(ran.configuration, outcome.seconds)
        line = trial_line(trial, self._position, self.ledger.metric, self.ledger.tolerance)
        self.log.info("%s%s; %s%s", done.prefix, line, self._best_so_far(), self._remaining(slots))
        if trial is self.ledger.best:
            self._write_best()
        for each in unwanted:  # only now that no record names them
            self.models.delete(each.digest)
        if time.monotonic() > self.write_log_after:
            self._write_log()

    def _is_kept(self, trial: Trial) -> bool:
        """Whether its model was asked for; the best one always is, candidate or not."""
        keep = self.problem.settings.keep_models
        if trial.state != "complete":
            return False
        wanted = keep == "all" or (keep == "candidates" and trial.is_candidate)
        best = self.ledger.best
        return wanted or (best is not None and trial.number == best.number)

    def _limit_reached_with(self, running: int) -> bool:
        """Whether the trials that are running may be the last ones."""
        limit = self.stage.limits.trials
        return limit is not None and len(self.ledger.trials) + running >= limit

    def _stop_reason(self) -> str | None:
        if self.interruption.is_set():
            return "interrupted"
        return self.ledger.hopeless() or stop_reason(self.stage.limits, self.ledger.progress(self.elapsed_s))

    @property
    def total(self) -> int | None:
        """How many trials there can be; None if nobody knows."""
        return self.stage.total(self.before_stage)

    @property
    def _position(self) -> str:
        """Of the newest trial: its place out of the total."""
        count = len(self.ledger.trials)
        return str(count) if self.total is None else f"{count}/{self.total}"

    def _remaining(self, slots: int) -> str:
        if self.total is None:
            return ""
        left = self.time_left.seconds(self.total - len(self.ledger.trials)) / slots
        limit = self.stage.limits.time_limit_s
        if limit is not None:
            left = min(left, max(0.0, limit - self.elapsed_s))
        return f"; about {left:.0f} s left"

    def _best_so_far(self) -> str:
        best = self.ledger.best
        return (
            "no result yet"
            if best is None
            else f"best {measured(best, self.ledger.metric)} (trial {best.number})"
        )

    def _write_best(self) -> None:
        ranked = self.ledger.ranked()
        candidates = [trial for trial in ranked if trial.is_candidate]
        write_best(self.problem.output_dir, candidates or ranked[:1], self.ledger.metric.name, self.source)

    def _write_log(self) -> None:
        start = time.monotonic()
        write_log(self.problem.output_dir, self.ledger.by_number(), self.ledger.metric.name, self.source)
        took = time.monotonic() - start
        self.write_log_after = start + max(_LOG_EVERY_S, took / _LOG_SHARE)

    def _restore_models(self) -> None:
        """Models of an earlier run that are wanted and gone are quantized again, to the same bytes."""
        pipeline = None
        for trial in self.ledger.ranked():
            if trial.outcome.model_path is not None or not self._is_kept(trial):
                continue
            pipeline = pipeline or self.problem.objective().pipeline
            config = QuantConfig(**trial.config)
            path = self.models.path(trial.digest)
            pipeline.quantize(config).save(path, external_data=config.use_external_data_format)
            if self.models.holds(trial):
                self.ledger.set_model(trial.number, str(path))
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
            problem.plan.described,
            type(problem.evaluator).__name__,
            f"seed {settings.search_seed}, {settings.n_jobs} job(s)",
            problem.metric.name,
            problem.metric.direction,
            "none: every configuration is a candidate"
            if settings.search_metric_tolerance is None
            else settings.search_metric_tolerance,
        )
        for note in problem.notes:
            self.log.warning(note)

    def _end(self, reason: str, stages: Mapping[str, StageCount]) -> SearchResult:
        self._restore_models()
        self.models.remove_unneeded_weights()
        ranked = self.ledger.ranked()
        result = SearchResult(
            trials=self.ledger.by_number(),
            candidates=tuple(trial for trial in ranked if trial.is_candidate),
            best=ranked[0] if ranked else None,
            stop_reason=reason,
            interrupted=self.interruption.is_set(),
            seconds=self.elapsed_s,
            stages=dict(stages),
        )
        self._write_best()
        self._write_log()
        log_result(self.log, result, self.ledger.metric, ranked)
        return result


@dataclass(frozen=True)
class _Running:
    """A trial that has begun."""

    configuration: Configuration
    started: datetime
    stage: str | None

    def ended(self, number: int, outcome: Outcome) -> Trial:
        """The trial with its outcome, still to be judged."""
        return Trial(
            number=number,
            digest=self.configuration.digest,
            short=self.configuration.short,
            params=dict(self.configuration.params),
            config=self.configuration.config.to_dict(),
            outcome=outcome,
            difference=None,
            is_candidate=False,
            started=self.started,
            ended=datetime.now(),
            stage=self.stage,
        )
