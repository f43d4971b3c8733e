"""Every way in which a search is written down, read into the typed configuration."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from autosearch.config import (
    AdvancedFastftParams,
    AutoSearchConfig,
    MetricLimits,
    MetricSetting,
    StopCondition,
)
from autosearch.errors import ConfigError
from quant.errors import nearest

T = TypeVar("T")

ALIASES = {
    "cache_dir": "search_cache_dir",
    "cache_size": "search_cache_size",
    "output_dir": "search_output_dir",
    "log_path": "search_log_path",
}
"""Names that are understood beside the documented ones."""

_PARTS: dict[str, type] = {
    "search_stop_condition": StopCondition,
    "advanced_fastft_params": AdvancedFastftParams,
}
_PARTS_BY_METRIC: dict[str, type] = {"metrics": MetricSetting, "constraints": MetricLimits}
FIELDS = frozenset(item.name for item in dataclasses.fields(AutoSearchConfig))

JOB_KEYS = ("model_input", "quantization_config", "calibration_data", "eval_data")
"""What a YAML file may say beside the fields: the other arguments of `AutoSearch`."""


def read_config(source: object) -> AutoSearchConfig:
    """Whatever the caller has -> the typed configuration.

    Args:
        source: An `AutoSearchConfig`, a class or an object with attributes of its fields' names, a
            mapping, the path of a YAML file, or None for the defaults.

    Raises:
        ConfigError: Naming the key, the value and what to do.
    """
    if source is None:
        return AutoSearchConfig()
    if isinstance(source, AutoSearchConfig) and type(source) is AutoSearchConfig:
        return source
    if isinstance(source, (str, Path)):
        content = read_yaml(source)
        settings = parse_config({key: value for key, value in content.items() if key not in JOB_KEYS})
        return with_evaluator(settings, Path(source).resolve().parent)
    if isinstance(source, Mapping):
        return parse_config(source)
    return parse_config(_attributes(source))


def read_yaml(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The file's content with ``key=value`` changes, of which keys may have dots.

    Raises:
        ConfigError: If the file is missing, is not YAML, or is not a mapping of known keys.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration: no file {str(path)!r}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, not {type(content).__name__}")
    for change in changes:
        apply_change(content, change)
    check_keys(content, path)
    return content


def check_keys(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuses keys that a file cannot have.

    Raises:
        ConfigError: With the nearest known one.
    """
    known = (*JOB_KEYS, *FIELDS, *ALIASES)
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(str(key), known)}")


def parse_config(values: Mapping[str, Any]) -> AutoSearchConfig:
    """A mapping with the keys of `AutoSearchConfig` and their aliases."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name in named:
            raise ConfigError(f"auto_search_config: {key!r} is given twice")
        named[name] = value
    for name, part in _PARTS.items():
        if isinstance(named.get(name), Mapping):
            named[name] = build(part, named[name], name)
    for name, part in _PARTS_BY_METRIC.items():
        if isinstance(named.get(name), Mapping):
            named[name] = {
                key: build(part, value, f"{name}.{key}") if isinstance(value, Mapping) else value
                for key, value in named[name].items()
            }
    return build(AutoSearchConfig, named, "")


def changed(settings: AutoSearchConfig, changes: Mapping[str, Any]) -> AutoSearchConfig:
    """A validated copy with some fields changed."""
    same = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    return build(AutoSearchConfig, {**same, **changes}, "")


def with_evaluator(settings: AutoSearchConfig, folder: Path) -> AutoSearchConfig:
    """The same with the object that `search_evaluator` names, of a module in the folder or elsewhere."""
    wanted = settings.search_evaluator
    if not isinstance(wanted, str):
        return settings
    return changed(settings, {"search_evaluator": import_object(wanted, folder, "search_evaluator")})


def import_object(name: str, folder: Path, place: str) -> Any:
    """What ``package.module:attribute`` names.

    Args:
        name: See above.
        folder: Where modules are looked for first, then in the current one; both stay importable,
            for worker processes.
        place: The key that says so, for complaints.

    Raises:
        ConfigError: If it is not there, or its module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{place}: {name!r}: write module:attribute, such as my_project.data:make_reader")
    here = (str(folder), str(Path.cwd()))
    sys.path[:0] = [path for path in dict.fromkeys(here) if path not in sys.path]
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(f"{place}: {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def build(kind: type[T], values: Mapping[str, Any], place: str) -> T:
    """An instance of a validated dataclass; complaints name the place.

    Raises:
        ConfigError: For unknown keys, with the nearest known one, and for wrong values.
    """
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    prefix = f"{place}: " if place else ""
    for key in values:
        if key not in known:
            raise ConfigError(f"{prefix}unknown key {key!r}{nearest(str(key), known)}")
    try:
        return kind(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join((*([place] if place else []), *(str(part) for part in item["loc"])))
            message = str(item.get("ctx", {}).get("error", item["msg"]))  # as it was raised, if by us
            lines.append(f"{where}: {message}, got {item['input']!r}")
        raise ConfigError("\n".join(lines)) from None


def apply_change(content: dict[str, Any], change: str) -> None:
    """Sets a key, given as ``key=value`` with dots between levels and the value as YAML, in place.

    Raises:
        ConfigError: If it is no such change, or the content has something else on the way.
    """
    key, separator, value = change.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {change!r}: write key=value, such as search_stop_condition.time_limit=60")
    *parents, last = key.split(".")
    level = content
    for parent in parents:
        below = level.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {change!r}: {parent!r} is not a mapping")
        level = below
    try:
        level[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: not a YAML value: {error}") from None


def _attributes(source: object) -> dict[str, Any]:
    """Public attributes that were set on a class, its bases, or an instance.

    A plain function as attribute of a class stays a function: it is looked up, not bound.
    """
    owner = source if isinstance(source, type) else type(source)
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if base in (object, AutoSearchConfig):
            continue
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    if owner is AutoSearchConfig or (isinstance(source, type) and issubclass(source, AutoSearchConfig)):
        found = {**_set_on_the_class(AutoSearchConfig), **found}
    if not isinstance(source, type):
        defaults = vars(AutoSearchConfig()) if isinstance(source, AutoSearchConfig) else {}
        found |= {
            name: value
            for name, value in vars(source).items()
            if not name.startswith("_") and (name not in defaults or defaults[name] != value)
        }
    return {
        name: value.__func__ if isinstance(value, staticmethod) else value for name, value in found.items()
    }


_ORIGINAL = dict(vars(AutoSearchConfig))


def _set_on_the_class(kind: type) -> dict[str, Any]:
    """What a caller has assigned to attributes of `AutoSearchConfig` itself.

    Such assignments never reach instances: their defaults were bound when the class was made.
    """
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_") and (name not in _ORIGINAL or _ORIGINAL[name] is not value)
    }
