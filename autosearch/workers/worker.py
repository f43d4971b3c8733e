"""What a worker process does: receives the objective once, then trials, one at a time."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from autosearch.errors import OutputError
from autosearch.objective import Objective
from autosearch.search_log import LIBRARIES
from autosearch.trial import Outcome
from autosearch.workers.executor import Task
from quant.cache import StageCount

_PARENT_CHECKED_EVERY_S = 0.5


@dataclass(frozen=True)
class Ready:
    """The objective has been opened."""


@dataclass(frozen=True)
class Refused:
    """The objective cannot be opened here.

    Attributes:
        error: Why.
    """

    error: str


@dataclass(frozen=True)
class Computed:
    """A trial has been computed.

    Attributes:
        outcome: What came out.
        stages: What this process's stage cache did so far, by stage.
    """

    outcome: Outcome
    stages: Mapping[str, StageCount]


@dataclass(frozen=True)
class Halted:
    """There is no point in trying any trial.

    Attributes:
        error: Why.
    """

    error: str


@dataclass(frozen=True)
class Logged:
    """A line for the one log.

    Attributes:
        logger: Its name.
        level: Of `logging`.
        message: Formatted.
    """

    logger: str
    level: int
    message: str


def serve(connection: Connection, parent: int, levels: Mapping[str, int], payload: bytes) -> None:
    """Computes what is asked for until the connection is closed.

    Args:
        connection: Gives `Task`s, takes the messages above.
        parent: Process id; this process does not outlive it.
        levels: Of loggers, by name.
        payload: The pickled objective.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(connection.fileno(), False)  # what trials start would keep it open
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    channel = _Channel(connection)
    for library in LIBRARIES:
        logging.getLogger(library).addHandler(channel)
        logging.getLogger(library).propagate = False  # the parent passes it on
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        objective: Objective = pickle.loads(payload)
    except Exception as error:  # noqa: BLE001 - whatever the user's module or __setstate__ raises
        channel.send(Refused("".join(traceback.format_exception_only(error)).strip()))
        return
    del payload
    channel.send(Ready())
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            outcome = objective(task.config, task.path, task.judge)
        except OutputError as error:
            channel.send(Halted(str(error)))
        else:
            channel.send(Computed(outcome, objective.stages))
        _give_memory_back()


def _give_memory_back() -> None:
    """Between two trials: what glibc keeps of arrays that were freed, among them copies of the weights.

    Having it give back each array when it is freed would cost a finetuning 12 % of its time in page faults.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


class _Channel(logging.Handler):
    """Sends messages, and what is logged; from any thread."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.send(Logged(record.name, record.levelno, record.getMessage()))
        except OSError:  # the parent is gone, and soon this process
            self.handleError(record)


def _end_with(parent: int) -> None:
    """Ends this process, and what it started, soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECKED_EVERY_S)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
