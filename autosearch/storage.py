"""Opening Optuna storages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages._rdb.models import TrialParamModel
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event

from autosearch.errors import StudyError

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
        return get_storage(_sqlite(url) if url.startswith("sqlite:") else _Database(url))
    except Exception as error:  # drivers raise types of their own
        raise StudyError(f"storage {url!r}: cannot be opened: {error}") from error


def sqlite_url(directory: Path) -> str:
    """The default storage of an output directory."""
    return f"sqlite:///{(directory / 'study.db').resolve()}"


class _Database(RDBStorage):
    """Writes the parameters of a new trial together.

    Optuna looks for an earlier parameter of each name first, to compare distributions; a study's fingerprint
    says already that its space is the same. With 126 parameters that is 5 ms instead of 80.
    """

    def _set_trial_param_without_commit(
        self,
        session: Any,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,
    ) -> None:
        session.add(
            TrialParamModel(
                trial_id=trial_id,
                param_name=param_name,
                param_value=param_value_internal,
                distribution_json=distribution_to_json(distribution),
            )
        )


def _sqlite(url: str) -> RDBStorage:
    storage = _Database(url, engine_kwargs={"connect_args": {"timeout": _SQLITE_TIMEOUT_S}})

    @event.listens_for(storage.engine, "connect")
    def write_ahead(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections made before have other settings
    return storage
