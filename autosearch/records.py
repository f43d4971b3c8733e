"""best.json and log.json while a search runs: written when there is something new, at bearable cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autosearch.files import MOST_BEST, write_best, write_log
from autosearch.ledger import Ledger
from autosearch.trial import Trial

_LOG_EVERY_S = 5.0
_LOG_SHARE = 0.02
"""log.json is rewritten at most this often and for this share of the time; the study has it all."""


class Records:
    """The two files of one search."""

    def __init__(self, directory: Path, ledger: Ledger, source: Mapping[str, Any]) -> None:
        """Writes nothing yet.

        Args:
            directory: Where.
            ledger: What they show.
            source: Model and data, for replaying configurations.
        """
        self._directory = directory
        self._ledger = ledger
        self._source = source
        self._log_after = time.monotonic() + _LOG_EVERY_S
        self._best: Mapping[int, tuple[Trial, str]] = {}

    def write_best(self) -> None:
        """The candidates, or the best trial alone."""
        best = self._ledger.best_trials(MOST_BEST)
        self._best = write_best(self._directory, best, self._source, self._best)

    def write_log(self) -> None:
        """All trials."""
        start = time.monotonic()
        objectives = len(self._ledger.objectives.names)
        write_log(self._directory, self._ledger.by_number(), objectives, self._source)
        took = time.monotonic() - start
        self._log_after = start + max(_LOG_EVERY_S, took / _LOG_SHARE)

    def write_log_if_due(self) -> None:
        """All trials, unless they were written just now."""
        if time.monotonic() > self._log_after:
            self.write_log()
