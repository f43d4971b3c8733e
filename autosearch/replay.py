"""The configuration of a recorded trial: this package's own records, and MASE's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autosearch.errors import ConfigError
from autosearch.space.rules import DEFAULTS
from quant.config import unflatten

_SAMPLED = ("sampled_config", "user_attrs_sampled_config")
_LAYER = "config"


def recorded_config(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """`QuantConfig` of a record, nested; None if it has none.

    Records of MASE's have the formats alone, ``{node: {"config": {"name": "integer", ...}}}``; a sampled
    config of this package may have flat keys beside them.
    """
    own = entry.get("config", entry.get("user_attrs_config"))
    if isinstance(own, dict):
        return own
    sampled: Any = next((entry[key] for key in _SAMPLED if key in entry), None)
    if not is_sampled_config(sampled):
        return None
    beside = {key: value for key, value in sampled.items() if key in DEFAULTS}
    return {**unflatten(beside), "layers": layers_of_sampled(sampled)}


def is_sampled_config(value: object) -> bool:
    """Whether a value is what MASE calls a sampled config: formats by node."""
    return isinstance(value, Mapping) and any(_is_layer(each) for each in value.values())


def layers_of_sampled(sampled: Mapping[str, Any]) -> dict[str, Any]:
    """`QuantConfig.layers` of a sampled config.

    What is no layer (``accelerator``), and a layer that is bypassed, is left out.
    """
    layers = {name: each[_LAYER] for name, each in sampled.items() if _is_layer(each)}
    return {"by": "name", **{name: each for name, each in layers.items() if not each.get("bypass")}}


def key_of_trial(entries: Mapping[str, Any], number: int, place: str) -> str:
    """The key under which a file of records has a trial.

    Raises:
        ConfigError: If there is none of that number.
    """
    numbers = {
        key: each.get("number") if isinstance(each, Mapping) else None for key, each in entries.items()
    }
    found = next((key for key, own in numbers.items() if own == number), None)
    if found is None:
        known = ", ".join(str(own) for own in list(numbers.values())[:10] if own is not None) or "none"
        raise ConfigError(f"{place}: no trial {number}; there are: {known}")
    return found


def _is_layer(value: object) -> bool:
    own = value.get(_LAYER) if isinstance(value, Mapping) else None
    return isinstance(own, Mapping) and "name" in own
