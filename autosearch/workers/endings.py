"""How a process ended, in words."""

from __future__ import annotations

import signal

_CAUSES = {
    "SIGABRT": "a library gave up",
    "SIGBUS": "a file that it had mapped is gone, or the disk is full",
    "SIGFPE": "an arithmetic fault",
    "SIGILL": "an instruction that this processor does not have",
    "SIGKILL": "by somebody, or for want of memory",
    "SIGSEGV": "a fault in a library",
}


def ending(exit_code: int) -> str:
    """Signal or exit code, with what it may mean.

    Args:
        exit_code: As `subprocess` has it: minus the number of a signal.
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
    cause = _CAUSES.get(name)
    return name if cause is None else f"{name} ({cause})"
