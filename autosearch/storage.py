"""Storages of studies by URL. They wait for a database that is away for a while."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages._rdb.models import TrialModel, TrialParamModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, insert
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
)

from autosearch.config import PATIENCE_S
from autosearch.errors import StudyError
from autosearch.journal import Journal

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_JOURNAL = "journal:"
_SQLITE_TIMEOUT_S = 60
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_OPENINGS = 20
"""Several processes that make the tables of an empty database at once get in each other's way."""
_BUSY = ("database is locked", "database table is locked", "database schema is locked")
"""What SQLite says of what passes; all else that it refuses stays refused."""
_CALLS = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "get_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "_get_best_trial_id",
)
"""What Optuna's cache of trials asks a database."""


def open_storage(url: str, patience_s: float = PATIENCE_S) -> BaseStorage:
    """An Optuna storage: SQLite and other databases by URL, ``journal:PATH`` for a journal file.

    SQLite is opened with a write-ahead log, which costs a tenth per trial and lets others read. Databases
    come with Optuna's cache of trials in front, which knows numbers and finished trials by itself. Once a
    database is open, a call that fails because it is away or busy is made again until it succeeds.

    Args:
        url: Where it is.
        patience_s: Most seconds of trying again, after which the call raises
            `optuna.exceptions.StorageInternalError`.

    Raises:
        StudyError: If it cannot be opened.
    """
    try:
        if url.startswith(_JOURNAL):
            return _JournalStorage(Journal(url.removeprefix(_JOURNAL)))
        return get_storage(_open_database(url, patience_s))
    except Exception as error:  # drivers raise types of their own
        shown = shown_url(url)
        raise StudyError(
            f"storage {shown!r}: cannot be opened: {_reason(error)}{_remedy(url, error)}"
        ) from error


def sqlite_url(directory: Path) -> str:
    """The default storage of an output directory."""
    return f"sqlite:///{(directory / 'study.db').resolve()}"


def trial_number(storage: BaseStorage, trial_id: int) -> int:
    """The number of a trial that was just created; Optuna would read all of it, parameters included."""
    known: Mapping[int, tuple[int, int]] = getattr(storage, "_trial_id_to_study_id_and_number", {})
    return known[trial_id][1] if trial_id in known else storage.get_trial_number_from_id(trial_id)


def stamp_trials(storage: BaseStorage, attributes: Mapping[str, Any]) -> None:
    """Lets all running trials that are created through this storage begin with these user attributes.

    They are written together with the trial: it is never without them.
    """
    stamped = storage if isinstance(storage, _JournalStorage) else getattr(storage, "_backend", None)
    assert isinstance(stamped, _Database | _JournalStorage), storage
    stamped.stamp = dict(attributes)


def close_session(storage: BaseStorage) -> None:
    """Gives back the connection of this thread."""
    database = getattr(storage, "_backend", None)
    if isinstance(database, RDBStorage):
        database.remove_session()


class Patience:
    """Makes calls again that failed for a reason that passes."""

    def __init__(self, most_s: float) -> None:
        """Begins full of it.

        Args:
            most_s: Seconds of trying again in a row.
        """
        self._most_s = most_s
        self._is_lost = False

    def call(self, function: Callable[[bool], _T], reset: Callable[[], None]) -> _T:
        """What the function returns.

        Args:
            function: Told whether it was called before.
            reset: Called between two calls.

        Raises:
            StorageInternalError: If the reason does not pass in time. Until the next call that succeeds,
                none is made again: whoever cleans up does not wait once more.
        """
        began, pause, tried = time.monotonic(), _FIRST_PAUSE_S, False
        while True:
            try:
                result = function(tried)
            except Exception as error:
                reset()
                waited = time.monotonic() - began
                if not passes(error) or self._is_lost or waited >= self._most_s:
                    self._is_lost |= passes(error)
                    raise
                if not tried:
                    _log.warning("storage: %s; trying again for up to %.0f s", _reason(error), self._most_s)
                time.sleep(min(pause, self._most_s - waited))
                tried, pause = True, min(2 * pause, _LONGEST_PAUSE_S)
                continue
            self._is_lost = False
            if tried:
                _log.warning("storage: back after %.1f s", time.monotonic() - began)
            return result


def passes(error: BaseException) -> bool:
    """Whether the cause of an error may go away by itself: a connection lost, a server that starts."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, PendingRollbackError):  # Optuna went on after a connection was lost
        return True
    if not isinstance(cause, DBAPIError):
        return False
    if "sqlite" in type(cause.orig).__module__:
        return any(words in str(cause.orig) for words in _BUSY)
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)


class _Database(RDBStorage):
    """Optuna's, patient, and with a stamp for new trials."""

    def __init__(self, url: str, patience_s: float, **engine_kwargs: Any) -> None:
        self.stamp: dict[str, Any] = {}
        self.patience = Patience(0)  # an opening that fails is told at once
        super().__init__(url, engine_kwargs)
        self.patience = Patience(patience_s)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        return super()._create_new_trial(study_id, _stamped(template_trial, self.stamp))

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> TrialModel:
        """Writes the parameters together.

        Optuna looks for an earlier parameter of each name first, to compare distributions; a study's
        fingerprint says already that its space is the same. With 108 parameters that is 9 ms instead of 80.
        """
        if template_trial is None or not template_trial.params:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        bare = copy(template_trial)
        bare.params, bare.distributions = {}, {}
        trial = super()._get_prepared_new_trial(study_id, bare, session)
        rows = [
            {
                "trial_id": trial.trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(template_trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in template_trial.distributions.items()
        ]
        session.execute(insert(TrialParamModel), rows)
        return trial


class _JournalStorage(JournalStorage):
    def __init__(self, journal: Journal) -> None:
        self.stamp: dict[str, Any] = {}
        super().__init__(journal)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return super().create_new_trial(study_id, _stamped(template_trial, self.stamp))


def running_trial(
    params: Mapping[str, Any],
    distributions: Mapping[str, Any],
    attributes: Mapping[str, Any],
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A template of a trial that begins now."""
    return FrozenTrial(
        number=-1,  # the storage numbers it
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs=dict(attributes),
        system_attrs=dict(system_attrs or {}),
        intermediate_values={},
    )


def _stamped(template: FrozenTrial | None, stamp: Mapping[str, Any]) -> FrozenTrial | None:
    if not stamp or (template is not None and template.state is not TrialState.RUNNING):
        return template
    template = template or running_trial({}, {}, {})
    template.user_attrs = {**stamp, **template.user_attrs}
    return template


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(_Database, name)

    @functools.wraps(method)
    def call(self: _Database, *arguments: Any, **named: Any) -> Any:
        def attempt(again: bool) -> Any:
            try:
                return method(self, *arguments, **named)
            except UpdateFinishedTrialError:
                # of another attempt, which had arrived after all?
                if again and name == "set_trial_state_values":
                    wanted = named["state"] if "state" in named else arguments[1]
                    if self.get_trial(arguments[0]).state is wanted:
                        return True
                raise

        return self.patience.call(attempt, self.scoped_session.remove)

    return cast(Callable[..., Any], call)


for _name in _CALLS:
    setattr(_Database, _name, _patient(_name))


def _open_database(url: str, patience_s: float) -> _Database:
    for attempt in range(_OPENINGS):
        try:
            return _sqlite(url, patience_s) if url.startswith("sqlite") else _server(url, patience_s)
        except (IntegrityError, ProgrammingError, OperationalError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            met = isinstance(cause, IntegrityError) or "already exists" in str(cause) or passes(error)
            away = isinstance(cause, OperationalError) and not url.startswith("sqlite")
            if attempt + 1 == _OPENINGS or not met or (away and "already exists" not in str(cause)):
                raise
            time.sleep(_FIRST_PAUSE_S)
    raise AssertionError


def _sqlite(url: str, patience_s: float) -> _Database:
    storage = _Database(url, patience_s, connect_args={"timeout": _SQLITE_TIMEOUT_S})

    @event.listens_for(storage.engine, "connect")
    def write_ahead(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections made before have other settings
    return storage


def _server(url: str, patience_s: float) -> _Database:
    return _Database(url, patience_s, pool_pre_ping=True)


def shown_url(url: str) -> str:
    """Without the password."""
    scheme, separator, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}{at}{host}"


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    original = getattr(cause, "orig", None) or cause
    lines = (line.strip() for line in str(original).splitlines())
    return "; ".join(line for line in lines if line)


_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""Database -> what its URLs begin with; the extras that bring the drivers are called like the databases."""

_FORMS = (
    "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, mysql+pymysql://USER:PASSWORD@HOST/DATABASE,"
    " sqlite:////FOLDER/study.db or journal:PATH"
)


def _remedy(url: str, error: BaseException) -> str:
    database = url.partition("://")[0].partition("+")[0]
    if isinstance(error, ImportError) and database in _DRIVERS:
        return f"; write {_DRIVERS[database]}://..., and install with: pip install 'autosearch[{database}]'"
    if url.startswith(_JOURNAL) or database == "sqlite":
        return "; its folder has to exist and to be writable"
    return "" if database in _DRIVERS else f"; give {_FORMS}"
