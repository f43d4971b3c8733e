from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autosearch.errors import OutputError
from autosearch.search_log import environment, search_log


def test_warnings_of_the_packages_are_in_the_log_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "auto_search.log"
    with search_log(path):
        logging.getLogger("quant.cache").warning("an entry is damaged")
    logging.getLogger("quant.cache").warning("too late")
    assert path.read_text().endswith("WARNING an entry is damaged\n")


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with search_log(tmp_path / "log") as log:
            log.info(word)
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["one", "two"]


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"search_log_path '.*file/log': cannot be written"),
        search_log(tmp_path / "file" / "log"),
    ):
        pass


def test_the_environment_is_a_line() -> None:
    assert "\n" not in environment()
    for name in ("Python 3.", "onnxruntime ", "optuna "):
        assert name in environment()
