"""A disk that is full while models are written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autosearch import AutoSearch
from autosearch.errors import OutputError
from quant.quantized_model import QuantizedModel
from tests.autosearch.models import DISTINCT, make_feeds
from tests.faults.processes import PATIENCE_S
from tests.faults.searches import Search

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_search_ends_with_the_reason_and_goes_on_when_there_is_room(
    model: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    room = model.parent / "room"  # for so many models
    room.write_text("5")
    save = QuantizedModel.save

    def save_while_there_is_room(self: QuantizedModel, path: Path, **options: Any) -> None:
        if len(list(path.parent.glob("*.onnx"))) >= int(room.read_text()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, path, **options)

    class Evaluator:
        """In a worker it brings the full disk along."""

        def __call__(self, path: str) -> float:
            return 0.5

        def __setstate__(self, state: dict[str, Any]) -> None:
            QuantizedModel.save = save_while_there_is_room  # type: ignore[method-assign]

        def __getstate__(self) -> dict[str, Any]:
            return {"some": "state"}

    monkeypatch.setattr(QuantizedModel, "save", save_while_there_is_room)
    changed = {**settings, "n_jobs": jobs, "search_evaluator": Evaluator()}
    with pytest.raises(OutputError, match=r"No space left on device.*free some space"):
        AutoSearch(None, changed, model, make_feeds()).search_model()
    models = model.parent / "out" / "models"
    assert 1 <= len(list(models.glob("*.onnx"))) <= 6
    room.write_text("1000")
    search = AutoSearch(None, changed, model, make_feeds())
    assert len(search.search_model()) == DISTINCT
    assert search.result is not None
    assert not search.result.failed
    assert {path.suffix for path in models.iterdir()} == {".onnx"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An output directory on a file system of 2 MB."""
    folder = tmp_path / "out"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_real_file_system_that_is_full(small_disk: Path, search: Search) -> None:
    ballast = small_disk / "ballast"
    search.plant()
    process = search.start(evaluation_s=0.2)
    search.wait_for(4)
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(512))
        except OSError:
            pass
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "full" in err or "No space left" in err
    assert "Traceback" not in err
    ballast.unlink()
    assert len(search.complete()) >= 3
    search.finish()
    search.check_end()
