from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.processes import wait_until
from tests.machines.fleet import Fleet
from tests.machines.servers import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("postgresql") / "data")
    yield made
    made.close()


@pytest.fixture(params=["postgresql", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage that several processes may use."""
    if request.param == "journal":
        return f"journal:{tmp_path / 'journal.log'}"
    server: Server = request.getfixturevalue("server")
    return server.new_database(f"db_{uuid4().hex}")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    wait_until(lambda: not made.processes())  # none is left behind
