"""All number formats by name, and the formats of a layer's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant.errors import ConfigError, nearest
from quant.formats.affine import AFFINE
from quant.formats.binary import BINARY
from quant.formats.binary_residual import BINARY_RESIDUAL
from quant.formats.block_fp import BLOCK_FP
from quant.formats.block_log import BLOCK_LOG
from quant.formats.block_minifloat import BLOCK_MINIFLOAT
from quant.formats.cast import HALF_FLOATS
from quant.formats.contract import Format
from quant.formats.float4 import FLOAT4
from quant.formats.float8 import FLOAT8
from quant.formats.integer import INTEGER
from quant.formats.log import LOG
from quant.formats.minifloat_denorm import MINIFLOAT_DENORM
from quant.formats.minifloat_ieee import MINIFLOAT_IEEE
from quant.formats.mxfp import MXFP
from quant.formats.mxint import MXINT
from quant.formats.parameters import ROLES, Family, is_default
from quant.formats.ternary import TERNARY

FLOAT = "none"
"""The name that leaves a tensor in float; "NA" and null do too."""

_ABSENT = object()

FORMATS: dict[str, Family] = {
    family.name: family
    for family in (
        INTEGER,
        MINIFLOAT_IEEE,
        MINIFLOAT_DENORM,
        LOG,
        BLOCK_FP,
        BLOCK_MINIFLOAT,
        BLOCK_LOG,
        MXINT,
        MXFP,
        BINARY,
        BINARY_RESIDUAL,
        TERNARY,
        *AFFINE,
        *FLOAT8,
        FLOAT4,
        *HALF_FLOATS,
    )
}
"""Every family of formats by its name."""

ALIASES = {"fixed": "integer"}
"""Other names."""


@dataclass(frozen=True)
class LayerFormats:
    """What the tensors of a layer are rounded to; None = float.

    Attributes:
        data_in: All data inputs.
        weight: The weight.
        bias: The bias.
    """

    data_in: Format | None = None
    weight: Format | None = None
    bias: Format | None = None


def format_family(name: str | None, place: str = "name") -> Family | None:
    """The family of a name or alias; None for those that mean float.

    Raises:
        ConfigError: If there is none, with the nearest name.
    """
    if name is None or is_default(name) or name == FLOAT:
        return None
    family = FORMATS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if family is None:
        known = (*FORMATS, *ALIASES, FLOAT)
        raise ConfigError(f"{place}: unknown number format {name!r}{nearest(str(name), known)}")
    return family


def layer_formats(config: Mapping[str, Any], place: str = "") -> LayerFormats:
    """The formats of a layer's configuration: ``{"name": "integer", "weight_width": 4, ...}``.

    Args:
        config: ``name``, ``<role>_name`` and ``<role>_<parameter>`` for the roles data_in, weight and
            bias; null and "NA" stand for defaults, and as a name for float.
        place: What errors begin with, e.g. "layers.fc1".

    Raises:
        ConfigError: For anything unknown, missing or not valid.
    """
    place = f"{place}." if place else ""
    _check_keys(config, place)
    data_in, weight, bias = (make_format(role, config, place) for role in ROLES)
    return LayerFormats(data_in, weight, bias)


def make_format(role: str, config: Mapping[str, Any], place: str = "") -> Format | None:
    """The format of one role ("data_in", "weight" or "bias"); None for float.

    ``<role>_name`` goes before ``name``. A bias has a format only if some ``bias_`` key is given. Keys
    of other roles are left alone (see `layer_formats`).

    Raises:
        ConfigError: For unknown names and parameters, missing ones, and values that are not valid.
    """
    prefix = f"{role}_"
    given = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    if role == "bias" and not given:
        return None
    key = f"{prefix}name" if given.pop("name", _ABSENT) is not _ABSENT else "name"
    family = format_family(config.get(key), f"{place}{key}")
    if family is None:
        _check_float(role, given, config, place)
        return None
    return family.build(role, given, place)


def _check_float(role: str, given: Mapping[str, Any], config: Mapping[str, Any], place: str) -> None:
    """Refuses parameters of a tensor that is said to stay in float; those of a layer are ignored."""
    named = config.get(f"{role}_name")
    effective = [key for key, value in given.items() if not is_default(value)]
    if named is not None and effective:
        raise ConfigError(
            f"{place}{role}_{effective[0]}: {role}_name {named!r} has no parameters; leave it out"
        )


def _check_keys(config: Mapping[str, Any], place: str) -> None:
    for key in config:
        if key != "name" and not key.startswith(tuple(f"{role}_" for role in ROLES)):
            known = ["name", *(f"{role}_name" for role in ROLES)]
            family = format_family(config.get("name"), f"{place}name")
            if family is not None:
                known += [f"{role}_{parameter}" for role in ROLES for parameter in family.keys(role)]
            raise ConfigError(f"{place}{key}: unknown key{nearest(key, known)}")
