"""The Optuna study: the one record of every kind of search."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from autosearch.errors import StudyError
from autosearch.samplers import Known, Proposal
from autosearch.study_view import since
from autosearch.trial import Outcome, State, Trial
from evaluators import Direction

_FINGERPRINT = "autosearch:fingerprint"
_CONFIGURATION = "configuration"
_OUTCOME = "outcome"
_REPEAT = "repeat_of"
_STAGE = "stage"
_ABANDONED = "abandoned"
_STATES: Mapping[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,  # with its violations, of which TPE learns
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
}
_SQLITE_TIMEOUT_S = 60


def open_storage(url: str) -> BaseStorage:
    """An Optuna storage: SQLite and other databases by URL, ``journal:PATH`` for a journal file.

    SQLite is opened with a write-ahead log, which costs a tenth per trial and lets others read. Databases
    come with Optuna's cache of trials in front, which knows numbers and finished trials by itself.

    Raises:
        StudyError: If it cannot be opened.
    """
    try:
        if url.startswith("journal:"):
            backend = JournalFileBackend(url.removeprefix("journal:"))
            return JournalStorage(backend)
        return get_storage(_sqlite(url) if url.startswith("sqlite:") else RDBStorage(url))
    except Exception as error:  # drivers raise types of their own
        raise StudyError(f"storage {url!r}: cannot be opened: {error}") from error


def _sqlite(url: str) -> RDBStorage:
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _SQLITE_TIMEOUT_S}})

    @event.listens_for(storage.engine, "connect")
    def write_ahead(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections made before have other settings
    return storage


def sqlite_url(directory: Path) -> str:
    """The default storage of an output directory."""
    return f"sqlite:///{(directory / 'study.db').resolve()}"


class SearchStudy:
    """Trials as Optuna keeps them, read and written in this product's terms."""

    def __init__(
        self,
        storage: BaseStorage,
        fingerprint: Mapping[str, Any],
        directions: Sequence[Direction],
        name: str | None,
    ) -> None:
        """Creates the study, or continues the one of this name.

        Args:
            storage: From `open_storage`.
            fingerprint: What is searched, JSON-ready; a study continues only the same.
            directions: Of the objectives.
            name: None = one made from the fingerprint.

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
        self._asked_study = self.study
        self._running: set[int] = set()  # of this process
        self._asked: set[int] = set()  # running trials that a sampler of Optuna's proposed
        stored = self.study.user_attrs.get(_FINGERPRINT)
        if stored is None:
            self.study.set_user_attr(_FINGERPRINT, plain)
        elif stored != plain:
            different = ", ".join(
                key for key in sorted({*stored, *plain}) if stored.get(key) != plain.get(key)
            )
            raise StudyError(
                f"study {self.name!r} is of another search (its {different} differs); give another study_name"
                " or search_output_dir, or leave study_name out"
            )

    def recover(self) -> tuple[list[Trial], list[str]]:
        """The trials of earlier runs; those that were running when their process ended are set free.

        A freed trial is recorded as failed and abandoned, and its configuration is tried again.

        Returns:
            The trials that ended, and the digests of the freed ones' configurations.
        """
        trials, abandoned = [], []
        for frozen in self.study.get_trials(deepcopy=False):
            trial = read_trial(frozen)
            if trial is not None:
                trials.append(trial)
            if frozen.state is not TrialState.RUNNING:
                continue
            if trial is not None:  # its process ended between the outcome and this
                self._end(frozen.number, _STATES[trial.state], frozen.user_attrs[_OUTCOME]["values"])
                continue
            self._storage.set_trial_user_attr(self._trial_id(frozen.number), _ABANDONED, True)
            self._end(frozen.number, TrialState.FAIL)
            if _CONFIGURATION in frozen.user_attrs:
                abandoned.append(frozen.user_attrs[_CONFIGURATION]["digest"])
        return trials, abandoned

    def abandonments(self) -> Counter[str]:
        """How often the process of a configuration's trial ended before it, by the configuration's digest."""
        return Counter(
            frozen.user_attrs[_CONFIGURATION]["digest"]
            for frozen in self.study.get_trials(deepcopy=False)
            if _ABANDONED in frozen.user_attrs and _CONFIGURATION in frozen.user_attrs
        )

    def begin_stage(self, stage: str | None) -> optuna.Study:
        """What samplers of this stage ask; trials of earlier stages tell them nothing.

        Args:
            stage: None = there is one alone, which sees all trials.
        """
        others = (
            frozen.number
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.user_attrs.get(_STAGE, stage) != stage
        )
        first = max(others, default=-1) + 1
        self._asked_study = since(self.study, self._storage, first) if first else self.study
        return self._asked_study

    def start(
        self,
        proposal: Proposal,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        stage: str | None = None,
    ) -> int:
        """Records that a configuration is being tried, in one write, and returns its number.

        Args:
            proposal: A trial that the study has asked for already, or a configuration alone.
            params, distributions: For the latter: the trial's parameters in the study.
            stage: Recorded with it.
        """
        configuration = proposal.configuration
        described = {
            "digest": configuration.digest,
            "short": configuration.short,
            "index": configuration.index,
            "params": dict(configuration.params),
            "config": configuration.config.to_dict(),
        }
        attributes = {_CONFIGURATION: described, **({} if stage is None else {_STAGE: stage})}
        if proposal.trial is not None:
            for name, value in attributes.items():
                proposal.trial.set_user_attr(name, value)
            self._asked.add(proposal.trial.number)
            self._running.add(proposal.trial.number)
            return proposal.trial.number
        template = FrozenTrial(
            number=-1,  # the storage numbers it
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=attributes,
            system_attrs={},
            intermediate_values={},
        )
        trial_id = self._storage.create_new_trial(self._id, template_trial=template)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._running.add(number)
        return number

    def release(self) -> None:
        """Ends the trials that this process began and will not finish; their configurations are tried again.

        Unlike those of a process that vanished they are not suspected of having been the cause.
        """
        for number in self._running:
            self._end(number, TrialState.FAIL)
        self._running.clear()

    def finish(self, trial: Trial, elapsed_s: float) -> None:
        """Records a trial's outcome and ends it.

        Args:
            trial: With its outcome, its values and its violations.
            elapsed_s: Of the whole search so far, for its limits after a resumption.
        """
        record = {
            "values": trial.values,
            "metrics": dict(trial.outcome.metrics),
            "hardware": dict(trial.outcome.hardware),
            "infeasible": trial.outcome.infeasible,
            "scaled": dict(trial.scaled),
            "violations": dict(trial.violations),
            "seconds": dict(trial.outcome.seconds),
            "model_path": trial.outcome.model_path,
            "model_digest": trial.outcome.model_digest,
            "error": trial.outcome.error,
            "traceback": trial.outcome.traceback,
            "intermediate": {str(step): each for step, each in trial.outcome.intermediate.items()},
            "pruned_at": trial.outcome.pruned_at,
            "promotion": trial.outcome.promotion,
            "difference": trial.difference,
            "is_candidate": trial.is_candidate,
            "started": trial.started.isoformat(),
            "ended": trial.ended.isoformat(),
            "elapsed_s": elapsed_s,
        }
        trial_id = self._trial_id(trial.number)
        self._running.discard(trial.number)
        for step, each in trial.outcome.intermediate.items():
            self._storage.set_trial_intermediate_value(trial_id, step, each)
        for key, each in _constraint_attributes(trial.violations).items():
            self._storage.set_trial_system_attr(trial_id, key, each)
        self._storage.set_trial_user_attr(trial_id, _OUTCOME, record)
        if trial.number not in self._asked:
            self._end(trial.number, _STATES[trial.state], trial.values)
            return
        self._asked.remove(trial.number)  # its sampler wants to be told, which costs some reads
        self._asked_study.tell(trial.number, trial.values, state=_STATES[trial.state])

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._storage.set_trial_state_values(self._trial_id(number), state, values)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def elapsed_s(self) -> float:
        """Seconds that earlier runs of this search took, up to their last trial's end."""
        records = (frozen.user_attrs.get(_OUTCOME) for frozen in self.study.get_trials(deepcopy=False))
        return max((record["elapsed_s"] for record in records if record), default=0.0)


def read_trial(frozen: FrozenTrial) -> Trial | None:
    """A finished trial in this product's terms; None for one that is not its own evaluation.

    Those are repetitions of a known configuration, trials that a rule refused, and abandoned ones.
    """
    record, described = frozen.user_attrs.get(_OUTCOME), frozen.user_attrs.get(_CONFIGURATION)
    if record is None or described is None or _REPEAT in frozen.user_attrs:
        return None
    keys = (
        "metrics",
        "hardware",
        "infeasible",
        "seconds",
        "model_path",
        "model_digest",
        "error",
        "traceback",
        "pruned_at",
    )
    intermediate = {int(step): value for step, value in record["intermediate"].items()}
    promotion = record.get("promotion")
    return Trial(
        number=frozen.number,
        digest=described["digest"],
        short=described["short"],
        params=described["params"],
        config=described["config"],
        outcome=Outcome(**{key: record[key] for key in keys}, intermediate=intermediate, promotion=promotion),
        difference=record["difference"],
        is_candidate=record["is_candidate"],
        started=datetime.fromisoformat(record["started"]),
        ended=datetime.fromisoformat(record["ended"]),
        stage=frozen.user_attrs.get(_STAGE),
        values=None if record["values"] is None else tuple(record["values"]),
        scaled=record["scaled"],
        violations=record["violations"],
    )


def known(trial: Trial) -> Known:
    """What samplers see of a trial."""
    return Known(trial.number, trial.values, trial.violations)


def _constraint_attributes(violations: Mapping[str, float]) -> Mapping[str, Any]:
    """System attributes of a trial with these constraint values, as Optuna writes them."""
    return create_trial(state=TrialState.FAIL, constraints=dict(violations)).system_attrs


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
