from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from autosearch import AutoSearch, Outcome
from autosearch.model_files import ModelFiles, remove_leftovers
from tests.autosearch.models import make_feeds, write_model
from tests.autosearch.trials import make_trial


def test_a_model_is_what_was_evaluated_or_is_not_there(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path)
    trial = make_trial(1, 0.5, outcome=Outcome(model_digest=hashlib.sha256(b"model").hexdigest()))
    assert not files.holds(trial)
    files.path(trial.digest).write_bytes(b"model")
    assert files.holds(trial)
    files.path(trial.digest).write_bytes(b"another")
    assert not files.holds(trial)


def test_external_data_goes_with_its_model(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path)
    path = files.path("ab" * 32)
    for file in (path, Path(f"{path}.data"), tmp_path / "other.onnx"):
        file.touch()
    files.delete("ab" * 32)
    files.delete("ab" * 32)
    assert [file.name for file in tmp_path.iterdir()] == ["other.onnx"]


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getpid()
    below = tmp_path / "stage" / "ab"
    below.mkdir(parents=True)
    folder = tmp_path / f".m.onnx.{dead}.0123abcd"
    folder.mkdir()
    (folder / "m.onnx").touch()
    gone = [tmp_path / f".best.json.{dead}.0123abcd.tmp", below / f".key.{dead}.0123abcd.tmp",
            tmp_path / f".autosearch-{dead}"]  # fmt: skip
    kept = [tmp_path / f".best.json.{alive}.0123abcd.tmp", tmp_path / f".autosearch-{alive}",
            tmp_path / ".autosearch.lock", tmp_path / ".hidden.1", tmp_path / f"best.{dead}.0123abcd.tmp",
            tmp_path / f".env.{dead}.backup"]  # fmt: skip
    for file in (*gone, *kept):
        file.touch()
    remove_leftovers(tmp_path.rglob(".*"))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert not folder.exists()
    remove_leftovers((tmp_path / "absent").glob(".*"))


def test_a_search_clears_its_own_directories_and_nothing_below(
    model: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    out, name = Path(settings["search_output_dir"]), f".x.{process.pid}.0123abcd.tmp"
    cache = Path(settings["search_cache_dir"]) / "autosearch_cache" / "statistics" / "ab"
    for folder in (out, out / "models", cache, out / "mine"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    AutoSearch(None, settings, model, make_feeds()).search_model()
    assert list(tmp_path.rglob(name)) == [out / "mine" / name]


def test_a_model_that_another_search_replaced_is_made_again(
    model: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    first = AutoSearch(None, settings, model, make_feeds()).search_model()
    other = write_model(tmp_path / "other.onnx", seed=7)
    AutoSearch(None, settings, other, make_feeds()).search_model()
    again = AutoSearch(None, settings, model, make_feeds())
    assert again.search_model() == first
    assert again.result is not None
    for trial in again.result.candidates:
        path = Path(trial.outcome.model_path or "")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == trial.outcome.model_digest


def test_the_best_model_is_made_again_even_if_no_candidate(model: Path, settings: dict[str, Any]) -> None:
    strict = {**settings, "search_metric_tolerance": 0.0}
    for _ in range(2):
        search = AutoSearch(None, strict, model, make_feeds())
        search.search_model()
        assert search.result is not None
        assert search.result.best is not None
        path = Path(search.result.best.outcome.model_path or "")
        path.unlink()


def test_a_tighter_tolerance_deletes_what_is_no_candidate_any_more(
    model: Path, settings: dict[str, Any]
) -> None:
    candidates = AutoSearch(None, settings, model, make_feeds()).search_model()
    tolerance = candidates[3]["difference"]
    few = AutoSearch(
        None, {**settings, "search_metric_tolerance": tolerance}, model, make_feeds()
    ).search_model()
    assert {str(path) for path in (Path(settings["search_output_dir"]) / "models").iterdir()} == {
        candidate["model_path"] for candidate in few
    }
