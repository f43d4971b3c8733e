"""log.json and best.json: the record for other programs, and what a configuration is replayed from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autosearch.errors import ConfigError
from autosearch.replay import is_sampled_config, key_of_trial, recorded_config
from autosearch.trial import State, Trial
from quant import QuantConfig
from quant.cache import write_atomically

BEST = "best.json"
LOG = "log.json"
_STATES: Mapping[State, str] = {
    "complete": "COMPLETE",
    "infeasible": "INFEASIBLE",
    "failed": "FAIL",
    "pruned": "PRUNED",
}
_LAYERS = "layers."
MOST_BEST = 100
"""Ranks in best.json; the study has all."""


def write_log(directory: Path, trials: Sequence[Trial], objectives: int, source: Mapping[str, Any]) -> None:
    """Every trial by its number, in MASE's form with the configuration added.

    Args:
        directory: Where.
        trials: By number.
        objectives: How many there are: one is ``value``, several are ``values_0``, ``values_1`` ...
        source: Model and data, as `autosearch quantize` needs them.
    """
    entries = {str(trial.number): _json(_logged(trial, objectives, source)) for trial in trials}
    _write(directory / LOG, entries)


def write_best(
    directory: Path,
    ranked: Sequence[Trial],
    source: Mapping[str, Any],
    written: Mapping[int, tuple[Trial, str]] = MappingProxyType({}),
) -> Mapping[int, tuple[Trial, str]]:
    """The best trials by rank.

    Args:
        directory: Where.
        ranked: Best first; candidates, or the best trial alone if there are none.
        source: Model and data, as `autosearch quantize` needs them.
        written: What the last call returned: trials that are as they were are not turned into text again.

    Returns:
        The trials in the file, each with its entry, by number.
    """
    entries: dict[int, tuple[Trial, str]] = {}
    for trial in ranked[:MOST_BEST]:
        before, text = written.get(trial.number, (None, ""))
        entries[trial.number] = trial, text if before is trial else _json(_best_entry(trial, source))
    _write(directory / BEST, {str(rank): text for rank, (_, text) in enumerate(entries.values())})
    return entries


def read_entry(reference: str, trial: int | None = None) -> dict[str, Any]:
    """The recorded trial that ``best.json#0`` or ``log.json#12`` names; or a file with one sampled config.

    Args:
        reference: File and entry; without an entry the first.
        trial: Number of the trial instead.

    Raises:
        ConfigError: If the file, the entry or its configuration is not there.
    """
    path, _, key = reference.partition("#")
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config: no file {path!r}") from None
    except ValueError as error:
        raise ConfigError(f"--config {path!r}: not JSON: {error}") from None
    if not key and trial is None and is_sampled_config(entries):
        entries = {"0": {"sampled_config": entries}}
    if trial is not None and isinstance(entries, dict):
        key = key_of_trial(entries, trial, f"--config {path!r}")
    key = key or "0"
    if not isinstance(entries, dict) or key not in entries:
        known = ", ".join(list(entries)[:10]) if isinstance(entries, dict) else "none"
        raise ConfigError(f"--config {path!r}: no entry {key!r}; there are: {known}")
    entry = entries[key]
    if not isinstance(entry, dict):
        raise ConfigError(f"--config {reference!r}: the entry is not a record of a trial")
    config = recorded_config(entry)
    source = entry.get("source", entry.get("user_attrs_source", {}))
    if not isinstance(config, dict) or not isinstance(source, dict):
        raise ConfigError(f"--config {reference!r}: the entry has no configuration")
    try:
        return {**entry, "config": QuantConfig(**config), "source": source}
    except ConfigError as error:
        raise ConfigError(f"--config {reference!r}: {error}") from None


def finite(value: float | None) -> float | str | None:
    """A number as JSON has it; infinities as words."""
    return value if value is None or math.isfinite(value) else str(value)


def _finite_values(values: Mapping[str, float]) -> dict[str, float | str | None]:
    return {name: finite(value) for name, value in values.items()}


def sampled_config(trial: Trial) -> dict[str, Any]:
    """What was chosen, as MASE writes it: ``{node: {"config": {...}}}``; flat for all other choices."""
    layers = trial.config.get("layers") or {}
    nodes = {node: {"config": dict(chosen)} for node, chosen in layers.items() if isinstance(chosen, Mapping)}
    if not nodes:
        return dict(trial.params)
    others = {key: value for key, value in trial.params.items() if not key.startswith(_LAYERS)}
    return {**others, **nodes}


def _value(trial: Trial) -> float | str | list[float | str | None] | None:
    """Of the objective, or a list of several."""
    if trial.values is None:
        return None
    values = [finite(value) for value in trial.values]
    return values[0] if len(values) == 1 else values


def _logged(trial: Trial, objectives: int, source: Mapping[str, Any]) -> dict[str, Any]:
    values = [None] * objectives if trial.values is None else [finite(value) for value in trial.values]
    names = ["value"] if objectives == 1 else [f"values_{position}" for position in range(objectives)]
    return {
        "number": trial.number,
        **dict(zip(names, values, strict=True)),
        "user_attrs_hardware_metrics": _finite_values(trial.outcome.hardware),
        "user_attrs_sampled_config": sampled_config(trial),
        "user_attrs_scaled_metrics": _finite_values(trial.scaled),
        "user_attrs_software_metrics": _finite_values(trial.outcome.metrics),
        "user_attrs_violations": _finite_values(trial.violations),
        "user_attrs_difference": finite(trial.difference),
        "user_attrs_is_candidate": trial.is_candidate,
        "user_attrs_config": dict(trial.config),
        "user_attrs_config_digest": trial.digest,
        "user_attrs_machine": trial.machine,
        "user_attrs_model_path": trial.outcome.model_path,
        "user_attrs_model_digest": trial.outcome.model_digest,
        "user_attrs_stage": trial.stage,
        "user_attrs_seconds": dict(trial.outcome.seconds),
        "user_attrs_error": trial.outcome.error,
        "user_attrs_promotion": trial.outcome.promotion,
        "user_attrs_source": dict(source),
        "user_attrs_intermediate": {
            str(step): finite(value) for step, value in trial.outcome.intermediate.items()
        },
        "state": _STATES[trial.state],
        "datetime_start": _milliseconds(trial.started),
        "datetime_complete": _milliseconds(trial.ended),
        "duration": _milliseconds(trial.ended) - _milliseconds(trial.started),
    }


def _best_entry(trial: Trial, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "value": _value(trial),
        "software_metrics": _finite_values(trial.outcome.metrics),
        "hardware_metrics": _finite_values(trial.outcome.hardware),
        "scaled_metrics": _finite_values(trial.scaled),
        "sampled_config": sampled_config(trial),
        "difference": finite(trial.difference),
        "is_candidate": trial.is_candidate,
        "violations": _finite_values(trial.violations),
        "config": dict(trial.config),
        "config_digest": trial.digest,
        "model_path": trial.outcome.model_path,
        "machine": trial.machine,
        "model_digest": trial.outcome.model_digest,
        "source": dict(source),
    }


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _json(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False)


def _write(path: Path, entries: Mapping[str, str]) -> None:
    """An object with an entry on each line; entries are JSON already."""
    lines = (f"{json.dumps(key)}: {entry}" for key, entry in entries.items())
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
