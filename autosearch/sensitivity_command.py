"""`autosearch sensitivity`: what each tensor, node or block costs when it alone is narrow."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from autosearch.errors import ConfigError, OutputError
from autosearch.job import load_data, read_job
from autosearch.problem import CACHE_FOLDER, read_quantization_config
from autosearch.table import table
from quant import Pipeline, Sensitivity, SensitivityTable, StageCache, load_float_model
from quant.cache import write_atomically

_COLUMNS = ("group", "operator", "error", "SQNR dB", "MACs %", "weights %", "activations %")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` reads."""
    parser.description = (
        "The sensitivity of every tensor (node or block with --granularity): the error of the model's"
        " outputs when it alone has the narrow type of the file's quantization_config and all else is float,"
        " relative to the best guess without a model; and the shares of MACs, weights and activations that a"
        " wider type costs. AutoMixprecision in its extra_options says what may change its type."
    )
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="rows to show (20); 0 = all")
    parser.add_argument("--granularity", choices=("tensor", "node", "block"), help="what a row is")
    parser.add_argument("--output", metavar="TABLE.csv", help="all rows as a file")


def run(options: argparse.Namespace) -> int:
    """Measures, or finds in the cache, and prints the table.

    Raises:
        ConfigError, DataError, ModelError, OutputError: Before any work.
    """
    if options.top < 0:
        raise ConfigError(f"--top: got {options.top}; give a number of rows, 0 for all")
    output = None if options.output is None else Path(options.output)
    if output is not None and not output.parent.is_dir():
        raise OutputError(f"--output {str(output)!r}: no directory {str(output.parent)!r}")
    job = read_job(options.config, options.set)
    float_model = load_float_model(job.model_input)
    config = read_quantization_config(job.quantization_config)
    if options.granularity is not None:
        mixed = config.extra_options.AutoMixprecision.replace(Granularity=options.granularity)
        config = config.replace(extra_options=config.extra_options.replace(AutoMixprecision=mixed))
    cache = StageCache(Path(job.settings.search_cache_dir) / CACHE_FOLDER, job.settings.search_cache_size)
    pipeline = Pipeline(float_model, load_data(job.calibration_data, float_model.inputs), cache)
    found = pipeline.sensitivity(config)
    print(describe(found, options.top))
    if output is not None:
        write_atomically(output, as_csv(found).encode())
        print(f"{output}: {len(found.rows)} rows")
    return 0


def describe(found: SensitivityTable, top: int) -> str:
    """The most sensitive rows, and the errors of the whole model.

    Args:
        found: The table.
        top: Number of rows; 0 = all.
    """
    ranked = found.ranked[: top or None]
    parts = ", ".join(
        f"{name} {narrow:.3g} / {wide:.3g}"
        for name, narrow, wide in zip(found.parts, found.narrow.relative, found.wide.relative, strict=True)
    )
    return "\n".join(
        [
            table(_COLUMNS, [_cells(row) for row in ranked]),
            f"{len(ranked)} of {len(found.rows)} rows",
            f"error with everything narrow / wide: {parts}",
        ]
    )


def as_csv(found: SensitivityTable) -> str:
    """All rows with a header, the most sensitive first; cells of what is not known are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "op_type", "error", "mean_square", "sqnr_db", "macs", "weights", "activations"])
    for row in found.ranked:
        shares = (row.shares.macs, row.shares.weights, row.shares.activations)
        mean_square = None if row.noise is None else row.noise.mean_square
        writer.writerow([row.group.name, row.group.op_type, row.error, mean_square, row.sqnr_db, *shares])
    return text.getvalue()


def _cells(row: Sensitivity) -> list[str]:
    shares = (row.shares.macs, row.shares.weights, row.shares.activations)
    return [
        row.group.name,
        row.group.op_type,
        "-" if row.error is None else f"{row.error:.3g}",
        "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
        *(f"{100 * share:.2f}" for share in shares),
    ]
