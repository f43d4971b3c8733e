"""The formats of layers as columns of codes, for enumerating a space.

Layers that have one choice together in every part of the space make one set of columns, a column for
each role, whose codes stand for the role's formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autosearch.space.domain import Codes, Columns, Domain
from autosearch.space.layer_choices import RoleChoices
from autosearch.space.layer_form import RoleForm, stand_in
from autosearch.space.layer_groups import LayerSite, present_roles
from autosearch.space.parts import Part
from autosearch.space.rules import LAYERS


@dataclass(frozen=True)
class Alike:
    """Layers that are in one group wherever they are in any.

    Attributes:
        name: Of the first one.
        groups: Position of their group in each part; None where they stay float.
        roles: Those that one of them has; the group may have others for its other layers.
    """

    name: str
    groups: tuple[int | None, ...]
    roles: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of its columns."""
        return tuple(map(self.key, self.roles))

    def key(self, role: str) -> str:
        """Of a column."""
        return f"{LAYERS}.{self.name}.{role}"


class LayerColumns:
    """Turns numbers of picks into columns.

    Args:
        parts: The space.
        domains: By key of a column; the columns of layers are added.
    """

    def __init__(self, parts: Sequence[Part], domains: dict[str, Domain]) -> None:
        self._parts = parts
        self._alike = _alike(parts)
        self._domains = domains
        for alike in self._alike:
            domains |= {key: Domain() for key in alike.keys}
        self._tables: dict[tuple[str, int], Codes] = {}
        if self._alike:
            codes = (domains[LAYERS].encode(stand_in(calibrated)) for calibrated in (False, True))
            self._stand_ins = np.array([*codes], np.int32)
        # Every code now: columns whose domains grow between two parts do not compare.
        for part, _ in enumerate(parts):
            self.constants(part)
            for alike in self._alike:
                self._floats(alike)
                for role in self._choices(alike, part):
                    self._table(alike, role)

    def constants(self, part: int) -> Columns:
        """Those of the layers that a part leaves no choice."""
        columns: Columns = {}
        for alike in self._alike:
            at = alike.groups[part]
            if at is not None and self._parts[part].groups[at].size > 1:
                continue
            forms = {} if at is None else self._parts[part].groups[at].choices.pick(0).forms
            for role in alike.roles:
                columns[alike.key(role)] = np.array(self._code(alike.key(role), forms.get(role)), np.int32)
        return columns

    def decode(self, part: int, at: int, number: NDArray[np.int64]) -> Columns:
        """Those of one group's layers, from the numbers of its picks."""
        columns: Columns = {}
        decoded = list(self._parts[part].groups[at].choices.decode(number))
        for alike in self._alike:
            if alike.groups[part] != at:
                continue
            for key, code in self._floats(alike).items():
                columns[key] = np.full(number.shape, code, np.int32)
            for role_choices, rows, digits in decoded:
                if role_choices.role in alike.roles:
                    columns[alike.key(role_choices.role)][rows] = self._table(alike, role_choices)[digits]
        return columns

    def stand_ins(self, part: int, numbers: Sequence[NDArray[np.int64]], size: int) -> Codes:
        """The column ``layers`` as the rules read it.

        Args:
            part: Of the space.
            numbers: Of the picks of all groups.
            size: How many configurations.
        """
        calibrated = np.zeros(size, np.bool_)
        for group, number in zip(self._parts[part].groups, numbers, strict=True):
            if group.choices.calibrates:
                for role, rows, digits in group.choices.decode(number):
                    calibrated[rows] |= role.calibrated[digits]
        codes: Codes = self._stand_ins[calibrated.astype(np.intp)]
        return codes

    def _floats(self, alike: Alike) -> dict[str, int]:
        """The code of a role without a format, by column."""
        return {key: self._code(key, None) for key in alike.keys}

    def _code(self, key: str, form: RoleForm | None) -> int:
        """One for all that is float: roles of a name that means it, or that has no format for them."""
        return self._domains[key].encode(form if form is not None and form.name is not None else None)

    def _choices(self, alike: Alike, part: int) -> tuple[RoleChoices, ...]:
        at = alike.groups[part]
        choices = () if at is None else self._parts[part].groups[at].choices.roles
        return tuple(each for each in choices if each.role in alike.roles)

    def _table(self, alike: Alike, role: RoleChoices) -> Codes:
        """The code of every option."""
        key = alike.key(role.role)
        if (key, id(role)) not in self._tables:
            codes = [self._code(key, option.form) for option in role.options]
            self._tables[key, id(role)] = np.array(codes, np.int32)
        return self._tables[key, id(role)]


def _alike(parts: Sequence[Part]) -> list[Alike]:
    groups: dict[str, list[int | None]] = {}
    sites: dict[str, LayerSite] = {}
    for part, each in enumerate(parts):
        for at, group in enumerate(each.groups):
            for site in group.sites:
                sites[site.name] = site
                groups.setdefault(site.name, [None] * len(parts))[part] = at
    together: dict[tuple[int | None, ...], list[str]] = {}
    for name, where in groups.items():
        together.setdefault(tuple(where), []).append(name)
    return [
        Alike(names[0], where, present_roles(sites[name] for name in names))
        for where, names in together.items()
    ]
