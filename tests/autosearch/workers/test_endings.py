from __future__ import annotations

import subprocess
import sys

import pytest

from autosearch.workers.endings import ending


@pytest.mark.parametrize(
    ("code", "described"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.abort()", "SIGABRT (a library gave up)"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL (by somebody, or for want of memory)"),
        ("import os; os.kill(os.getpid(), 15)", "SIGTERM"),
        ("import os; os.kill(os.getpid(), 40)", "signal 40"),
    ],
    ids=["exit", "abort", "kill", "terminate", "without a name"],
)
def test_signals_and_exit_codes_in_words(code: str, described: str) -> None:
    assert ending(subprocess.run([sys.executable, "-c", code]).returncode) == described
