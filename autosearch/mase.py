"""MASE's TOML files, read into the keys of this package's own: model and data are given apart.

    [search.search_space]           name, setup.by
    [search.search_space.seed.*]    a table for each name or type, flat or below ``config``
    [search.strategy]               name, sw_runner, hw_runner: tables, or names beside num_samples
    [search.strategy.setup]         sampler, n_trials, timeout, n_jobs, sum_scaled_metrics, direction
    [search.strategy.metrics]       <metric>.scale, <metric>.direction

Whatever else the file says is for other tools of MASE and has no effect; what is below ``search`` is known
or refused.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autosearch.errors import ConfigError
from autosearch.samplers import sampler_names
from autosearch.space.layer_form import is_null
from evaluators.hardware import HARDWARE_METRICS
from quant.errors import nearest

SUFFIX = ".toml"
SPACES = ("graph/quantize/mixed_precision_ptq", "module/manual_hf/quantize/llm_mixed_precision_ptq")
"""Names of MASE's search spaces that are mixed-precision quantization after training."""

SAMPLERS: Mapping[str, str] = {
    "random": "RandomSampler",
    "tpe": "TPE",
    "nsgaii": "NSGAII",
    "nsgaiii": "NSGAIII",
    "qmc": "QMC",
    "brute": "BruteForce",
}
"""MASE's names of samplers, and this package's."""

_SPACE_PLACE, _STRATEGY_PLACE = "search.search_space", "search.strategy"
_LOADERS = ("data_loader", "dataloader")


@dataclass(frozen=True)
class MaseSearch:
    """What a file says of a search.

    Attributes:
        settings: Keys of `AutoSearchConfig`, as in YAML.
        num_samples: To evaluate with; None = all.
        notes: What has no effect.
    """

    settings: Mapping[str, Any]
    num_samples: int | None
    notes: tuple[str, ...]


def load_toml(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        ConfigError: If it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration: no file {str(path)!r}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def read_search(content: Mapping[str, Any]) -> MaseSearch:
    """Reads what a file says below ``search``.

    Raises:
        ConfigError: For what is unknown, with the nearest name, and for what cannot be.
    """
    notes = _Notes()
    notes.unused(key for key in content if key != "search")
    search = _table(content, "search", "")
    _known(search, "search", ("search_space", "strategy"))
    space = _table(search, "search_space", "search")
    strategy = _table(search, "strategy", "search")
    settings = {"search_space": {"layers": _layers(space, notes)}}
    num_samples = _strategy(strategy, settings, notes)
    return MaseSearch(settings, num_samples, tuple(notes.lines))


@dataclass
class _Notes:
    """What has no effect, in words."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append(line)

    def unused(self, keys: Iterable[str]) -> None:
        names = ", ".join(keys)
        if names:
            self.add(f"not used here: {names}")

    def no_parallel(self, table: Mapping[str, Any], place: str) -> None:
        if _value(table, "model_parallel", bool, place):
            self.add(f"{place}.model_parallel has no effect: a model runs on one device")


def _layers(space: Mapping[str, Any], notes: _Notes) -> dict[str, Any]:
    """The table ``layers`` of the search space."""
    _known(space, _SPACE_PLACE, ("name", "setup", "seed"))
    name = space.get("name")
    if name not in SPACES:
        hint = nearest(str(name), SPACES)
        raise ConfigError(f"{_SPACE_PLACE}.name: {name!r} is no search space for quantization{hint}")
    setup = _table(space, "setup", _SPACE_PLACE, required=False)
    _known(setup, f"{_SPACE_PLACE}.setup", ("by", "model_parallel"))
    notes.no_parallel(setup, f"{_SPACE_PLACE}.setup")
    seed = _table(space, "seed", _SPACE_PLACE)
    place = f"{_SPACE_PLACE}.seed"
    if not seed:
        raise ConfigError(f"{place}: says nothing of any layer; give it default")
    entries = {key: _entry(_table(seed, key, place), f"{place}.{key}", notes) for key in seed}
    return {"by": setup.get("by", "name"), **entries}


def _entry(table: Mapping[str, Any], place: str, notes: _Notes) -> dict[str, Any]:
    """The choices for a layer or type: below ``config``, or flat."""
    if "config" in table:
        _known(table, place, ("config",))
        table, place = _table(table, "config", place), f"{place}.config"
    for key, value in table.items():
        if isinstance(value, Mapping):
            raise ConfigError(
                f"{place}.{key}: is a table; quote a name that has dots, and give each key a list of choices"
            )
    names = table.get("name")
    if all(is_null(name) for name in (names if isinstance(names, list) else [names])) and names:
        notes.unused(f"{place}.{key} (name is NA)" for key in table if key != "name")
        return {"name": names}
    return dict(table)


def _strategy(strategy: Mapping[str, Any], settings: dict[str, Any], notes: _Notes) -> int | None:
    """Adds how to search; returns the number of samples to evaluate with."""
    place = _STRATEGY_PLACE
    keys = ("name", "eval_mode", "sw_runner", "hw_runner", *_LOADERS, "num_samples", "setup", "metrics")
    _known(strategy, place, keys)
    if strategy.get("name", "optuna") != "optuna":
        raise ConfigError(f"{place}.name: {strategy['name']!r} is not possible; write 'optuna'")
    if not _value(strategy, "eval_mode", bool, place, True):
        raise ConfigError(f"{place}.eval_mode: models are not trained here; write true, or leave it out")
    settings["metrics"] = _metrics(_table(strategy, "metrics", place))
    _hardware(_runners(strategy, "hw_runner", place), settings, f"{place}.hw_runner")
    _setup(_table(strategy, "setup", place, required=False), settings, notes)
    return _samples(strategy, notes)


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    place = f"{_STRATEGY_PLACE}.metrics"
    if not metrics:
        raise ConfigError(f"{place}: names no metric, such as accuracy.scale = 1.0")
    for name in metrics:
        own = _table(metrics, name, place)
        _known(own, f"{place}.{name}", ("scale", "direction"))
    return {name: dict(own) for name, own in metrics.items()}


def _hardware(runners: Mapping[str, Mapping[str, Any]], settings: dict[str, Any], place: str) -> None:
    """What the hardware runners measure is recorded, whether it is optimised or not."""
    for name, options in runners.items():
        if name not in HARDWARE_METRICS:
            raise ConfigError(f"{place}: unknown metric {name!r}{nearest(name, HARDWARE_METRICS)}")
        if not settings["metrics"].keys() & set(HARDWARE_METRICS[name].names):
            settings["metrics"][name] = {"scale": 0.0}
        if options:
            settings.setdefault("metric_options", {})[name] = dict(options)


def _samples(strategy: Mapping[str, Any], notes: _Notes) -> int | None:
    """Of the software runner, of which there is one that trains and one that does not."""
    place = f"{_STRATEGY_PLACE}.sw_runner"
    found = [(strategy, _STRATEGY_PLACE)]
    for name, options in _runners(strategy, "sw_runner", _STRATEGY_PLACE).items():
        if name != "basic_evaluation":
            raise ConfigError(f"{place}: {name!r} is not possible without training; write 'basic_evaluation'")
        _known(options, f"{place}.{name}", (*_LOADERS, "num_samples"))
        found.append((options, f"{place}.{name}"))
    notes.unused(
        f"{where}.{key} (samples come from --data)"
        for table, where in found
        for key in _LOADERS
        if key in table
    )
    counts = [_value(table, "num_samples", int, where) for table, where in found]
    return next((count for count in reversed(counts) if count is not None), None)


def _setup(setup: Mapping[str, Any], settings: dict[str, Any], notes: _Notes) -> None:
    place = f"{_STRATEGY_PLACE}.setup"
    keys = ("n_jobs", "n_trials", "timeout", "sampler", "sum_scaled_metrics", "direction")
    _known(setup, place, (*keys, "model_parallel", "runner_style"))
    notes.no_parallel(setup, place)
    style = setup.get("runner_style", "lm")
    if style != "lm":
        raise ConfigError(f"{place}.runner_style: {style!r} is unknown; write 'lm' or nothing")
    settings["search_algo"] = _sampler(_value(setup, "sampler", str, place, "tpe"), f"{place}.sampler")
    limits = {"iteration_limit": setup.get("n_trials"), "time_limit": setup.get("timeout")}
    settings["search_stop_condition"] = {key: value for key, value in limits.items() if value is not None}
    jobs = _value(setup, "n_jobs", int, place, 1)
    settings["n_jobs"] = (os.cpu_count() or 1) if jobs == -1 else jobs
    settings["sum_scaled_metrics"] = _value(setup, "sum_scaled_metrics", bool, place, False)
    if settings["sum_scaled_metrics"] and "direction" in setup:
        settings["direction"] = setup["direction"]
    elif "direction" in setup:
        notes.add(f"{place}.direction has no effect: it is of the sum, and sum_scaled_metrics is false")


def _sampler(name: str, place: str) -> str:
    known: dict[str, str] = {**{each.casefold(): each for each in sampler_names()}, **SAMPLERS}
    if name.casefold() not in known:
        raise ConfigError(f"{place}: unknown sampler {name!r}{nearest(name, (*SAMPLERS, *sampler_names()))}")
    return known[name.casefold()]


def _runners(strategy: Mapping[str, Any], key: str, place: str) -> dict[str, Mapping[str, Any]]:
    """Options by name of the runner; a name alone stands for one without options."""
    given = strategy.get(key)
    if given is None:
        return {}
    if isinstance(given, str):
        return {given: {}}
    return {name: _table(given, name, f"{place}.{key}") for name in _table(strategy, key, place)}


def _table(level: Mapping[str, Any], key: str, place: str, *, required: bool = True) -> Mapping[str, Any]:
    where = f"{place}.{key}".lstrip(".")
    if key not in level:
        if required:
            raise ConfigError(f"{where}: is missing; the file says nothing of this part of a search")
        return {}
    value = level[key]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be a table, got {value!r}")
    return value


def _known(table: Mapping[str, Any], place: str, keys: Iterable[str]) -> None:
    known = tuple(keys)
    for key in table:
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}{nearest(key, known)}")


def _value(table: Mapping[str, Any], key: str, kind: type, place: str, default: Any = None) -> Any:
    value = table.get(key, default)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(f"{place}.{key}: takes {kind.__name__}, got {value!r}")
    return value
