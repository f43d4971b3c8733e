from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.processes import wait_until
from tests.machines.fleet import Fleet
from tests.machines.servers import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    # not in pytest's own folder: the server may run as another user, who must get there
    with tempfile.TemporaryDirectory(prefix="autosearch-postgresql-") as folder:
        made = Server(Path(folder) / "data")
        yield made
        made.close()


@pytest.fixture(params=["postgresql", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage that several processes may use."""
    return new_storage(request, tmp_path)


def new_storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "journal":
        return f"journal:{tmp_path / 'journal.log'}"
    server: Server = request.getfixturevalue("server")
    return server.new_database(f"db_{uuid4().hex}")


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def either_storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, where one of them is enough for every day."""
    return new_storage(request, tmp_path)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    wait_until(lambda: not made.processes())  # none is left behind
