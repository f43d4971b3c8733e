"""SIGKILL of a worker, or of the parent, at random moments."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest

from tests.autosearch.models import DISTINCT
from tests.faults.processes import PATIENCE_S, is_running, wait_until
from tests.faults.searches import Search

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

MOMENTS = 20


def test_workers_killed_at_random_moments(search: Search) -> None:
    """Each of the 20 hits a worker that starts, quantizes, evaluates or waits for the next trial."""
    rng = np.random.default_rng(7)
    process = search.start("--n-jobs", 2, evaluation_s=0.5)
    kills = 0
    while process.poll() is None and kills < MOMENTS:
        begun = len(search.evaluated())
        if kills % 2:  # else at any moment, in which nothing may have happened since the last one
            wait_until(lambda b=begun: len(search.evaluated()) > b or not is_running(process.pid))
        time.sleep(rng.uniform(0, 1))
        workers = sorted(search.processes() - {process.pid})
        if workers:
            os.kill(int(rng.choice(workers)), signal.SIGKILL)
            kills += 1
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert kills >= MOMENTS // 2
    failures = search.failures()
    assert set(failures.values()) <= {"WorkerDied: twice, SIGKILL (by somebody, or for want of memory)"}
    search.check_end(failed=len(failures))
    begun = Counter(name for name, _ in search.evaluated())
    assert begun.total() <= len(search.complete()) + kills


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_parent_killed_at_random_moments(search: Search, jobs: int) -> None:
    """From its first import to its last trial, with and without workers, and the same command again."""
    rng = np.random.default_rng(jobs)
    for kill in range(MOMENTS):
        before = search.complete()
        begun = len(search.evaluated())
        process = search.start("--n-jobs", jobs, evaluation_s=0.3)
        if kill % 2:
            time.sleep(rng.uniform(0, 4))
        else:
            enough = begun + 1 + jobs
            wait_until(lambda n=enough, p=process: len(search.evaluated()) >= n or not is_running(p.pid))
            time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        wait_until(lambda: not search.processes())
        after = search.complete()
        assert before.items() <= after.items(), "a finished trial was lost"
        again = {name for name, _ in search.evaluated()[begun:]} & {d[:16] for d in before.values()}
        assert not again, "a finished trial was evaluated again"
        if (search.folder / "out" / "best.json").exists():
            search.check_records()
    search.finish("--n-jobs", jobs)
    search.check_end()
    assert len(Counter(name for name, _ in search.evaluated())) == DISTINCT
