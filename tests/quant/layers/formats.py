"""An entry for every family of formats."""

from __future__ import annotations

from typing import Any

from quant.formats import FORMATS

_PARAMETERS: dict[str, dict[str, Any]] = {
    "integer": {"width": 5, "frac_width": 4},
    "minifloat_ieee": {"width": 6, "exponent_width": 3},
    "minifloat_denorm": {"width": 6, "exponent_width": 3},
    "log": {"width": 5, "exponent_bias": 12},
    "block_fp": {"width": 5, "block_size": [1, 8]},
    "block_minifloat": {"width": 6, "exponent_width": 2, "exponent_bias_width": 8},
    "block_log": {"width": 5, "exponent_bias_width": 6},
    "mxint": {"width": 5},
    "mxfp": {"exponent_width": 2, "frac_width": 3},
}


def _entry(name: str) -> dict[str, Any]:
    given = _PARAMETERS.get(name, {})
    keys = {f"{role}_{key}": value for role in ("data_in", "weight") for key, value in given.items()}
    return {"name": name, **keys}


WEIGHTS: dict[str, dict[str, Any]] = {name: _entry(name) for name in FORMATS}
"""By the family's name: the same format for inputs and weights."""

WEIGHTS |= {
    f"{name} by {granularity}": {"name": name, "weight_granularity": granularity}
    for name in ("int4", "int8", "float8e4m3fn")
    for granularity in ("channel", "block")
}
