from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autosearch.errors import ConfigError, OutputError
from autosearch.report import best_so_far, best_so_far_figure, write_page, write_picture

CURVES = [best_so_far(f"format {number}", [None, 0.1 * number, 0.5, 0.3], "maximize") for number in range(10)]


def test_plotly_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ConfigError, match=r"pip install 'autosearch\[report\]'"):
        best_so_far_figure(CURVES, title="t", metric="accuracy")


def test_a_step_for_each_curve_and_a_dot_for_each_trial() -> None:
    pytest.importorskip("plotly")
    figure = best_so_far_figure(CURVES, title="Formats", metric="accuracy")
    lines, dots = figure.data[::2], figure.data[1::2]
    for curve, line, dot in zip(CURVES, lines, dots, strict=True):
        assert (line.name, tuple(line.x), tuple(line.y)) == (curve.name, (1, 2, 3, 4), curve.best)
        assert (line.mode, line.line.shape) == ("lines", "hv")
        assert (tuple(dot.y), dot.mode) == (curve.values, "markers")
        assert dot.marker.color == line.line.color
    assert len({(line.line.color, line.line.dash) for line in lines}) == len(CURVES)
    assert figure.layout.xaxis.title.text == "number of trials"
    assert figure.layout.yaxis.title.text == "accuracy"


def test_trials_can_be_left_out() -> None:
    pytest.importorskip("plotly")
    figure = best_so_far_figure(CURVES, title="t", metric="accuracy", show_trials=False)
    assert [line.mode for line in figure.data] == ["lines"] * len(CURVES)


def test_a_page_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "new" / "page.html"
    write_page(best_so_far_figure(CURVES, title="Formats <b>", metric="accuracy"), page)
    text = page.read_text(encoding="utf-8")
    assert "format 7" in text
    assert '<script src="http' not in text


class Undrawable:
    def write_image(self, *_: object, **__: object) -> None:
        raise RuntimeError("Kaleido requires\nGoogle Chrome")


def test_a_missing_browser_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"p\.png: .*Chrome or Chromium: Kaleido requires Google Chrome"):
        write_picture(Undrawable(), tmp_path / "p.png")


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    (tmp_path / "file").touch()
    figure = best_so_far_figure(CURVES[:1], title="t", metric="accuracy")
    with pytest.raises(OutputError, match=r"page\.html: cannot be written"):
        write_page(figure, tmp_path / "file" / "page.html")
