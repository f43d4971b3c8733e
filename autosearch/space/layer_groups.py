"""The layers of a model as dimensions of a search space: one for every group that has one choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from autosearch.space.dimensions import Dimension, describe_dimension
from autosearch.space.layer_choices import Branch, LayerChoices, Pick, RoleChoices, Selector
from autosearch.space.layer_form import stand_in
from autosearch.space.layer_table import NAME, SELECTORS, Entry, Table
from autosearch.space.rules import LAYERS
from quant import FloatModel, QuantConfig
from quant.errors import ConfigError
from quant.formats import ROLES
from quant.graph.prepare import prepare
from quant.layers import keys_of, layers_of, module_paths
from quant.mixed_precision.blocks import blocks
from quant.requirements import required_opset


@dataclass(frozen=True)
class LayerSite:
    """A layer of a model, as far as a search space sees it.

    Attributes:
        name: Of the node.
        words: What its type is called, the most specific word first.
        roles: Of data_in, weight and bias those that it has.
        block: Number of the block of the model that it is in.
        module: Path of the module of PyTorch that it computes; empty where that is not known.
    """

    name: str
    words: tuple[str, ...]
    roles: tuple[str, ...] = ROLES
    block: int = 0
    module: str = ""

    @property
    def has_weight(self) -> bool:
        """Whether it multiplies by constants."""
        return "weight" in self.roles


Sites: TypeAlias = Callable[[], Sequence[LayerSite]]
"""Gives the layers of the model; called only if a search space says something of layers."""


def layer_sites(float_model: FloatModel, config: QuantConfig) -> tuple[LayerSite, ...]:
    """The layers of a float model, in graph order, as the quantizer sees them with this configuration.

    Raises:
        ModelError: If onnx cannot convert the model.
    """
    subgraphs = config.extra_options.EnableSubgraph
    model, _ = prepare(float_model.model, config.optimize_model, required_opset(config), subgraphs=subgraphs)
    layers = layers_of(model.graph, module_paths(float_model.model.graph))
    named = {layer.name for layer in layers}
    numbers: dict[str, int] = {}
    inhabited = ([node.name or "" for node in block] for block in blocks(tuple(model.graph)))
    for number, names in enumerate(names for names in inhabited if named & set(names)):
        numbers |= dict.fromkeys(names, number)
    return tuple(
        LayerSite(
            layer.name,
            layer.words,
            ("data_in", *(["weight"] if layer.weight else []), *(["bias"] if layer.bias else [])),
            numbers[layer.name],
            layer.module,
        )
        for layer in layers
    )


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that have one choice of formats: a dimension whose values are `Pick`s.

    Attributes:
        key: ``layers.`` and the name of a node, a type, a block.
        sites: The layers.
        choices: Of all roles that one of them has.
    """

    key: str
    sites: tuple[LayerSite, ...]
    choices: LayerChoices

    @property
    def size(self) -> int:
        """Number of choices, all of which differ."""
        return self.choices.size

    @property
    def extremes(self) -> tuple[Pick, ...]:
        """The first choice: formats have no order."""
        return (self.choices.pick(0),)

    def described(self) -> list[Any]:
        """For JSON."""
        sites = [[site.name, *site.roles] for site in self.sites]
        return [self.key, sites, [dimension.described() for dimension in self.choices.dimensions]]

    def value(self, digit: int) -> Pick:
        """The choice at a position."""
        return self.choices.pick(digit)

    def digit(self, value: Pick) -> int:
        """The position of a choice."""
        return value.number

    def choose(self, choose: Callable[[str, Dimension], Any]) -> Pick:
        """Asks for what varies, by flat key and dimension: a name before its parameters."""
        return self.choices.choose(lambda dimension: choose(f"{self.key}.{dimension.key}", dimension))


@dataclass(frozen=True)
class ChosenLayers:
    """Formats for all layers.

    Attributes:
        picks: Groups and what was chosen for them.
        names: Of all layers that the space gives formats somewhere, in order.
    """

    picks: tuple[tuple[LayerGroup, Pick], ...]
    names: tuple[str, ...]

    def params(self) -> dict[str, Any]:
        """What had a choice, by flat key: ``layers.linear.weight_width``."""
        return {
            f"{group.key}.{key}": value for group, pick in self.picks for key, value in pick.varying.items()
        }

    def stand_in(self) -> dict[str, Any]:
        """What the rules see of it."""
        return stand_in(any(group.choices.calibrates and pick.calibrated for group, pick in self.picks))

    def resolved(self) -> dict[str, Any]:
        """`QuantConfig.layers` by name, in its one spelling; layers that are not picked are float."""
        entries = {site.name: pick.entry(site.roles) for group, pick in self.picks for site in group.sites}
        return {"by": NAME, **{name: entries.get(name) or {NAME: None} for name in self.names}}


def draw_picks(groups: Sequence[LayerGroup], generator: np.random.Generator) -> dict[str, Pick]:
    """For every group a family at random, all alike, then a format of it for every role; by key.

    Groups with the same choices are drawn at once: there may be hundreds.
    """
    alike: dict[LayerChoices, list[str]] = {}
    for group in groups:
        alike.setdefault(group.choices, []).append(group.key)
    return {
        key: choices.pick(number)
        for choices, keys in alike.items()
        for key, number in zip(keys, choices.draw(generator, len(keys)), strict=True)
    }


_SHOWN = 4
"""Names of groups in a line."""


def describe_groups(groups: Sequence[LayerGroup]) -> Iterator[str]:
    """For the log: a line for the groups that have the same choices, and what became of combinations."""
    alike: dict[LayerChoices, list[LayerGroup]] = {}
    for group in groups:
        alike.setdefault(group.choices, []).append(group)
    for choices, own in alike.items():
        names = ", ".join(group.key.removeprefix(f"{LAYERS}.") for group in own[:_SHOWN])
        more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
        layers = sum(len(group.sites) for group in own)
        tied = f" for {layers} layers" if layers != len(own) else ""
        yield f"layers {names}{more}: {choices.size} choices{' each' if len(own) > 1 else ''}{tied}"
        for dimension in choices.dimensions:
            yield f"  {describe_dimension(dimension)}"
        for role in choices.roles:
            if role.merged:
                yield f"  {role.merged} combinations of {role.label} equal another: merged"
            for reason, count in role.refused.items():
                yield f"  {count} combinations of {role.label} left out: {reason}"


def layer_groups(table: Table, sites: Sequence[LayerSite], place: str) -> tuple[LayerGroup, ...]:
    """The dimensions that a table gives a model, in graph order.

    A layer that has no entry, or one that leaves it in float whatever is chosen, is in none.

    Raises:
        ConfigError: If the table names a layer that the model does not have, or several at once, if a
            format lacks a parameter, or if no layer is left.
    """
    keys = keys_of(table.entries, table.by, sites, place)
    members: dict[tuple[str, str], list[LayerSite]] = {}
    for site in sites:
        key = keys.get(site.name)
        if key is not None:
            members.setdefault((key, _unit(table.entries[key], site)), []).append(site)
    builder, taken = _Builder(), set[str]()
    groups = []
    for (key, unit), own in members.items():
        choices = builder.choices(table.entries[key], present_roles(own))
        if choices.quantizes:
            groups.append(LayerGroup(f"{LAYERS}.{_unique(unit, key, taken)}", tuple(own), choices))
    if not groups:
        raise ConfigError(f"{place}: no layer of the model gets a format; give {_remedy(table)}")
    return tuple(groups)


def _unit(entry: Entry, site: LayerSite) -> str:
    """What a layer shares its choice with, by name."""
    names = {"layer": site.name, "type": site.words[0], "block": f"block_{site.block}", "all": "all"}
    return names[entry.share]


def present_roles(sites: Iterable[LayerSite]) -> tuple[str, ...]:
    """Those that at least one layer has."""
    present = {role for site in sites for role in site.roles}
    return tuple(role for role in ROLES if role in present)


def _unique(unit: str, key: str, taken: set[str]) -> str:
    """The unit's name, with the entry's key where another group has it."""
    name = unit
    while name in taken:
        name = f"{key}:{name}"
    taken.add(name)
    return name


def _remedy(table: Table) -> str:
    named = any(name is not None for entry in table.entries.values() for name in entry.names[NAME].values)
    return "an entry for a layer that it has, or default" if named else "an entry a name other than NA"


class _Builder:
    """Makes the choices of entries, each once: layers with one entry share them."""

    def __init__(self) -> None:
        self._choices: dict[tuple[int, tuple[str, ...]], LayerChoices] = {}
        self._of_roles: dict[tuple[int, str, str | None], RoleChoices] = {}

    def choices(self, entry: Entry, roles: tuple[str, ...]) -> LayerChoices:
        """Of an entry, for layers with these roles."""
        own = tuple(role for role in roles if role != "bias" or entry.has_bias())
        key = (id(entry), own)
        if key not in self._choices:
            self._choices[key] = LayerChoices(tuple(self._selectors(entry, own)))
        return self._choices[key]

    def _selectors(self, entry: Entry, roles: Sequence[str]) -> Iterable[Selector]:
        for selector in SELECTORS:
            following = [role for role in roles if entry.selector(role) == selector]
            if following:
                names = entry.names[selector]
                yield Selector(names, tuple(self._branch(entry, name, following) for name in names.values))

    def _branch(self, entry: Entry, name: str | None, roles: Sequence[str]) -> Branch:
        return Branch(name, tuple(self._role(entry, role, name) for role in roles) if name else ())

    def _role(self, entry: Entry, role: str, name: str) -> RoleChoices:
        key = (id(entry), role, name)
        if key not in self._of_roles:
            dimensions, selector = entry.dimensions(role, name), entry.selector(role)
            self._of_roles[key] = RoleChoices.of(role, name, dimensions, selector, entry.place)
        return self._of_roles[key]
