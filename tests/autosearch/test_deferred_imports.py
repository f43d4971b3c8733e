from __future__ import annotations

import subprocess
import sys

import autosearch
from tests.autosearch.models import environment


def run(script: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_worker_does_without_what_only_the_search_needs() -> None:
    found = run(
        "import sys\n"
        "from autosearch.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import autosearch.workers.worker\n"
        "print(*(name for name in sys.modules))"
    ).split()
    unwanted = ("optuna", "sqlalchemy", "alembic", "tqdm", "yaml", "sympy.core", "mpmath", "scipy")
    assert "onnx_ir" in found
    assert not [name for name in found if name.startswith(unwanted)]


def test_what_was_put_off_works_when_it_is_used() -> None:
    found = run(
        "from autosearch.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import onnx_ir as ir\n"
        "import sympy.abc\n"
        "print(ir.SymbolicDim('N') + 1, sympy.abc.x + 1, sep=';')"
    )
    assert found.strip().replace("SymbolicDim", "") in ("(N + 1);x + 1", "N + 1;x + 1")


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(autosearch, name) for name in autosearch.__all__)
    assert not hasattr(autosearch, "AutoSerach")
