from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autosearch.conftest import model, settings  # noqa: F401 - fixtures
from tests.faults.processes import wait_until
from tests.faults.searches import Search


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    made = Search(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    wait_until(lambda: not made.processes())  # none is left behind
