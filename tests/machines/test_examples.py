"""Files for clusters: whole, and commands that the parser takes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from autosearch.cli import _parser

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"


def pretend(folder: Path, code: int = 0) -> dict[str, str]:
    """An environment whose `autosearch` writes its arguments down."""
    program = folder / "autosearch"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\nexit {code}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PASSWORD": "secret"}


def arguments(folder: Path) -> Any:
    return _parser().parse_args((folder / "arguments").read_text().splitlines())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_slurm_runs_a_worker(tmp_path: Path) -> None:
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    environment = {**pretend(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "3"}
    subprocess.run(["bash", script, "mine.yaml"], env=environment, check=True)
    given = arguments(tmp_path)
    assert (given.config, given.n_jobs) == ("mine.yaml", 3)
    assert given.set == [f"storage=journal:{tmp_path}/study.journal"]


def job() -> Any:
    documents = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    assert [each["kind"] for each in documents] == ["Secret", "Service", "StatefulSet", "Job"]
    return documents[-1]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (2, 2)])
def test_kubernetes_runs_a_worker(tmp_path: Path, code: int, expected: int) -> None:
    (container,) = job()["containers"]
    command = [*container["command"], *container["args"]]
    ended = subprocess.run(command, env=pretend(tmp_path, code), check=False)
    assert ended.returncode == expected
    given = arguments(tmp_path)
    assert given.config == "/config/search.yaml"
    assert given.set == ["storage=postgresql+psycopg://postgres:secret@autosearch-database/autosearch"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        each["name"] for each in job()["volumes"]
    }
