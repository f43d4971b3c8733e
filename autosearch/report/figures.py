"""Figures by plotly, as web pages and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosearch.errors import ConfigError, OutputError
from autosearch.report.best_so_far import Curve

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLOURS = ("#3366aa", "#cc7722", "#228833", "#aa3377", "#66ccee", "#999933", "#882255", "#555555")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SIZE = (900, 480)
_PICTURE_SCALE = 2
"""Pixels of a picture for each pixel of the page, for sharp letters."""


def best_so_far_figure(
    curves: Sequence[Curve], *, title: str, metric: str, show_trials: bool = True
) -> Figure:
    """Number of trials against the best value so far: a step for each curve, a dot for each trial.

    Args:
        curves: One for each search. Colours are used again after eight, with another dash.
        title: Above the figure.
        metric: What is on the vertical axis.
        show_trials: Whether the trials' own values are shown; with many curves they are in the way.

    Raises:
        ConfigError: If plotly is missing.
    """
    objects = _graph_objects()
    figure = objects.Figure()
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        trials = list(range(1, len(curve.values) + 1))
        figure.add_trace(
            objects.Scatter(
                x=trials,
                y=list(curve.best),
                name=curve.name,
                mode="lines",
                line={"color": colour, "dash": dash, "shape": "hv", "width": 2},
            )
        )
        if show_trials:
            figure.add_trace(
                objects.Scatter(
                    x=trials,
                    y=list(curve.values),
                    name=f"{curve.name}, each trial",
                    mode="markers",
                    marker={"color": colour, "size": 5, "opacity": 0.5},
                    showlegend=len(curves) == 1,
                )
            )
    figure.update_layout(
        title=title,
        template="simple_white",
        width=_SIZE[0],
        height=_SIZE[1],
        margin={"t": 70, "b": 60},
        showlegend=True,
        xaxis={"title": "number of trials", "rangemode": "tozero"},
        yaxis={"title": metric, "showgrid": True},
    )
    return figure


def write_page(figure: Figure, path: Path) -> None:
    """Writes a web page that needs no network.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a PNG. plotly has kaleido draw it, and kaleido has Chrome or Chromium do so.

    Raises:
        OutputError: If kaleido or a browser is missing, or the picture cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_image(path, format="png", scale=_PICTURE_SCALE)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None
    except (ImportError, RuntimeError, ValueError) as error:  # whichever of the two is missing
        reason = " ".join(str(error).split())
        raise OutputError(
            f"{path}: plotly cannot draw it; pictures need kaleido (pip install 'autosearch[report]') and"
            f" Chrome or Chromium: {reason}"
        ) from error


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects
    except ImportError:
        raise ConfigError("figures need plotly; install with: pip install 'autosearch[report]'") from None
    return plotly.graph_objects
