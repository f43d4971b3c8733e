"""Whether trials run here or in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from autosearch.config import AutoSearchConfig
from autosearch.devices import read_devices
from autosearch.errors import ConfigError
from autosearch.objective import Objective
from autosearch.workers.executor import Distrustful, Executor, InProcess
from autosearch.workers.processes import WorkerProcesses, can_travel

_MOST_ABANDONED_HERE = 2
"""Times that a run ended within a trial before the trial is taken for the cause."""
_MOST_ABANDONED_ISOLATED = 10
"""The same where a trial could take the run with it only by the memory or the time of the machine."""


def check_isolation(settings: AutoSearchConfig) -> None:
    """Refuses trials in this process where that cannot be.

    Raises:
        ConfigError: With the key and the remedy.
    """
    devices = read_devices(settings.search_devices)
    devices.environments(os.environ)
    if settings.isolate_trials is not False:
        return
    if devices.gpus:
        raise ConfigError(
            "isolate_trials: false runs trials in this process, search_devices:"
            f" {settings.search_devices!r} in one for each GPU; leave one of them out"
        )
    if settings.n_jobs > 1:
        raise ConfigError(
            f"isolate_trials: false runs trials in this process, n_jobs: {settings.n_jobs} in processes of"
            " their own; leave one of them out"
        )
    if settings.trial_timeout is not None:
        raise ConfigError(
            "isolate_trials: false runs trials in this process, which trial_timeout could not end; leave"
            " one of them out"
        )


def make_executor(
    objective: Objective, settings: AutoSearchConfig, abandoned: Mapping[Path, int] = MappingProxyType({})
) -> Executor:
    """What the settings ask for.

    Args:
        objective: What every trial does.
        settings: Of the search.
        abandoned: How often earlier runs of the search ended within a trial, by the path of its model.
            The trial may have been the cause: it runs in a process of its own unless that was forbidden.
    """
    devices = read_devices(settings.search_devices)
    isolated = settings.isolate_trials
    if isolated is None:
        isolated = settings.n_jobs > 1 or settings.trial_timeout is not None or bool(devices.gpus)
        isolated |= bool(abandoned) and can_travel(objective)
    if isolated:
        objective.prepare()
        workers = WorkerProcesses(
            objective,
            settings.n_jobs,
            threads=objective.threads,
            timeout_s=settings.trial_timeout,
            environments=devices.environments(os.environ),
        )
        return Distrustful(workers, abandoned, _MOST_ABANDONED_ISOLATED)
    return Distrustful(InProcess(objective), abandoned, _MOST_ABANDONED_HERE)
