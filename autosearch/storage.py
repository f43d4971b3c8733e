"""Opening Optuna storages."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages._rdb.models import TrialModel, TrialParamModel
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy import event, insert

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


def trial_number(storage: BaseStorage, trial_id: int) -> int:
    """The number of a trial that was just created; Optuna would read all of it, parameters included."""
    known: Mapping[int, tuple[int, int]] = getattr(storage, "_trial_id_to_study_id_and_number", {})
    return known[trial_id][1] if trial_id in known else storage.get_trial_number_from_id(trial_id)


class _Database(RDBStorage):
    """Writes the parameters of a new trial together.

    Optuna looks for an earlier parameter of each name first, to compare distributions; a study's fingerprint
    says already that its space is the same. With 108 parameters that is 9 ms instead of 80.
    """

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> TrialModel:
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


def _sqlite(url: str) -> RDBStorage:
    storage = _Database(url, engine_kwargs={"connect_args": {"timeout": _SQLITE_TIMEOUT_S}})

    @event.listens_for(storage.engine, "connect")
    def write_ahead(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections made before have other settings
    return storage
