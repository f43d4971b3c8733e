from __future__ import annotations

import csv
from pathlib import Path

import pytest

from autosearch.cli import main
from tests.autosearch.models import write_job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(write_job(tmp_path))


def test_the_table_is_printed_and_written(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensitivity", job, "--top", "2", "--output", "t.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["group", "operator", "error"]
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert lines[4] == f"2 of {len(rows)} rows"
    assert lines[5].startswith("error with everything narrow / wide: ")
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0
    assert [line.split()[0] for line in lines[2:4]] == [row["group"] for row in rows[:2]]


def test_rows_may_be_nodes(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensitivity", job, "--granularity", "node", "--top", "0"]) == 0
    nodes = capsys.readouterr().out.splitlines()
    assert main(["sensitivity", job, "--top", "0"]) == 0
    assert len(nodes) < len(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("wrong", [["--top", "-1"], ["--output", "none/t.csv"]])
def test_wrong_options_are_refused_first(
    job: str, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", job, *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err
