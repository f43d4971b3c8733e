from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from autosearch import AutoSearch, Outcome
from autosearch.digest import model_digest
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


def write_with_external(path: Path, location: str) -> Path:
    """A model of one initializer, whose data are in a file of that name."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([], "g", [], [], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def weights_file(folder: Path, digit: str) -> Path:
    path = folder / f"weights-{digit * 16}.data"
    path.write_bytes(digit.encode())
    return path


def test_external_data_is_part_of_what_was_evaluated(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path)
    shared = weights_file(tmp_path, "1")
    path = write_with_external(files.path(make_trial(1, 0.5).digest), shared.name)
    digest = model_digest(path)
    assert digest != hashlib.sha256(path.read_bytes()).hexdigest()
    trial = make_trial(1, 0.5, outcome=Outcome(model_digest=digest))
    assert files.holds(trial)
    shared.write_bytes(b"2")
    assert not files.holds(trial)
    shared.write_bytes(b"1")
    assert files.holds(trial)
    shared.unlink()
    assert not files.holds(trial)


def test_the_digest_does_not_depend_on_the_model_s_own_name(tmp_path: Path) -> None:
    shared = weights_file(tmp_path, "1")
    one, other = (write_with_external(tmp_path / name, shared.name) for name in ("a.onnx", "b.onnx"))
    assert model_digest(one) == model_digest(other)


def test_shared_weights_go_with_the_last_model_that_needs_them(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path)
    first, second, third = (weights_file(tmp_path, digit) for digit in "123")
    digests = [letter * 64 for letter in "abc"]
    for digest, shared in zip(digests, (first, first, second), strict=True):
        write_with_external(files.path(digest), shared.name)
    others = [tmp_path / "weights-mine.data", tmp_path / "weights-0123.data"]
    for other in others:
        other.touch()
    files.delete(digests[0])
    assert [path.exists() for path in (first, second, third)] == [True, True, False]
    files.delete(digests[1])
    assert [path.exists() for path in (first, second)] == [False, True]
    write_with_external(files.path(digests[2]), third.name)  # written anew, with other weights
    files.remove_unneeded_weights()
    assert not second.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        files.path(digests[2]).name, *(path.name for path in others)
    }  # fmt: skip


def test_weights_of_a_model_that_appears_while_they_are_deleted_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, shared = ModelFiles(tmp_path), weights_file(tmp_path, "1")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        moved = real(self, target)
        if self == shared:
            write_with_external(tmp_path / "new.onnx", shared.name)
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    files.remove_unneeded_weights()
    assert shared.read_bytes() == b"1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.onnx", shared.name]


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
