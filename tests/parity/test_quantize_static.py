from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.configurations import MINMAX, OPTIONS
from tests.parity.models import CASES
from tests.parity.reference import assert_same_numbers, both


@pytest.mark.parametrize("config", MINMAX)
@pytest.mark.parametrize("case", CASES)
def test_same_integers(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **MINMAX[config]))


@pytest.mark.parametrize("config", OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_same_integers_with_options(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **OPTIONS[config]))
