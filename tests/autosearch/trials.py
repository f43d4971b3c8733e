"""Trials made by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from autosearch import Outcome, Trial
from quant import QuantConfig

START = datetime(2026, 1, 2, 3, 4, 5, 678_000)


def make_trial(number: int, value: float | None = None, **changes: Any) -> Trial:
    """A trial of half a second that gave `value`, or failed."""
    failed = Outcome(error="RuntimeError: no luck", traceback="Traceback ...")
    succeeded = Outcome(
        {"L2": value or 0.0}, {"quantize": 0.25, "evaluate": 0.125}, f"models/{number}.onnx", f"{number:064x}"
    )
    given: dict[str, Any] = {
        "number": number,
        "digest": f"{number:x}" * 64,
        "short": f"configuration {number}",
        "params": {"per_channel": True},
        "config": QuantConfig(per_channel=True).to_dict(),
        "outcome": failed if value is None else succeeded,
        "difference": value,
        "is_candidate": value is not None,
        "values": None if value is None else (value,),
        "scaled": {} if value is None else {"L2": value},
        "started": START,
        "ended": START + timedelta(milliseconds=500),
    }
    return Trial(**{**given, **changes})
