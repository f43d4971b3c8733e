"""The clock of the machine is set while a search runs."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest

from autosearch import AutoSearch
from tests.autosearch.models import DISTINCT, make_feeds

pytestmark = pytest.mark.faults

HOUR_S = 3600.0


@pytest.mark.parametrize(
    "jump_s", [-HOUR_S, pytest.param(HOUR_S, marks=pytest.mark.slow)], ids=["back", "ahead"]
)
def test_limits_and_order_do_not_follow_it(
    model: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """An hour in the middle of the search is neither waited for nor counted."""
    offset = 0.0
    real = time.time

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(real() + offset, tz)

    def evaluate(path: str) -> float:
        nonlocal offset
        if path != str(model):
            offset += jump_s / 4
        return 0.5

    monkeypatch.setattr(time, "time", lambda: real() + offset)
    monkeypatch.setattr("autosearch.run.datetime", Clock)
    monkeypatch.setattr("autosearch.trial_records.datetime", Clock)
    limited = {
        **settings,
        "search_evaluator": evaluate,
        "search_stop_condition": {"time_limit": HOUR_S / 2},
    }
    search = AutoSearch(None, limited, model, make_feeds())
    assert len(search.search_model()) == DISTINCT
    assert search.result is not None
    assert search.result.stop_reason.startswith("every configuration")
    assert 0 < search.result.seconds < HOUR_S / 2
    again = AutoSearch(None, limited, model, make_feeds())
    again.search_model()
    assert again.result is not None
    assert [t.number for t in again.result.trials] == [t.number for t in search.result.trials]
