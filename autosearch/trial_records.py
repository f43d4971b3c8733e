"""What a trial is in Optuna's records: the attributes that this product writes, and reads again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from autosearch.parents import host_of
from autosearch.samplers import Proposal
from autosearch.trial import Outcome, State, Trial

CONFIGURATION = "configuration"
OUTCOME = "outcome"
REPEAT = "repeat_of"
STAGE = "stage"
ABANDONED = "abandoned"
OWNER = "owner"
"""Attributes of a trial."""

STATES: Mapping[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,  # with its violations, of which TPE learns
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
}
"""How trials end."""


def begun(proposal: Proposal, stage: str | None) -> dict[str, Any]:
    """Attributes of a trial when it begins."""
    configuration = proposal.configuration
    described = {
        "digest": configuration.digest,
        "short": configuration.short,
        "index": configuration.index,
        "params": dict(configuration.params),
        "config": configuration.config.to_dict(),
    }
    return {CONFIGURATION: described, **({} if stage is None else {STAGE: stage})}


def outcome_record(trial: Trial, elapsed_s: float) -> dict[str, Any]:
    """The attribute `OUTCOME` of a trial, JSON-ready.

    Args:
        trial: With its outcome, its values and its violations.
        elapsed_s: Of the whole search so far.
    """
    return {
        "values": trial.values,
        "metrics": dict(trial.outcome.metrics),
        "hardware": dict(trial.outcome.hardware),
        "infeasible": trial.outcome.infeasible,
        "scaled": dict(trial.scaled),
        "violations": dict(trial.violations),
        "seconds": dict(trial.outcome.seconds),
        "model_path": trial.outcome.model_path,
        "model_digest": trial.outcome.model_digest,
        "error": trial.outcome.error,
        "traceback": trial.outcome.traceback,
        "intermediate": {str(step): each for step, each in trial.outcome.intermediate.items()},
        "pruned_at": trial.outcome.pruned_at,
        "promotion": trial.outcome.promotion,
        "difference": trial.difference,
        "is_candidate": trial.is_candidate,
        "started": trial.started.isoformat(),
        "ended": trial.ended.isoformat(),
        "elapsed_s": elapsed_s,
    }


def read_trial(frozen: FrozenTrial) -> Trial | None:
    """A finished trial in this product's terms; None for one that is not its own evaluation.

    Those are repetitions of a known configuration, trials that a rule refused, and abandoned ones.
    """
    record, described = frozen.user_attrs.get(OUTCOME), frozen.user_attrs.get(CONFIGURATION)
    if record is None or described is None or REPEAT in frozen.user_attrs or is_abandoned(frozen):
        return None
    keys = (
        "metrics",
        "hardware",
        "infeasible",
        "seconds",
        "model_path",
        "model_digest",
        "error",
        "traceback",
        "pruned_at",
    )
    intermediate = {int(step): value for step, value in record["intermediate"].items()}
    promotion = record.get("promotion")
    return Trial(
        number=frozen.number,
        digest=described["digest"],
        short=described["short"],
        params=described["params"],
        config=described["config"],
        outcome=Outcome(**{key: record[key] for key in keys}, intermediate=intermediate, promotion=promotion),
        difference=record["difference"],
        is_candidate=record["is_candidate"],
        started=datetime.fromisoformat(record["started"]),
        ended=datetime.fromisoformat(record["ended"]),
        stage=frozen.user_attrs.get(STAGE),
        values=None if record["values"] is None else tuple(record["values"]),
        scaled=record["scaled"],
        violations=record["violations"],
        machine=host_of(frozen.user_attrs[OWNER]) if OWNER in frozen.user_attrs else None,
    )


def is_abandoned(frozen: FrozenTrial) -> bool:
    """Whether a trial was freed; not if its process came to its end at the same moment."""
    return ABANDONED in frozen.user_attrs and frozen.state is TrialState.FAIL


def digest_of(frozen: FrozenTrial) -> str:
    """Of the configuration of a trial that has one."""
    digest: str = frozen.user_attrs[CONFIGURATION]["digest"]
    return digest


def stage_of(frozen: FrozenTrial) -> str | None:
    """The stage of the search that a trial belongs to."""
    stage: str | None = frozen.user_attrs.get(STAGE)
    return stage


def constraint_attributes(violations: Mapping[str, float]) -> Mapping[str, Any]:
    """System attributes of a trial with these constraint values, as Optuna writes them."""
    return create_trial(state=TrialState.FAIL, constraints=dict(violations)).system_attrs
