"""`autosearch cache`: what is kept of stages on disk, and clearing it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from autosearch.compat import JOB_KEYS, parse_config, read_yaml
from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError
from autosearch.problem import CACHE_FOLDER
from autosearch.units import duration_text, read_duration, size_text
from quant.cache import DiskEntry, DiskStore
from quant.errors import nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` reads."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="whose cache; default: ./")
    parser.add_argument("--cache-dir", metavar="D", help="the directory that search_cache_dir names")
    parser.add_argument("--clear", action="store_true", help="delete entries; a search makes them again")
    parser.add_argument("--stage", metavar="NAME", help="only entries of this stage")
    parser.add_argument("--older-than", metavar="30d", help="only entries not used for so long (d, h, m, s)")


def run(options: argparse.Namespace) -> int:
    """Shows or clears the cache that the options name.

    Raises:
        ConfigError: If they contradict each other or name what is not there.
    """
    store = _store(options)
    entries = list(store.entries())
    if not options.clear and (options.stage or options.older_than) is not None:
        raise ConfigError("cache: --stage and --older-than go with --clear")
    chosen = _chosen(entries, options)
    print(f"cache   {store.directory}")
    if options.clear:
        freed = store.remove(chosen)
        if len(chosen) == len(entries):
            store.remove_abandoned()
        print(f"cleared {len(chosen)} of {len(entries)} entries, {size_text(freed)}")
    else:
        print(describe(chosen, store.limit_bytes, time.time()))
    return 0


def describe(entries: Sequence[DiskEntry], limit_bytes: int | None, now: float) -> str:
    """A table of the stages and their sum.

    Args:
        entries: What to describe.
        limit_bytes: Of the cache; None = none.
        now: Seconds since the epoch.
    """
    limit = "no limit" if limit_bytes is None else f"limit {size_text(limit_bytes)}"
    stages = sorted({entry.stage for entry in entries})
    parts = [(name, [entry for entry in entries if entry.stage == name]) for name in stages]
    width = max(map(len, ("stage", "all", *stages)))
    lines = [f"{'stage':{width}}  {'entries':>7}  {'size':>8}  last used"]
    lines += [_line(name, width, part, now) for name, part in (*parts, ("all", entries))]
    return "\n".join([*lines, limit])


def _line(name: str, width: int, entries: Sequence[DiskEntry], now: float) -> str:
    size = size_text(sum(entry.size_bytes for entry in entries))
    used = "never"
    if entries:
        ages = [max(0.0, now - entry.used) for entry in entries]
        used = f"{duration_text(max(ages))} to {duration_text(min(ages))} ago"
    return f"{name:{width}}  {len(entries):7}  {size:>8}  {used}"


def _store(options: argparse.Namespace) -> DiskStore:
    if options.config is not None and options.cache_dir is not None:
        raise ConfigError("cache: give CONFIG.yaml or --cache-dir, not both")
    settings = AutoSearchConfig() if options.config is None else _settings(options.config)
    directory = Path(settings.search_cache_dir if options.cache_dir is None else options.cache_dir)
    if not directory.is_dir():
        raise ConfigError(f"cache: no directory {str(directory)!r}; name the cache with --cache-dir")
    inner = directory / CACHE_FOLDER
    own = directory.name == CACHE_FOLDER and not inner.is_dir()
    return DiskStore(directory if own else inner, settings.search_cache_size)


def _settings(path: str) -> AutoSearchConfig:
    content = read_yaml(path)
    return parse_config({key: value for key, value in content.items() if key not in JOB_KEYS})


def _chosen(entries: Iterable[DiskEntry], options: argparse.Namespace) -> list[DiskEntry]:
    entries = list(entries)
    stages = {entry.stage for entry in entries}
    if options.stage is not None and stages and options.stage not in stages:
        raise ConfigError(f"--stage: no entries of {options.stage!r}{nearest(options.stage, stages)}")
    before = math.inf if options.older_than is None else time.time() - _age_s(options.older_than)
    wanted = stages if options.stage is None else {options.stage}
    return [entry for entry in entries if entry.stage in wanted and entry.used < before]


def _age_s(text: str) -> float:
    try:
        return read_duration(text)
    except ValueError as error:
        raise ConfigError(f"--older-than: {error}") from None
