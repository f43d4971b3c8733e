"""Entries of the stage cache that are cut off, or have a bit flipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosearch import AutoSearch, SearchResult
from tests.autosearch.models import make_feeds

pytestmark = pytest.mark.faults


def run(model: Path, settings: dict[str, Any], name: str) -> SearchResult:
    changed = {**settings, "search_output_dir": str(model.parent / name)}
    search = AutoSearch(None, changed, model, make_feeds())
    search.search_model()
    assert search.result is not None
    return search.result


def truncate(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip], ids=["truncated", "flipped"])
def test_damaged_entries_are_computed_again(
    model: Path, settings: dict[str, Any], damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    first = run(model, settings, "first")
    entries = [
        path
        for path in Path(settings["search_cache_dir"]).rglob("*")
        if path.is_file() and len(path.name) == 64 and path.parent.parent.name != "locks"
    ]
    assert entries
    for path in entries:
        damage(path, rng)
    second = run(model, settings, "second")
    assert "is damaged; computing it again" in caplog.text
    digests = [[trial.outcome.model_digest for trial in each.trials] for each in (first, second)]
    assert digests[0] == digests[1]
    third = run(model, settings, "third")
    assert third.stages["statistics"].computed == 0, "the entries are whole again"
