"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autosearch.trial import Trial
from evaluators import Metric

_SHOWN = 10
_INDEX_WIDTHS = (2, 8)
"""Least ones of the columns of numbers in an org-mode table."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def trials_table(ranked: Sequence[Trial], metric: Metric) -> str:
    """The best trials, a line each."""
    unit = f" ({metric.unit})" if metric.unit else ""
    header = ["rank", "trial", f"{metric.name}{unit}", "configuration", "seconds", "model"]
    if not metric.against_float:
        header.insert(3, "difference")
    rows = []
    for rank, trial in enumerate(ranked[:_SHOWN]):
        row = [str(rank), str(trial.number), f"{trial.outcome.metrics[metric.name]:.6g}"]
        if not metric.against_float:
            row.append(f"{trial.difference:.6g}")
        model = trial.outcome.model_path or "-"
        rows.append([*row, trial.short, f"{trial.seconds:.2f}", model])
    return table(header, rows)


def best_table(trials: Sequence[Trial]) -> str:
    """Trials with all their metrics to 3 decimals, as MASE prints its best ones (an org-mode table)."""
    header = ["", "number", "software_metrics", "hardware_metrics", "scaled_metrics"]
    rows = [
        [
            str(position),
            str(trial.number),
            _rounded(trial.outcome.metrics),
            _rounded(trial.outcome.hardware),
            _rounded(trial.scaled),
        ]
        for position, trial in enumerate(trials)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    widths[:2] = [max(width, least) for width, least in zip(widths, _INDEX_WIDTHS, strict=False)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column < 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "+".join("-" * (width + 2) for width in widths)
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def _rounded(values: Mapping[str, float]) -> str:
    return str({name: round(value, 3) for name, value in values.items()})


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
