"""Lab 3: a width for every layer, then every number format, each with the best accuracy so far.

    python -m examples.lab3.search
    python -m examples.lab3.search --formats integer mxint --trials 40

Draws widths.html (number of trials against the maximum accuracy) and formats.html (one curve for each
format), and pictures of both where a browser is there to draw them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autosearch.cli import make_search
from autosearch.job import read_job
from autosearch.report import Curve, best_so_far, best_so_far_figure, logged_values, write_page, write_picture

FOLDER = Path(__file__).parent
METRIC = "accuracy"


def main() -> None:
    """Runs the searches, prints the best accuracy of each, and draws."""
    tables = format_tables()
    options = _options(list(tables))
    widths = search("widths", options, [])
    draw([widths], "Lab 3: a width and a fraction width for every layer", options.output_dir / "widths.html")
    curves = [
        search(name, options, [f"search_space.layers={json.dumps(linear_layers(tables[name]))}"])
        for name in options.formats
    ]
    for curve in (widths, *curves):
        print(f"{curve.name:18} {curve.best[-1] or math.nan:.3f} after {len(curve.values)} trials")
    curves.sort(key=lambda curve: curve.best[-1] or 0, reverse=True)
    draw(curves, "Lab 3: one search for each number format", options.output_dir / "formats.html")


def format_tables() -> dict[str, Mapping[str, Any]]:
    """What each format's search ranges over, by the name of its curve."""
    tables: dict[str, Mapping[str, Any]] = yaml.safe_load((FOLDER / "formats.yaml").read_text("utf-8"))
    return tables


def linear_layers(table: Mapping[str, Any]) -> dict[str, Any]:
    """A `search_space.layers` that gives the table to linear layers alone."""
    return {"by": "type", "default": {"name": "NA"}, "linear": dict(table)}


def search(name: str, options: argparse.Namespace, changes: Sequence[str]) -> Curve:
    """One search of search.yaml with changes, in a folder of its own."""
    folder = options.output_dir / name
    changes = [*changes, f"search_output_dir={folder}"]
    if options.trials is not None:
        changes.append(f"search_stop_condition.iteration_limit={options.trials}")
    make_search(read_job(FOLDER / "search.yaml", changes)).search_model()
    return best_so_far(name, logged_values(folder / "log.json", METRIC), "maximize")


def draw(curves: Sequence[Curve], title: str, page: Path) -> None:
    """A page, and a picture if there is a browser."""
    figure = best_so_far_figure(curves, title=title, metric=METRIC, show_trials=len(curves) == 1)
    write_page(figure, page)
    print(page)
    try:
        write_picture(figure, page.with_suffix(".png"))
    except ValueError as error:
        print(f"note: {error}", file=sys.stderr)


def _options(formats: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search widths, then number formats, for every layer.")
    parser.add_argument("--formats", nargs="+", metavar="NAME", choices=formats, default=formats)
    parser.add_argument(
        "--trials", type=int, metavar="N", help="of each search; default: that of search.yaml"
    )
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("results/lab3"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
