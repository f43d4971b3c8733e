"""A trial as it is recorded: what was tried, what came out, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quant.cache import StageCount

State = Literal["complete", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """What one execution of a configuration gave.

    Attributes:
        metrics: Value by metric name; empty if it failed.
        seconds: Time by step: ``quantize`` and ``evaluate``.
        model_path: Where the quantized model is; None if there is none.
        model_digest: Of that file and what it refers to (`autosearch.digest.model_digest`).
        error: ``ExceptionType: message`` if it failed.
        traceback: Of that exception.
        intermediate: Value of the searched metric by percentage of the evaluation data; empty without
            a pruner.
        promotion: What automatic mixed precision decided, on a line; None without it.
        pruned_at: The percentage after which evaluation was given up; None if it was not.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    model_path: str | None = None
    model_digest: str | None = None
    error: str | None = None
    traceback: str | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)
    pruned_at: int | None = None
    promotion: str | None = None

    @property
    def seconds_saved(self) -> float:
        """Of evaluation, had the rest of it taken as long as its part."""
        if self.pruned_at is None:
            return 0.0
        return self.seconds.get("evaluate", 0.0) * (100 / self.pruned_at - 1)


@dataclass(frozen=True)
class Trial:
    """One configuration of a search and its outcome.

    Attributes:
        number: Its number in the study; unique, in the order of starting.
        digest: Of the effective configuration.
        short: What distinguishes it within the space, on a line.
        params: What was chosen, flat.
        config: The full effective configuration, nested as `quant.QuantConfig` takes it.
        outcome: Metrics, times, model, or the error.
        difference: Of the searched metric against the float model; None if it failed.
        is_candidate: Whether the difference is within tolerance.
        started, ended: Local time.
        stage: Of a search in stages; None where there is one alone.
    """

    number: int
    digest: str
    short: str
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    outcome: Outcome
    difference: float | None
    is_candidate: bool
    started: datetime
    ended: datetime
    stage: str | None = None

    @property
    def state(self) -> State:
        """Whether it has metrics, and why not."""
        if self.outcome.pruned_at is not None:
            return "pruned"
        return "failed" if self.outcome.error is not None else "complete"

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(self.outcome.seconds.values())


@dataclass(frozen=True)
class SearchResult:
    """What a search found; it is never without its trials.

    Attributes:
        trials: All, by number.
        candidates: Those within tolerance, best first.
        best: The trial with the least difference, candidate or not; None if all failed.
        stop_reason: Why the search ended, in words.
        interrupted: Whether a person ended it.
        seconds: Wall-clock time, earlier runs of a resumed search included.
        stages: What the stage caches of all processes computed and found, by stage.
    """

    trials: tuple[Trial, ...]
    candidates: tuple[Trial, ...]
    best: Trial | None
    stop_reason: str
    interrupted: bool
    seconds: float
    stages: Mapping[str, StageCount] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Trials that ended with an exception."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def pruned(self) -> tuple[Trial, ...]:
        """Trials whose evaluation was given up."""
        return tuple(trial for trial in self.trials if trial.state == "pruned")
