"""The search loop: ask, execute, record, decide whether to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from logging import Logger
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autosearch.kept_models import KeptModels
from autosearch.ledger import Ledger
from autosearch.log_lines import aim, best_so_far, float_line, result_lines, trial_line
from autosearch.model_files import OTHERS_TAKE_S, ModelFiles, remove_leftovers
from autosearch.others import Others
from autosearch.problem import Problem
from autosearch.records import Records
from autosearch.samplers import History, Known, Proposal, Sampler, SeededSampler
from autosearch.search_log import environment
from autosearch.space import Configuration
from autosearch.stage import Stage
from autosearch.stop import stop_reason
from autosearch.study import SearchStudy
from autosearch.time_left import TimeLeft
from autosearch.trial import Outcome, SearchResult, Trial
from autosearch.workers import Done, Executor, Task, make_executor
from quant.cache import StageCount

_LOOK_EVERY_S = 0.5
"""While there is nothing to do but for what other processes may leave."""


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
        machine = study.parents.me.host if problem.is_shared else None
        files = ModelFiles(problem.models_dir)
        self.models = KeptModels(files, self.ledger, problem.settings.keep_models, machine)
        self.abandoned: dict[Path, int] = {}
        self.others: Others | None = None
        self._dropped: list[str] = []  # digests
        self._mine: dict[int, _Running] = {}
        self.bar: tqdm[Any] = tqdm(disable=True)
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
        executor = make_executor(objective, self.problem.settings, self.abandoned)
        try:
            reason = self._search_stages(executor)
        except BaseException:
            executor.close()
            for step in (self.study.release, self.records.write_best, self.records.write_log):
                with suppress(Exception):  # the disk or the storage may be what failed
                    step()
            self.models.delete_dropped(self._dropped)
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
        if self.problem.is_shared or any(trial.state in ("complete", "infeasible") for trial in earlier):
            for trial in earlier:
                self.ledger.add(trial)
        if self.ledger.trials:
            self.models.take_up()
            self.log.info("Continuing after %d trials", len(earlier))
        for digest, count in self.study.abandonments().items():
            if digest not in self.ledger.known:
                self.abandoned[self.models.files.path(digest)] = count
        if self.problem.is_shared:
            self.others = Others(self.study, self.ledger, self.models, self.abandoned)

    def _remove_leftovers(self) -> None:
        """What processes were writing that were killed."""
        problem, older_s = self.problem, OTHERS_TAKE_S if self.problem.is_shared else 0.0
        remove_leftovers(problem.output_dir.glob(".*"), older_s)  # often the current directory: not below
        remove_leftovers(problem.models_dir.glob(".*"), older_s)
        remove_leftovers(problem.cache_dir.rglob(".*"), older_s)

    def _search_stages(self, executor: Executor) -> str:
        """One stage after another; why the last one ended."""
        # one bar, in the parent; tqdm itself keeps quiet where there is no terminal
        with tqdm(initial=len(self.ledger.trials), unit="trial", disable=None) as bar:
            self.bar = bar
            stage: Stage | str = self.problem.plan.first
            while isinstance(stage, Stage):
                self._begin(stage)
                bar.total = self.total
                reason = self._loop(executor)
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

    def _loop(self, executor: Executor) -> str | None:
        """One stage; why the search ends within it, or None at the end of its space."""
        settings = self.problem.settings
        sampler = self.stage.seeded_sampler(
            settings.search_seed, len(self.objectives.names), settings.seed_trials
        )
        if isinstance(sampler, SeededSampler):
            self.log.info("Measuring what formats of single layers cost; the first trials combine the best")
        history = History(self.ledger.known, self.study.begin_stage(self.stage.name))
        proposals = _Proposals(sampler, history)
        running = self._mine = dict[int, _Running]()
        is_waiting = False
        while True:
            self._look_around()
            reason = self._stop_reason()
            while reason is None and len(running) < executor.slots:
                others = 0 if self.others is None else len(self.others.running)
                if self._limit_reached_with(len(running) + others):
                    break
                proposal = proposals.next(self._freed())
                if proposal is None:
                    break
                self._start(proposal, executor, running)
            if running:
                done = executor.next(self._patience_s if len(running) < executor.slots else None)
                if done is not None:
                    self._finish(done, running.pop(done.number), executor.slots)
                    self.bar.set_postfix_str(self._best_so_far, refresh=False)
                    self.bar.update()
                continue
            if not self._must_wait():
                return reason
            if not is_waiting:
                self.log.info("Waiting for %d trials of others", self._at_others)
                is_waiting = True
            self.interruption.wait(_LOOK_EVERY_S)

    def _look_around(self) -> None:
        """Takes up what other processes did."""
        if self.others is None:
            return
        for trial in self.others.look():
            line = trial_line(trial, self._position, self.objectives)
            self.log.info("%s: %s; %s", trial.machine, line, self._best_so_far)
            self.bar.update()
        if self.others.displaced:
            self.records.write_best()
            self.models.delete(self.others.displaced)
            self.others.displaced.clear()

    def _freed(self) -> Iterator[Configuration]:
        return iter(()) if self.others is None else self.others.freed(self.stage)

    @property
    def _at_others(self) -> int:
        """How many trials of this stage other processes are at."""
        return 0 if self.others is None else self.others.at_stage(self.stage.name)

    @property
    def _patience_s(self) -> float | None:
        """How long a worker may have nothing to do before it is looked whether there is something."""
        return None if self.others is None else _LOOK_EVERY_S

    def _must_wait(self) -> bool:
        """Whether others are still at something that belongs to the result, or that may come back."""
        return bool(self._at_others) and not self.interruption.is_set()

    def _start(self, proposal: Proposal, executor: Executor, running: dict[int, _Running]) -> None:
        configuration, stage = proposal.configuration, self.stage
        number = self.study.start(proposal, *stage.space.trial_params(configuration), stage.name)
        if self.others is not None and not self._is_claimed(number):
            return
        assert number is not None
        self.ledger.known[configuration.digest] = Known(number)
        running[number] = _Running(configuration, datetime.now(), stage.name, self.study.parents.me.host)
        path = self.models.files.path(configuration.digest)
        judge = self.problem.judge(self.ledger.trials.values())
        executor.submit(Task(number, configuration.config, path, judge))

    def _is_claimed(self, number: int | None) -> bool:
        """Whether a trial is this process's, and within the limit that all processes share."""
        assert self.others is not None
        self._look_around()
        if number is None:
            return False
        before = sum(other < number for other in (*self.others.running, *self._mine))
        if not self._limit_reached_with(before):
            return True
        self.study.withdraw(number)
        return False

    def _finish(self, done: Done, ran: _Running, slots: int) -> None:
        number, outcome = done.number, done.outcome
        trial, is_best = self.ledger.verdict(ran.ended(number, outcome))
        if not self.models.would_keep(trial, is_best):
            trial = replace(trial, outcome=replace(outcome, model_path=None))
        if not self.study.finish(trial, self.elapsed_s):
            self._drop(trial)
            return
        self.ledger.add(trial)
        unwanted = self.models.take_off((self.ledger.trials[number], *self.ledger.displaced))
        trial = self.ledger.trials[number]
        self.time_left.observe(ran.configuration, outcome.seconds)
        line = trial_line(trial, self._position, self.objectives)
        self.log.info("%s%s; %s%s", done.prefix, line, self._best_so_far, self._remaining(slots))
        self._note(outcome.notes)
        if trial is self.ledger.best or (trial.is_candidate and not self.objectives.is_single):
            self.records.write_best()
        self.models.delete(unwanted)  # only now that no record names them
        self.records.write_log_if_due()

    def _drop(self, trial: Trial) -> None:
        """Leaves a trial to others, who could not know that this process was alive."""
        assert self.others is not None
        self._dropped.append(trial.digest)
        self.others.forget(trial.number, trial.digest)
        self.log.warning(
            "trial %d [%s]: dropped: this process gave no sign of life for long, and others try it again",
            trial.number, trial.short,
        )  # fmt: skip

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
        limits = self.stage.limits
        hopeless = self.ledger.hopeless()
        told = None if self.others is None else self.others.stop_reason(limits)
        if hopeless is not None or told is not None:
            return hopeless or told
        reason = stop_reason(limits, self.ledger.progress(self.elapsed_s))
        if reason is not None:
            self.study.stop(reason, asdict(limits))
        return reason

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
        self.models.delete_dropped(self._dropped)
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
    machine: str

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
            machine=self.machine,
        )


class _Proposals:
    """A sampler's, and after those that are free again."""

    def __init__(self, sampler: Sampler, history: History) -> None:
        self._sampler = sampler
        self._history = history
        self._is_exhausted = False

    def next(self, freed: Iterator[Configuration]) -> Proposal | None:
        """The next one; None while there is none."""
        for configuration in freed:
            return Proposal(configuration)
        if self._is_exhausted:
            return None
        proposal = self._sampler.propose(self._history)
        self._is_exhausted = proposal is None
        return proposal
