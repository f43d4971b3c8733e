"""A small model, its data, and a configuration that keeps to the temporary directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.autosearch.models import SPACE, make_feeds, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    return make_feeds()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A configuration that keeps everything in the temporary directory."""
    return {
        "search_space": SPACE,
        "search_output_dir": str(tmp_path / "out"),
        "search_cache_dir": str(tmp_path / "cache"),
        "search_log_path": str(tmp_path / "auto_search.log"),
    }
