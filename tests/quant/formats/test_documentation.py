from __future__ import annotations

from pathlib import Path

import pytest

from quant.formats import FORMATS
from quant.formats.parameters import Derived
from quant.formats.registry import ALIASES

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*FORMATS, *ALIASES])
def test_every_format_has_a_row_with_its_parameters(name: str) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
    if name == "minifloat_denorm":
        assert "as above" in row
        return
    for parameter in FORMATS[ALIASES.get(name, name)].parameters:
        assert f"`{parameter.name}`" in row
        if parameter.kind is int and not parameter.is_required and not isinstance(parameter.default, Derived):
            assert f"({parameter.default})" in row
        if parameter.low is not None and parameter.high is not None and parameter.high <= 127:
            assert f"{parameter.low}–{parameter.high}".replace("-", "−") in row
