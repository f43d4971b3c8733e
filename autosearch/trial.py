"""A trial as it is recorded: what was tried, what came out, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quant.cache import StageCount

State = Literal["complete", "infeasible", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """What one execution of a configuration gave.

    Attributes:
        metrics: Value by metric name, of software; empty if it was not evaluated to the end.
        seconds: Time by step: ``quantize`` and ``evaluate``.
        model_path: Where the quantized model is; None if there is none.
        model_digest: Of that file and what it refers to (`autosearch.digest.model_digest`).
        error: ``ExceptionType: message`` if it failed.
        traceback: Of that exception.
        intermediate: Value of the searched metric by percentage of the evaluation data; empty without
            a pruner.
        promotion: What automatic mixed precision decided, on a line; None without it.
        pruned_at: The percentage after which evaluation was given up; None if it was not.
        hardware: Value by metric name, of hardware.
        infeasible: Whether it was not evaluated, because its hardware metrics break a constraint.
        notes: What a reader of the hardware metrics has to know, in sentences.
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
    hardware: Mapping[str, float] = field(default_factory=dict)
    infeasible: bool = False
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> dict[str, float]:
        """Every value by metric name, of software and of hardware."""
        return {**self.metrics, **self.hardware}

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
        difference: Of the searched metric against the float model; None if it failed, or if there are
            objectives instead.
        is_candidate: Whether it keeps to the constraints and is within tolerance or, of several
            objectives, no other such trial betters it in all.
        started, ended: Local time.
        stage: Of a search in stages; None where there is one alone.
        values: Of the objectives, in the study's order; None if it was not evaluated to the end.
        scaled: Scale times value, by metric.
        violations: By constraint, as a share of its limit; at most 0 where it is kept to.
        machine: Where it ran, and where its model is; None if nobody knows.
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
    values: tuple[float, ...] | None = None
    scaled: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    machine: str | None = None

    @property
    def violated(self) -> dict[str, float]:
        """The constraints that it breaks."""
        return {name: beyond for name, beyond in self.violations.items() if beyond > 0}

    @property
    def state(self) -> State:
        """Whether it has metrics, and why not."""
        if self.outcome.infeasible:
            return "infeasible"
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
        candidates: Best first: those that keep to tolerance and constraints or, of several objectives,
            the Pareto front among them.
        best: Of all trials with a result, candidate or not; None if there is none. Of a Pareto front, the
            trial that is best in the first objective.
        stop_reason: Why the search ended, in words.
        interrupted: Whether a person ended it.
        seconds: Wall-clock time, earlier runs of a resumed search included.
        stages: What the stage caches of all processes computed and found, by stage.
        front: The Pareto front; of one objective, the best candidate alone.
    """

    trials: tuple[Trial, ...]
    candidates: tuple[Trial, ...]
    best: Trial | None
    stop_reason: str
    interrupted: bool
    seconds: float
    stages: Mapping[str, StageCount] = field(default_factory=dict)
    front: tuple[Trial, ...] = ()

    @property
    def infeasible(self) -> tuple[Trial, ...]:
        """Trials that break a constraint, evaluated or not."""
        return tuple(trial for trial in self.trials if trial.violated)

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Trials that ended with an exception."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def pruned(self) -> tuple[Trial, ...]:
        """Trials whose evaluation was given up."""
        return tuple(trial for trial in self.trials if trial.state == "pruned")
