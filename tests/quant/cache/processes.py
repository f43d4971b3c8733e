"""What the processes of the cache's tests do; importable, because they are started afresh."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quant.cache import Stage, StageCache

PATIENCE_S = 60


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def decode(data: memoryview) -> Any:
    return json.loads(bytes(data))


STAGE: Stage[Any] = Stage("squares", 1, 100, encode, decode)
FORGETFUL: Stage[Any] = Stage("squares", 1, 0, encode, decode)
"""Keeps nothing in memory, so that every look goes to disk."""


def start(function: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One process for each tuple."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=function, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[Any]) -> list[int]:
    """Their exit codes."""
    for process in processes:
        process.join(PATIENCE_S)
    return [process.exitcode for process in processes]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"waited for {path} in vain"
        time.sleep(0.005)


def slowly(directory: Path, records: Path, others: int) -> None:
    """Asks for one result at the same time as others do, and notes who computed it."""

    def compute() -> int:
        (records / f"computed{os.getpid()}").touch()
        time.sleep(0.5)
        return 49

    (records / f"ready{os.getpid()}").touch()
    while len(list(records.glob("ready*"))) < others:
        time.sleep(0.005)
    assert StageCache(directory).get(STAGE, {"x": 7}, compute) == 49


def forever(directory: Path, begun: Path) -> None:
    """Computes a result and never ends."""

    def compute() -> int:
        begun.touch()
        time.sleep(1000)
        return 0

    StageCache(directory).get(STAGE, {"x": 7}, compute)


def hammer(directory: Path, limit_bytes: int, seed: int, turns: int) -> None:
    """Asks for results in random order, of which few have room; checks each."""
    cache, rng = StageCache(directory, limit_bytes), random.Random(seed)
    for _ in range(turns):
        x = rng.randrange(40)
        assert cache.get(FORGETFUL, {"x": x}, lambda x=x: [x] * 100) == [x] * 100
