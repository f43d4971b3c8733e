from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from autosearch.cli import main
from quant.cache import DiskStore
from tests.autosearch.models import run_command, write_job

DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    """Three results of statistics, unused for 1, 10 and 100 days, and one of channel maxima, new."""
    monkeypatch.chdir(tmp_path)
    made = DiskStore(tmp_path / "autosearch_cache")
    for x, days in enumerate((1, 10, 100)):
        key = hashlib.sha256(str(x).encode()).hexdigest()
        made.write("statistics", key, bytes(936))
        moment = time.time() - days * DAY_S - 60
        os.utime(made.path("statistics", key), (moment, moment))
    made.write("channel maxima", key, bytes(436))
    return made


def left(store: DiskStore) -> dict[str, int]:
    stages = [entry.stage for entry in store.entries()]
    return {stage: stages.count(stage) for stage in stages}


def test_what_is_kept_is_shown(store: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    shown, err = capsys.readouterr()
    assert [line.split() for line in shown.splitlines()] == [
        ["cache", "autosearch_cache"],
        ["stage", "entries", "size", "last", "used"],
        ["channel", "maxima", "1", "500", "B", "0", "s", "to", "0", "s", "ago"],
        ["statistics", "3", "3", "kB", "14", "w", "to", "1", "d", "ago"],
        ["all", "4", "3.5", "kB", "14", "w", "to", "0", "s", "ago"],
        ["limit", "10", "GB"],
    ]
    assert err == ""
    assert left(store) == {"statistics": 3, "channel maxima": 1}


@pytest.mark.parametrize("named", ["--cache-dir .", "--cache-dir autosearch_cache", "job.yaml"])
def test_ways_to_name_it(named: str, store: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("cache_dir: ./\ncache_size: 2 kB\nmodel_input: m.onnx\n")
    assert main(["cache", *named.split()]) == 0
    shown = capsys.readouterr().out
    assert "3.5 kB" in shown
    assert ("limit 2 kB" in shown) == (named == "job.yaml")


@pytest.mark.parametrize(
    ("options", "rest"),
    [
        ("", {}),
        ("--stage statistics", {"channel maxima": 1}),
        ("--older-than 5d", {"statistics": 1, "channel maxima": 1}),
        ("--older-than 30d --stage statistics", {"statistics": 2, "channel maxima": 1}),
        ("--older-than 30w", {"statistics": 3, "channel maxima": 1}),
    ],
)
def test_what_is_asked_for_is_cleared(
    options: str, rest: dict[str, int], store: DiskStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "--clear", *options.split()]) == 0
    assert left(store) == rest
    gone = 4 - sum(rest.values())
    assert f"cleared {gone} of 4 entries" in capsys.readouterr().out


def test_an_empty_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--cache-dir", str(tmp_path)]) == 0
    assert "never" in capsys.readouterr().out
    assert main(["cache", "--cache-dir", str(tmp_path), "--clear", "--stage", "any"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--cache-dir missing", "no directory 'missing'"),
        ("job.yaml --cache-dir .", "not both"),
        ("--clear --stage statistic", "did you mean 'statistics'"),
        ("--clear --older-than 30", "--older-than: '30': write a duration"),
        ("--stage statistics", "--stage and --older-than go with --clear"),
        ("none.yaml", "no file 'none.yaml'"),
    ],
)
def test_what_is_refused(
    options: str, complaint: str, store: DiskStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *options.split()]) == 2
    assert complaint in capsys.readouterr().err
    assert left(store) == {"statistics": 3, "channel maxima": 1}


def test_a_search_with_a_tiny_cache_finds_the_same(tmp_path: Path) -> None:
    job = write_job(tmp_path, search_cache_size="1 kB", search_output_dir="out")
    done = run_command("search", job, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = list(DiskStore(tmp_path / "autosearch_cache").entries())
    assert sum(entry.size_bytes for entry in kept) <= 1000
    assert "statistics" not in {entry.stage for entry in kept}  # they have no room
    shown = run_command("cache", job, cwd=tmp_path)
    assert "limit 1 kB" in shown.stdout
    wrong = run_command("search", job, "--set", "cache_size=lots", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "given twice" in wrong.stderr
    wrong = run_command("search", job, "--set", "search_cache_size=lots", cwd=tmp_path)
    assert "search_cache_size" in wrong.stderr
    assert "write a number of bytes, or a size such as '10 GB'" in wrong.stderr
