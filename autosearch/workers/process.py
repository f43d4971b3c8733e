"""One worker process, as its parent sees it: started, asked, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.spawn import get_executable
from typing import Any

from autosearch.search_log import log_levels
from autosearch.workers.executor import Task

_START = (
    "import sys\n"
    "from multiprocessing.connection import Connection\n"
    "connection = Connection(int(sys.argv[1]))\n"
    "parent, levels, sys.path[:], sys.argv[:] = connection.recv()\n"
    "payload = connection.recv_bytes()\n"  # before the imports below, which take a second
    "from autosearch.deferred_imports import defer_imports\n"
    "defer_imports()\n"
    "from autosearch.workers.worker import serve\n"
    "serve(connection, parent, levels, payload)\n"
)
"""Neither imports the caller's script nor runs it again, as multiprocessing's own processes would."""

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""What glibc comes to by itself, from the start: within a trial it keeps most arrays for the next ones."""
_LAST_WORDS_S = 5.0
"""How long an idle process may take to end by itself."""


class WorkerProcess:
    """A process in a group of its own, so that what its trials start ends with it.

    Attributes:
        number: From 1; a process that takes the place of another one has the same.
        connection: To it.
        task: What it computes; None = nothing.
        is_ready: Whether it has opened the objective.
    """

    def __init__(self, number: int, threads: int, environment: Mapping[str, str]) -> None:
        """Starts the process, which then waits for its objective.

        Args:
            number: Of the worker.
            threads: Of libraries that compute; 0 = as many as they like.
            environment: What it has beside this process's own.
        """
        self.number = number
        self.task: Task | None = None
        self.is_ready = False
        self._began = 0.0
        self.connection, theirs = Pipe()
        with theirs, _without_interruptions():
            self._process = subprocess.Popen(
                [get_executable(), "-P", "-c", _START, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**_environment(threads), **environment},
                process_group=0,
            )
        self._death = _open_pidfd(self._process.pid)

    def equip(self, payload: bytes) -> None:
        """Sends the pickled objective; a process that has died is noticed by whoever waits for it."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((os.getpid(), log_levels(), sys.path, sys.argv))
            self.connection.send_bytes(payload)

    def begin(self, task: Task) -> None:
        """Sends a trial; likewise."""
        self.task = task
        self._began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def ready(self) -> None:
        """Notes that the objective has been opened: the trial's time begins now."""
        self.is_ready = True
        self._began = time.monotonic()

    @property
    def waited_s(self) -> float:
        """Since the trial began; 0 where none has."""
        return time.monotonic() - self._began if self.task is not None and self.is_ready else 0.0

    @property
    def handles(self) -> tuple[Any, ...]:
        """For `multiprocessing.connection.wait`: messages, and the end of the process."""
        return (self.connection,) if self._death is None else (self.connection, self._death)

    def messages(self) -> Iterator[Any]:
        """What it has sent so far.

        Raises:
            EOFError: At the end of them, if the process has ended.
        """
        ended = self._has_ended()  # before reading: what it sent before its end is read, all of it
        while self.connection.poll():
            try:
                yield self.connection.recv()
            except OSError as error:
                raise EOFError from error
        if ended:
            raise EOFError

    def _has_ended(self) -> bool:
        """Without reaping, after which the number of its group could be another one's."""
        if not os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        self._kill_group()  # what it started may hold the connection
        return True

    def kill(self) -> int:
        """Ends the process and what it started.

        Returns:
            Its exit code; minus the signal's number if a signal ended it.
        """
        if self._process.returncode is None:
            self._kill_group()
            self._process.wait()
        self._close()
        return int(self._process.returncode)

    def dismiss(self) -> None:
        """Lets the process end by itself, which `kill` then waits for: with its exit handlers."""
        self.connection.close()

    def has_left(self, deadline: float) -> None:
        """Waits for a dismissed process until then."""
        while not os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS answers so for what is dead
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        self.connection.close()
        if self._death is not None:
            os.close(self._death)
            self._death = None


def end_all(workers: Mapping[int, WorkerProcess]) -> None:
    """Ends processes: busy ones at once, idle ones by themselves where they can."""
    deadline = time.monotonic() + _LAST_WORDS_S
    idle = [worker for worker in workers.values() if worker.task is None and worker.is_ready]
    for worker in idle:
        worker.dismiss()
    for worker in workers.values():
        if worker not in idle:
            worker.kill()
    for worker in idle:
        worker.has_left(deadline)
        worker.kill()


def _open_pidfd(pid: int) -> int | None:
    """What becomes readable at the end of a process; elsewhere than on Linux its connection must do."""
    return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None


def _environment(threads: int) -> dict[str, str]:
    environment = {**_ALLOCATION, **os.environ}
    for name in _THREADS if threads else ():
        given = environment.get(name, "")
        environment[name] = str(min(int(given), threads) if given.isdigit() and int(given) else threads)
    return environment


@contextmanager
def _without_interruptions() -> Iterator[None]:
    """Processes that start here do not see Ctrl-C until they ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
