"""Why a transform or a rule left a node alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Skip:
    """A node that was left as it was, and the reason in words for the log."""

    node: str
    reason: str
