"""The search loop: ask, execute, record, decide whether to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from logging import Logger
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autosearch.kept_models import KeptModels
from autosearch.ledger import Ledger
from autosearch.log_lines import aim, best_so_far, float_line, result_lines, trial_line
from autosearch.model_files import ModelFiles, remove_leftovers
from autosearch.problem import Problem
from autosearch.records import Records
from autosearch.samplers import History, Known, Proposal, SeededSampler
from autosearch.search_log import environment
from autosearch.space import Configuration
from autosearch.stage import Stage
from autosearch.stop import stop_reason
from autosearch.study import SearchStudy
from autosearch.time_left import TimeLeft
from autosearch.trial import Outcome, SearchResult, Trial
from autosearch.workers import Done, Executor, Task, make_executor
from quant.cache import StageCount


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
        float_values: Mapping[str, float],
        started: float,
    ) -> None:
        """Takes what a search works with.

        Args:
            problem: What is searched.
            study: The record.
            log: For people.
            interruption: Set when running trials should be the last ones.
            source: Model and data, for replaying configurations.
            float_values: The float model's own, by metric.
            started: When the search began, by `time.monotonic`.
        """
        self.problem = problem
        self.study = study
        self.log = log
        self.interruption = interruption
        self.float_values = float_values
        self.started = started
        self.earlier_s = study.elapsed_s()
        self.objectives = problem.objectives.resolved(float_values)
        self.ledger = Ledger(self.objectives, float_values.get(self.objectives.names[0], 0.0))
        self.models = KeptModels(ModelFiles(problem.models_dir), self.ledger, problem.settings.keep_models)
        self.records = Records(problem.output_dir, self.ledger, source)
        self.stage = problem.plan.first
        self.before_stage = 0
        self.time_left = TimeLeft(self.stage.space, self.stage.later)
        self._noted = set[str]()

    @property
    def elapsed_s(self) -> float:
        """Of the whole search."""
        return self.earlier_s + time.monotonic() - self.started

    def search(self) -> SearchResult:
        """The loop, from the first line of the log to the last."""
        self._log_start()
        if self.float_values:
            self.log.info(float_line(self.float_values))
        self._recover()
        self.problem.models_dir.mkdir(parents=True, exist_ok=True)
        objective = self.problem.objective(self.objectives)
        executor = make_executor(objective, self.problem.settings, self._abandoned())
        try:
            reason = self._search_stages(executor)
        except BaseException:
            executor.close()
            for step in (self.study.release, self.records.write_best, self.records.write_log):
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
            self.models.files.delete(digest)
        if not any(trial.state in ("complete", "infeasible") for trial in earlier):
            return
        for trial in earlier:
            self.ledger.add(trial)
        self.models.take_up()
        self.log.info("Continuing after %d trials", len(earlier))

    def _abandoned(self) -> dict[Path, int]:
        """How often earlier runs ended within the trial of a configuration that never got to its end."""
        times = self.study.abandonments()
        return {self.models.files.path(d): count for d, count in times.items() if d not in self.ledger.known}

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
        settings = self.problem.settings
        sampler = self.stage.seeded_sampler(
            settings.search_seed, len(self.objectives.names), settings.seed_trials
        )
        if isinstance(sampler, SeededSampler):
            self.log.info("Measuring what formats of single layers cost; the first trials combine the best")
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
            bar.set_postfix_str(self._best_so_far, refresh=False)
            bar.update()

    def _start(self, proposal: Proposal, executor: Executor, running: dict[int, _Running]) -> None:
        configuration, stage = proposal.configuration, self.stage
        number = self.study.start(proposal, *stage.space.trial_params(configuration), stage.name)
        self.ledger.known[configuration.digest] = Known(number)
        running[number] = _Running(configuration, datetime.now(), stage.name)
        path = self.models.files.path(configuration.digest)
        judge = self.problem.judge(self.ledger.trials.values())
        executor.submit(Task(number, configuration.config, path, judge))

    def _finish(self, done: Done, ran: _Running, slots: int) -> None:
        number, outcome = done.number, done.outcome
        trial = self.ledger.add(ran.ended(number, outcome))
        unwanted = self.models.take_off((trial, *self.ledger.displaced))
        trial = self.ledger.trials[number]
        self.study.finish(trial, self.elapsed_s)
        self.time_left.observe(ran.configuration, outcome.seconds)
        line = trial_line(trial, self._position, self.objectives)
        self.log.info("%s%s; %s%s", done.prefix, line, self._best_so_far, self._remaining(slots))
        self._note(outcome.notes)
        if trial is self.ledger.best or (trial.is_candidate and not self.objectives.is_single):
            self.records.write_best()
        self.models.delete(unwanted)  # only now that no record names them
        self.records.write_log_if_due()

    def _note(self, notes: Iterable[str]) -> None:
        """What holds for many trials is said with the first of them."""
        for note in notes:
            if note not in self._noted:
                self.log.warning("%s%s", note[0].upper(), note[1:])
                self._noted.add(note)

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

    @property
    def _best_so_far(self) -> str:
        return best_so_far(self.ledger.best, self.ledger.candidates, self.objectives)

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
            "%s by %s, seed %d, %d job(s), %s",
            problem.plan.described,
            type(problem.evaluator).__name__,
            settings.search_seed,
            settings.n_jobs,
            aim(self.objectives),
        )
        for note in problem.notes:
            self.log.warning(note)

    def _end(self, reason: str, stages: Mapping[str, StageCount]) -> SearchResult:
        self.models.restore(lambda: self.problem.objective(self.objectives).pipeline, self.log)
        self.models.files.remove_unneeded_weights()
        ranked = self.ledger.ranked()
        result = SearchResult(
            trials=self.ledger.by_number(),
            candidates=tuple(trial for trial in self.ledger.best_trials() if trial.is_candidate),
            best=self.ledger.best,
            stop_reason=reason,
            interrupted=self.interruption.is_set(),
            seconds=self.elapsed_s,
            stages=dict(stages),
            front=tuple(self.ledger.front()),
        )
        self.records.write_best()
        self.records.write_log()
        for line in result_lines(result, self.objectives, ranked):
            self.log.info(line)
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
