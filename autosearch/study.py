"""The Optuna study: the one record of every kind of search."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autosearch.errors import StudyError
from autosearch.mirror import Asked, Mirror
from autosearch.parents import Parents
from autosearch.samplers import Known, Proposal
from autosearch.storage import running_trial, stamp_trials, trial_number
from autosearch.trial import Trial
from autosearch.trial_records import (
    ABANDONED,
    CONFIGURATION,
    OUTCOME,
    OWNER,
    REPEAT,
    STAGE,
    STATES,
    begun,
    constraint_attributes,
    is_abandoned,
    outcome_record,
    read_trial,
)
from evaluators import Direction

_FINGERPRINT = "autosearch:fingerprint"
_COUNTERS = "autosearch:counters"
_EVALUATOR = "autosearch:evaluator"
_RETRIED = "autosearch:retried"
_STOP = "autosearch:stop"


@dataclass(frozen=True)
class Claim:
    """A trial that another process is at.

    Attributes:
        digest: Of its configuration.
        stage: Of the search.
    """

    digest: str
    stage: str | None


@dataclass(frozen=True)
class News:
    """What happened in a study since it was looked at last.

    Attributes:
        ended: Trials of other processes.
        freed: Trials that ended without an outcome: their configurations are to be tried again.
        running: What other processes are at now, by number.
        stop: Why another process ended the search, and by which limits; None if none did.
    """

    ended: tuple[Trial, ...]
    freed: tuple[FrozenTrial, ...]
    running: Mapping[int, Claim]
    stop: tuple[str, Mapping[str, Any]] | None


class SearchStudy:
    """Trials as Optuna keeps them, read and written in this product's terms.

    Several processes may share one. Each configuration is claimed by a running trial, of which one at most
    is evaluated:

    Claiming is creating the trial, in one write with its digest. Storages number trials in the order of
    their creation; who then finds an earlier claim of the same configuration withdraws.
    """

    def __init__(
        self,
        storage: BaseStorage,
        fingerprint: Mapping[str, Any],
        directions: Sequence[Direction],
        name: str | None,
        heartbeat_s: float | None = None,
    ) -> None:
        """Creates the study, or continues the one of this name.

        Args:
            storage: From `open_storage`.
            fingerprint: What is searched, JSON-ready; a study continues only the same.
            directions: Of the objectives.
            name: None = one made from the fingerprint.
            heartbeat_s: Seconds between this process's signs of life to others that search with it; None =
                there are no others.

        Raises:
            StudyError: If the study of this name is of something else, with what differs.
        """
        plain = json.loads(json.dumps(fingerprint, sort_keys=True))
        self.name = name or f"search-{_digest(plain)[:12]}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=storage, study_name=self.name, directions=list(directions), load_if_exists=True
        )
        self._storage = storage
        self._id = storage.get_study_id_from_name(self.name)
        self._mirror = Mirror(self.name, self.study.directions)
        self._stage: str | None = None
        self._counters: Mapping[str, int] = {}
        self._learned: frozenset[int] = frozenset()  # trials that the mirror began with
        self._is_shared = heartbeat_s is not None
        self._running: set[int] = set()  # of this process
        self._asked: dict[int, int] = {}  # numbers in the mirror of running trials that were asked for there
        stored = self.study.user_attrs.get(_FINGERPRINT)
        if stored is None:
            self.study.set_user_attr(_FINGERPRINT, plain)
            stored = self.study.user_attrs[_FINGERPRINT]
        if stored != plain:
            different = ", ".join(
                key for key in sorted({*stored, *plain}) if stored.get(key) != plain.get(key)
            )
            raise StudyError(
                f"study {self.name!r} is of another search (its {different} differs); give another study_name"
                " or search_output_dir, or leave study_name out"
            )
        self.parents = Parents(storage, self._id, heartbeat_s)
        self.parents.enter()
        stamp_trials(storage, {OWNER: self.parents.me.id})
        self._settled = 0  # trials before this number have ended, and are known
        self._told: set[int] = set()  # others that have

    def is_evaluator_changed(self, code: str | None) -> bool:
        """Whether trials may have been evaluated by other code of the same name; notes the first.

        Args:
            code: Digest of the evaluator's source; None = nobody knows.
        """
        first = self._attributes().get(_EVALUATOR)
        if first is None and code is not None:
            self._storage.set_study_user_attr(self._id, _EVALUATOR, code)
        return first is not None and code != first

    def leave(self) -> None:
        """Ends the signs of life."""
        self.parents.leave()

    def recover(self) -> tuple[list[Trial], list[str]]:
        """The trials of earlier runs; those that were running when their process ended are set free.

        A freed trial is recorded as failed and abandoned, and its configuration is tried again. Where other
        processes may be at work, only trials whose process has certainly ended are freed, now or when they
        are looked at; and if none succeeded so far, the failed ones are forgotten if this process is alone.

        Returns:
            The trials that ended, and the digests of the freed ones' configurations, whose models may be
            half-written.
        """
        if self._is_shared:
            return list(self._recover_shared()), []
        trials, abandoned = [], []
        for frozen in self.study.get_trials(deepcopy=False):
            trial = read_trial(frozen)
            if trial is not None:
                trials.append(trial)
            if frozen.state is not TrialState.RUNNING:
                continue
            if trial is not None:  # its process ended between the outcome and this
                self._end(frozen.number, STATES[trial.state], frozen.user_attrs[OUTCOME]["values"])
                continue
            self._storage.set_trial_user_attr(self._trial_id(frozen.number), ABANDONED, True)
            self._end(frozen.number, TrialState.FAIL)
            if CONFIGURATION in frozen.user_attrs:
                abandoned.append(frozen.user_attrs[CONFIGURATION]["digest"])
        return trials, abandoned

    def _recover_shared(self) -> Sequence[Trial]:
        trials = self.look().ended
        if not trials or any(trial.state in ("complete", "infeasible") for trial in trials):
            return trials
        if not self.parents.is_alone(self._attributes()):
            return trials
        self._storage.set_study_user_attr(self._id, _RETRIED, trials[-1].number)
        return ()

    def look(self) -> News:
        """What other processes did; trials of those that have ended are set free."""
        attributes = self._attributes()
        trials = self.study.get_trials(deepcopy=False)
        while self._free_ended(trials, attributes):
            trials = self.study.get_trials(deepcopy=False)
        ended, freed, running = [], [], {}
        for frozen in trials[self._settled :]:
            described = frozen.user_attrs.get(CONFIGURATION)
            if frozen.state is TrialState.RUNNING:
                if described is not None and frozen.number not in self._running:
                    running[frozen.number] = Claim(described["digest"], frozen.user_attrs.get(STAGE))
            elif frozen.state.is_finished() and frozen.number not in self._told | self._running:
                self._told.add(frozen.number)
                trial = read_trial(frozen)
                if trial is not None and not _is_retried(trial, attributes):
                    ended.append(trial)
                    self.learn(frozen)
                elif trial is None and described is not None and REPEAT not in frozen.user_attrs:
                    freed.append(frozen)
        while self._settled in self._told:
            self._told.remove(self._settled)
            self._settled += 1
        stop = attributes.get(_STOP)
        return News(tuple(ended), tuple(freed), running, None if stop is None else tuple(stop))

    def stop(self, reason: str, limits: Mapping[str, Any]) -> None:
        """Lets other processes with the same limits know that they are reached."""
        if self._is_shared:
            self._storage.set_study_user_attr(self._id, _STOP, (reason, dict(limits)))

    def _attributes(self) -> Mapping[str, Any]:
        return self._storage.get_study_user_attrs(self._id)

    def _free_ended(self, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]) -> bool:
        """Ends trials whose process has ended, and those that no process knows of; whether there were any."""
        running = [
            (frozen, frozen.user_attrs[OWNER])
            for frozen in trials[self._settled :]
            if frozen.state is TrialState.RUNNING and OWNER in frozen.user_attrs
        ]
        me = self.parents.me.id
        ended = self.parents.ended({owner for _, owner in running}, attributes)
        for frozen, owner in running:
            if owner in ended:
                self._free(frozen)
            elif (
                owner == me and frozen.number not in self._running
            ):  # its creation was thought to have failed
                self._end_if_running(frozen.number)
        unknown = {owner for frozen, owner in running if frozen.number not in self._running}
        return bool(unknown & {*ended, me})

    def _free(self, frozen: FrozenTrial) -> None:
        trial = read_trial(frozen)
        if trial is not None:  # its process ended between the outcome and this
            self._end_if_running(frozen.number, STATES[trial.state], frozen.user_attrs[OUTCOME]["values"])
            return
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._trial_id(frozen.number), ABANDONED, True)
        self._end_if_running(frozen.number)

    def _end_if_running(
        self, number: int, state: TrialState = TrialState.FAIL, values: Sequence[float] | None = None
    ) -> None:
        with suppress(UpdateFinishedTrialError):
            self._end(number, state, values)

    def abandonments(self) -> Counter[str]:
        """How often the process of a configuration's trial ended before it, by the configuration's digest."""
        return Counter(
            frozen.user_attrs[CONFIGURATION]["digest"]
            for frozen in self.study.get_trials(deepcopy=False)
            if is_abandoned(frozen) and CONFIGURATION in frozen.user_attrs
        )

    def begin_stage(self, stage: str | None) -> optuna.Study:
        """What samplers of this stage ask, in memory; trials of earlier stages tell them nothing.

        Args:
            stage: None = there is one alone, which sees all trials.
        """
        trials = [
            frozen
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.user_attrs.get(STAGE, stage) == stage
        ]
        counters = self._storage.get_study_system_attrs(self._id).get(_COUNTERS, {}).get(stage or "", {})
        self._mirror = Mirror(self.name, self.study.directions, trials, counters)
        self._stage, self._counters = stage, counters
        self._learned = frozenset(frozen.number for frozen in trials if frozen.state.is_finished())
        return self._mirror.study

    def start(
        self,
        proposal: Proposal,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        stage: str | None = None,
    ) -> int | None:
        """Records that a configuration is being tried.

        Args:
            proposal: A trial that a sampler was asked for, or a configuration alone.
            params, distributions: For the latter: the trial's parameters in the study.
            stage: Recorded with it.

        Returns:
            The trial's number; None if another process tries, or has tried, this configuration.
        """
        attributes = begun(proposal, stage)
        asked = Asked(params, distributions, {})
        if proposal.trial is not None:
            asked = self._mirror.asked(proposal.trial)
        template = running_trial(asked.params, asked.distributions, attributes, asked.system_attrs)
        trial_id = self._storage.create_new_trial(self._id, template_trial=template)
        number = trial_number(self._storage, trial_id)
        self._running.add(number)
        if proposal.trial is not None:
            self._asked[number] = proposal.trial.number
            self._note_counters()
        rival = self._rival(number, proposal.configuration.digest) if self._is_shared else None
        if rival is None:
            return number
        self.withdraw(number, rival.number)
        return None

    def _rival(self, number: int, digest: str) -> FrozenTrial | None:
        """A claim of the same configuration that this process's has to give way to."""
        for frozen in self.study.get_trials(deepcopy=False)[self._settled :]:
            described = frozen.user_attrs.get(CONFIGURATION)
            if frozen.number == number or described is None or described["digest"] != digest:
                continue
            if REPEAT in frozen.user_attrs or (frozen.state.is_finished() and read_trial(frozen) is None):
                continue
            is_mine = frozen.user_attrs.get(OWNER) == self.parents.me.id
            if (
                is_mine and frozen.state is TrialState.RUNNING
            ):  # of the same call, which seemed to have failed
                self._end_if_running(frozen.number)
            elif frozen.number < number:
                return frozen
        return None

    def withdraw(self, number: int, repeat_of: int | None = None) -> None:
        """Ends a trial that this process began and will not evaluate.

        Args:
            number: Of the trial.
            repeat_of: The trial that has its configuration; None = it is still to be tried.
        """
        if repeat_of is not None:
            with suppress(UpdateFinishedTrialError):
                self._storage.set_trial_user_attr(self._trial_id(number), REPEAT, repeat_of)
        self._end_if_running(number)
        self._running.discard(number)
        if number in self._asked:
            self._mirror.tell(self._asked.pop(number), TrialState.FAIL, None, {})

    def _note_counters(self) -> None:
        """Keeps what samplers count, where that has changed."""
        counters = self._mirror.counters
        if counters != self._counters:
            self._counters = counters
            noted = {
                **self._storage.get_study_system_attrs(self._id).get(_COUNTERS, {}),
                self._stage or "": counters,
            }
            self._storage.set_study_system_attr(self._id, _COUNTERS, noted)

    def learn(self, frozen: FrozenTrial) -> None:
        """Tells samplers of a trial of this stage that another process has finished."""
        if frozen.number not in self._learned and frozen.user_attrs.get(STAGE, self._stage) == self._stage:
            self._mirror.learn(frozen)

    def release(self) -> None:
        """Ends the trials that this process began and will not finish; their configurations are tried again.

        Unlike those of a process that vanished they are not suspected of having been the cause.
        """
        for number in self._running:
            self._end_if_running(number)
        self._running.clear()

    def finish(self, trial: Trial, elapsed_s: float) -> bool:
        """Records a trial's outcome and ends it.

        Args:
            trial: With its outcome, its values and its violations.
            elapsed_s: Of the whole search so far, for its limits after a resumption.

        Returns:
            Whether it is recorded. It is not if other processes took this one to have ended, and freed the
            trial: its configuration is theirs now.
        """
        record = outcome_record(trial, elapsed_s)
        is_recorded = True
        try:
            self._record(trial, record)
        except UpdateFinishedTrialError:
            frozen = self._storage.get_trial(self._trial_id(trial.number))
            if not frozen.state.is_finished():
                raise
            is_recorded = not is_abandoned(frozen)
        self._running.discard(trial.number)
        self._asked.pop(trial.number, None)
        if is_recorded:
            self._told.add(trial.number)
        return is_recorded

    def _record(self, trial: Trial, record: Mapping[str, Any]) -> None:
        trial_id = self._trial_id(trial.number)
        for step, each in trial.outcome.intermediate.items():
            self._storage.set_trial_intermediate_value(trial_id, step, each)
        state, attributes = STATES[trial.state], constraint_attributes(trial.violations)
        if trial.number in self._asked:  # its sampler wants to be told
            attributes = self._mirror.tell(self._asked.pop(trial.number), state, trial.values, attributes)
        for key, each in attributes.items():
            self._storage.set_trial_system_attr(trial_id, key, each)
        self._storage.set_trial_user_attr(trial_id, OUTCOME, record)
        self._end(trial.number, state, trial.values)

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._storage.set_trial_state_values(self._trial_id(number), state, values)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def elapsed_s(self) -> float:
        """Seconds that earlier runs of this search took, up to their last trial's end."""
        records = (frozen.user_attrs.get(OUTCOME) for frozen in self.study.get_trials(deepcopy=False))
        return max((record["elapsed_s"] for record in records if record), default=0.0)


def _is_retried(trial: Trial, attributes: Mapping[str, Any]) -> bool:
    """Whether it failed in a run without success, after which everything was tried again."""
    return trial.state == "failed" and trial.number <= attributes.get(_RETRIED, -1)


def known(trial: Trial) -> Known:
    """What samplers see of a trial."""
    return Known(trial.number, trial.values, trial.violations)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
