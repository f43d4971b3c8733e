"""The one spelling of a layer's formats, so that configurations that quantize alike look alike.

Each role (data_in, weight, bias) has the name of its format and those parameters that differ from
their defaults, in the family's order. ``name`` is the format of data_in; the others are named where theirs
is another one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from quant.errors import ConfigError
from quant.formats import ROLES, Family, Format, format_family, make_format

BY = "by"
_NAME = "name"
_DATA, _WEIGHT, _BIAS = ROLES


@dataclass(frozen=True)
class RoleForm:
    """The format of one role.

    Attributes:
        role: Whose.
        name: Of the family; None = float.
        parameters: Keys without the role; defaults are left out.
        calibrated: Whether its scale follows from a calibrated range.
    """

    role: str
    name: str | None
    parameters: tuple[tuple[str, Any], ...] = ()
    calibrated: bool = False

    def __str__(self) -> str:
        """Such as ``integer(8)``, ``mxint(4, [1 16])``, ``float``."""
        if self.name is None:
            return "float"
        values = ", ".join(_word(value) for _, value in self.parameters)
        return f"{self.name}({values})" if values else self.name


def role_form(role: str, config: Mapping[str, Any]) -> RoleForm:
    """The form of one role of a layer's configuration.

    Raises:
        ConfigError: If it is no format.
    """
    own = {key: value for key, value in config.items() if key == _NAME or key.startswith(f"{role}_")}
    return _role_form(role, json.dumps(own))


@lru_cache(maxsize=1 << 16)
def _role_form(role: str, config_json: str) -> RoleForm:
    config: dict[str, Any] = json.loads(config_json)
    made = make_format(role, config)
    if made is None:
        return RoleForm(role, None)
    prefix = f"{role}_"
    family = format_family(config.get(f"{prefix}{_NAME}", config.get(_NAME)))
    assert family is not None
    kept: dict[str, Any] = {}
    for parameter in family.parameters:
        value = config.get(f"{prefix}{parameter.name}")
        if role in parameter.roles and not is_null(value):
            kept[parameter.name] = parameter.parse(value, f"{prefix}{parameter.name}")
    for key in tuple(kept):
        rest = {name: value for name, value in kept.items() if name != key}
        if _builds(family, role, rest) == made:
            kept = rest
    return RoleForm(role, family.name, tuple(kept.items()), made.calibrated)


def _builds(family: Family, role: str, parameters: Mapping[str, Any]) -> Format | None:
    try:
        return family.build(role, parameters)
    except ConfigError:  # a parameter without a default
        return None


def layer_entry(forms: Iterable[RoleForm]) -> dict[str, Any]:
    """The configuration of a layer from the forms of the roles that it has; data_in is one of them."""
    by_role = {form.role: form for form in forms}
    entry: dict[str, Any] = {_NAME: by_role[_DATA].name}
    for role, form in by_role.items():
        if role == _BIAS and form.name is None:
            continue
        if form.name != entry[_NAME] or (role == _BIAS and not form.parameters):
            entry[f"{role}_{_NAME}"] = form.name
        entry |= {f"{role}_{name}": _plain(value) for name, value in form.parameters}
    return entry


def canonical_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration of a layer in the one spelling.

    Without the graph it is not known which roles the layer has: a weight of which nothing is said, and
    nothing can be assumed, is left out.

    Raises:
        ConfigError: If it is none.
    """
    return layer_entry(_forms(entry))


def _has_defaults(entry: Mapping[str, Any]) -> bool:
    try:
        return role_form(_WEIGHT, entry).name is not None
    except ConfigError:
        return False


def canonical_layers(layers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The table ``layers`` of a configuration with every entry in the one spelling.

    Raises:
        ConfigError: If an entry is none.
    """
    if layers is None:
        return None
    return {key: value if key == BY else canonical_entry(value) for key, value in layers.items()}


def calibrates(layers: Mapping[str, Any] | None) -> bool:
    """Whether some entry of a table has a format whose scale follows from a calibrated range."""
    entries = (entry for key, entry in (layers or {}).items() if key != BY)
    return any(_calibrates(json.dumps(entry)) for entry in entries)


def stand_in(calibrated: bool) -> dict[str, Any]:
    """A table that stands for many in the rules, which ask for nothing but whether it `calibrates`."""
    return {BY: _NAME, "default": {_NAME: "int8" if calibrated else None}}


@lru_cache(maxsize=1 << 12)
def _calibrates(entry_json: str) -> bool:
    entry: dict[str, Any] = json.loads(entry_json)
    return any(form.calibrated for form in _forms(entry))


def is_null(value: object) -> bool:
    """Whether a value is MASE's "NA", or null."""
    return value is None or (isinstance(value, str) and value.upper() == "NA")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _word(value: object) -> str:
    return f"[{' '.join(str(item) for item in value)}]" if isinstance(value, tuple) else str(value)


_MOST_LAYERS, _MOST_FORMS = 3, 4
"""That are described one by one."""


def short_layers(layers: Mapping[str, Any] | None) -> str:
    """The table of a configuration on a line.

    Each layer by its name where they are few, ``fc1: integer(8) x integer(4)``, of data_in and weight;
    otherwise how many have which formats, ``weight integer(4) of 12, integer(8) of 28; data_in ...``.
    """
    entries = {key: entry for key, entry in (layers or {}).items() if key != BY}
    if len(entries) <= _MOST_LAYERS:
        return "; ".join(f"{key}: {short_entry(entry)}" for key, entry in entries.items()) or "no layers"
    forms = [form for entry in entries.values() for form in _forms(entry)]
    words = (_counted([form for form in forms if form.role == role]) for role in (_WEIGHT, _DATA, _BIAS))
    return "; ".join(word for word in words if word)


def _counted(forms: Sequence[RoleForm]) -> str:
    """How many forms of one role there are of each kind; by the first parameter alone if they are many."""
    counts = Counter(map(str, forms))
    if len(counts) > _MOST_FORMS:
        counts = Counter(str(replace(form, parameters=form.parameters[:1])) for form in forms)
    common = counts.most_common()
    if len(common) > _MOST_FORMS:
        others = sum(count for _, count in common[_MOST_FORMS:])
        common = [*common[:_MOST_FORMS], ("others", others)]
    said = ", ".join(f"{word} of {count}" for word, count in common)
    return f"{forms[0].role} {said}" if forms else ""


def short_entry(entry: Mapping[str, Any]) -> str:
    """The formats of a layer, of data_in, weight and bias; once if they are equal."""
    words = [str(form) for form in _forms(entry)]
    return words[0] if len(set(words)) == 1 else " x ".join(words)


def _forms(entry: Mapping[str, Any]) -> tuple[RoleForm, ...]:
    """Of the roles that the entry says something of, or for which it is enough."""
    return tuple(role_form(role, entry) for role in ROLES if _says(entry, role))


def _says(entry: Mapping[str, Any], role: str) -> bool:
    said = any(key.startswith(f"{role}_") for key in entry)
    return role == _DATA or said or (role == _WEIGHT and _has_defaults(entry))
