"""What each key of a configuration takes, read off `QuantConfig`'s own fields."""

from __future__ import annotations

import types
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from quant.config import (
    AutoMixprecisionConfig,
    ExtraOptions,
    FastFinetuneConfig,
    QuantConfig,
    describe_validation_error,
)
from quant.errors import ConfigError

LEVELS: dict[str, type[BaseModel]] = {
    "": QuantConfig,
    "extra_options": ExtraOptions,
    "extra_options.FastFinetune": FastFinetuneConfig,
    "extra_options.AutoMixprecision": AutoMixprecisionConfig,
}
"""The model of each level, by the level's path."""


@dataclass(frozen=True)
class Place:
    """Where in the user's search space something is written."""

    path: tuple[str, ...]

    def key(self, name: str) -> Place:
        """One level in."""
        return Place((*self.path, name))

    def item(self, index: int) -> Place:
        """One element of a list."""
        return Place((*self.path[:-1], f"{self.path[-1]}[{index}]"))

    def error(self, complaint: str) -> ConfigError:
        """To be raised."""
        return ConfigError(f"{self}: {complaint}")

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True)
class Field:
    """One key.

    Attributes:
        key: Flat name.
        model: The model that has it.
        adapter: Its validation and serialisation, apart from the model's other fields.
        is_list, is_mapping: Whether one value is a list (or a mapping) by itself.
        number: int or float where a value is a number, otherwise None.
    """

    key: str
    model: type[BaseModel]
    adapter: TypeAdapter[Any]
    is_list: bool
    is_mapping: bool
    number: type[int] | type[float] | None

    def parse(self, value: object, place: Place) -> Any:
        """The value as the configuration writes it in JSON: canonical, enumerations by name.

        Raises:
            ConfigError: If the configuration would refuse it.
        """
        if isinstance(value, np.generic):
            value = value.item()
        try:
            return self.adapter.dump_python(self.adapter.validate_python(value), mode="json")
        except ValidationError as error:
            raise ConfigError(describe_validation_error(self.model, error, place.path)) from None


@cache
def fields() -> dict[str, Field]:
    """Every key by its flat name."""
    return {
        f"{level}.{name}".lstrip("."): _field(f"{level}.{name}".lstrip("."), model, info)
        for level, model in LEVELS.items()
        for name, info in model.model_fields.items()
        if f"{level}.{name}".lstrip(".") not in LEVELS
    }


def _field(key: str, model: type[BaseModel], info: FieldInfo) -> Field:
    assert info.annotation is not None
    members = _members(info.annotation)
    origins = {get_origin(member) for member in members}
    number = next((kind for kind in (float, int) if kind in members), None)
    annotated: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False))
    return Field(key, model, adapter, tuple in origins, dict in origins, number)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, without their annotations."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in _members(part))
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return (annotation,)
