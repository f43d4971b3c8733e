"""The `autosearch` command."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import autosearch
from autosearch import cache_command, sensitivity_command
from autosearch.auto_search import AutoSearch
from autosearch.compat import build, changed, with_evaluator
from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError, OutputError
from autosearch.files import BEST, LOG, read_entry
from autosearch.job import DataSource, Given, Job, labels_of, load_data, read_job
from autosearch.plan import make_plan
from autosearch.problem import expected_cost, read_quantization_config
from autosearch.search_log import LIBRARIES, own_log
from autosearch.space import SearchSpace, layer_sites
from autosearch.storage import shown_url
from autosearch.table import best_table, trials_table
from autosearch.trial import SearchResult
from quant import Pipeline, load_float_model

FOUND, BAD_INPUT, NONE_WITHIN_TOLERANCE, INTERRUPTED = 0, 2, 3, 130
"""Exit codes."""

_EXAMPLES = """\
examples:
  autosearch space search.yaml                      what would be searched, and what that costs
  autosearch search search.yaml                     search; the same command again goes on
  autosearch search search.yaml --set search_algo=TPE --set search_stop_condition.time_limit=600
  autosearch search search.yaml --output-dir results/run1 --n-jobs 2
  autosearch search mase.toml --model model.onnx --data digits.npz --output results/run2
  autosearch worker search.yaml --set storage=postgresql+psycopg://user@host/db    on each machine
  autosearch quantize model.onnx --config results/run1/best.json#0 -o quantized.onnx
  autosearch sensitivity search.yaml --top 20       which tensors int8 hurts most
  autosearch cache search.yaml --clear --older-than 30d

exit codes: 0 a candidate was found, 3 none is within tolerance, 2 bad input, 130 interrupted
"""


_WORKER = """\
Take part in a search: run the same command, with the same file, on as many machines as you like.

Each configuration is tried once, by whoever claims it first; stop conditions hold for all together, and all
end with the same result. A process may come later, end early (Ctrl-C, SIGTERM) or be killed: the others try
its trials again. The file must name a storage that all of them reach. Each process writes a log of its own,
named for its machine and number. Models stay where they were made, and records say where.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError) as error:
        lines = (line.strip() for line in str(error).splitlines())
        print(f"error: {'; '.join(line for line in lines if line)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; everything so far is recorded", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autosearch",
        description="Search for the best way to quantize an ONNX model after training.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autosearch {autosearch.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    search = commands.add_parser("search", help="search for configurations, or go on with a search")
    _add_search(search)
    search.set_defaults(run=_search)

    worker = commands.add_parser(
        "worker",
        help="search together with others, on this machine and on others",
        description=_WORKER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_search(worker)
    worker.set_defaults(run=_worker)

    space = commands.add_parser("space", help="show the search space and its cost; runs nothing")
    space.add_argument("config", metavar="CONFIG.yaml|toml")
    _add_given(space)
    _add_changes(space)
    space.add_argument("--first", type=int, default=10, metavar="N", help="configurations to list (10)")
    space.set_defaults(run=_space)

    quantize = commands.add_parser("quantize", help="quantize with a recorded configuration")
    _add_quantize(quantize)
    quantize.set_defaults(run=_quantize)

    sensitivity = commands.add_parser("sensitivity", help="show what each tensor loses by being narrow")
    sensitivity_command.add_arguments(sensitivity)
    _add_changes(sensitivity)
    sensitivity.set_defaults(run=sensitivity_command.run)

    cache = commands.add_parser("cache", help="show what is kept of stages on disk, or clear it")
    cache_command.add_arguments(cache)
    cache.set_defaults(run=cache_command.run)
    return parser


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument(
        "--config", required=True, metavar="best.json#0", help="record and its entry, or a sampled config"
    )
    parser.add_argument("--trial", type=int, metavar="N", help="number of the trial, instead of the entry")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")
    parser.add_argument(
        "--data", metavar="DATA.npz", help="calibration data; default: what was searched with"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples in a feed of --data")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml|toml")
    _add_given(parser)
    _add_changes(parser)
    parser.add_argument("--output-dir", "--output", metavar="D", help="where models, study and reports go")
    parser.add_argument("--n-jobs", type=int, metavar="N", help="worker processes")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log details, such as the loss of finetuned layers"
    )


def _add_given(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("for TOML files of MASE's")
    group.add_argument("--model", metavar="MODEL.onnx", help="the float model")
    group.add_argument("--data", metavar="DATA.npz", help="samples to calibrate and evaluate with")
    group.add_argument("--labels", metavar="NAME", help="their array of labels (labels)")


def _read_job(options: argparse.Namespace) -> Job:
    job = read_job(options.config, options.set, Given(options.model, options.data, options.labels))
    for note in job.notes:
        print(f"note: {note}", file=sys.stderr)
    return job


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the file; keys of inner mappings with dots, values as YAML",
    )


def _search(options: argparse.Namespace) -> int:
    return _run(_read_search(options))


def _worker(options: argparse.Namespace) -> int:
    job = _read_search(options)
    settings = job.settings
    if settings.storage is None:
        raise ConfigError(
            "storage: processes that search together need one that all of them reach; write, in the file or"
            " with --set, storage: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or storage: journal:PATH"
            " in a shared directory"
        )
    log = str(own_log(Path(settings.search_log_path)))
    return _run(dataclasses.replace(job, settings=changed(settings, {"search_log_path": log})))


def _read_search(options: argparse.Namespace) -> Job:
    given = {"search_output_dir": options.output_dir, "n_jobs": options.n_jobs}
    changes = {name: value for name, value in given.items() if value is not None}
    job = _read_job(options)
    if options.verbose:
        for library in LIBRARIES:
            logging.getLogger(library).setLevel(logging.DEBUG)
    return dataclasses.replace(job, settings=changed(job.settings, changes))


def _run(job: Job) -> int:
    search = make_search(job)
    search.search_model()
    assert search.result is not None
    print(_summary(search, search.result))
    if search.result.interrupted:
        return INTERRUPTED
    return FOUND if search.result.candidates else NONE_WITHIN_TOLERANCE


def make_search(job: Job) -> AutoSearch:
    """The search that a YAML file describes.

    Raises:
        ConfigError, DataError, ModelError, OutputError: Before any work.
    """
    float_model = load_float_model(job.model_input)
    calibration = load_data(job.calibration_data, float_model.inputs)
    evaluation = None if job.eval_data is None else load_data(job.eval_data, float_model.inputs)
    settings = with_evaluator(job.settings, job.folder)
    return AutoSearch(
        job.quantization_config,
        settings,
        float_model,
        calibration,
        evaluation,
        eval_labels=labels_of(job),
        source={"calibration_data": _recorded(job.calibration_data)},
    )


def _recorded(source: DataSource) -> dict[str, Any]:
    path = None if source.path is None else str(source.path)
    return {
        "path": path,
        "reader": source.reader,
        "folder": str(source.folder),
        "batch_size": source.batch_size,
        "samples": source.samples,
        "labels": source.labels,
    }


def _summary(search: AutoSearch, result: SearchResult) -> str:
    settings = search.problem.settings
    best = list(_best(search, result))
    lines = [*best]
    if not result.candidates:
        shown = "; the best trial is shown" if best else ""
        lines.append(f"None is within {' and '.join(_limits(settings))}{shown}.")
    if result.infeasible:
        lines.append(f"{len(result.infeasible)} trials break a constraint; the log says which")
    if result.failed:
        lines.append(f"{len(result.failed)} trials failed, first: {result.failed[0].outcome.error}")
    if result.pruned:
        lines.append(f"{len(result.pruned)} trials were pruned")
    directory = search.problem.output_dir
    storage = directory / "study.db" if settings.storage is None else shown_url(settings.storage)
    lines += [
        f"{len(result.candidates)} candidates of {len(result.trials)} trials in {result.seconds:.1f} s;"
        f" stopped: {result.stop_reason}",
        f"models   {search.problem.models_dir}",
        f"records  {directory / BEST}, {directory / LOG}, {storage}",
        f"log      {settings.search_log_path}",
    ]
    return "\n".join(lines)


def _best(search: AutoSearch, result: SearchResult) -> Iterator[str]:
    """The best trials: of named metrics as MASE prints them, otherwise ranked by the searched one."""
    shown = tuple(trial for trial in (result.best,) if trial is not None)
    if search.problem.settings.metrics:
        shown = result.front or shown
        if shown:
            yield from ("Best trial(s):", best_table(shown), "")
    elif shown:
        yield from (trials_table(result.candidates or shown, search.problem.metric), "")


def _limits(settings: AutoSearchConfig) -> list[str]:
    """What candidates have to be within."""
    limits = ["the constraints"] if settings.constraints else []
    if settings.search_metric_tolerance is not None or not limits:
        limits.insert(0, f"the tolerance of {settings.search_metric_tolerance}")
    return limits


def _space(options: argparse.Namespace) -> int:
    job = _read_job(options)
    float_model = load_float_model(job.model_input)
    data = load_data(job.calibration_data, float_model.inputs)
    base = read_quantization_config(job.quantization_config)
    space = SearchSpace(
        job.settings.search_space,
        base,
        cost_model=expected_cost(float_model, data),
        layers=partial(layer_sites, float_model, base),
    )
    plan, notes = make_plan(job.settings, space)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    first = plan.first
    if first.introduction is not None:
        print(first.introduction)
    print(first.space.describe(options.first))
    for later in first.later:
        print("Then, on the best of these (shown on the first of them):")
        print(later.describe(options.first))
    return FOUND


def _quantize(options: argparse.Namespace) -> int:
    entry = read_entry(options.config, options.trial)
    source = entry["source"]
    float_model = load_float_model(options.model)
    if source.get("model_digest") not in (None, float_model.digest):
        print("note: this is not the model that was searched", file=sys.stderr)
    data = load_data(_replay_source(options, source), float_model.inputs)
    if source.get("calibration_data_digest") not in (None, data.digest):
        print("note: these are not the data that the search calibrated with", file=sys.stderr)
    output = Path(options.output)
    if not output.parent.is_dir():
        raise OutputError(f"--output {str(output)!r}: no directory {str(output.parent)!r}")
    config = entry["config"]
    quantized = Pipeline(float_model, data).quantize(config)
    quantized.save(output, external_data=config.use_external_data_format)
    print(f"{output}: {len(quantized.bits)} tensors quantized")
    if quantized.weights is not None and not config.use_external_data_format:
        print(f"{output.with_name(quantized.weights.name)}: its float weights")
    return FOUND


def _replay_source(options: argparse.Namespace, source: Mapping[str, Any]) -> DataSource:
    recorded = source.get("calibration_data") or {}
    if not isinstance(recorded, Mapping):
        raise ConfigError(f"--config: calibration_data: got {recorded!r}; name the data with --data")
    if options.data is not None:
        recorded = {**recorded, "path": options.data, "reader": None}
    if options.batch_size is not None:
        recorded = {**recorded, "batch_size": options.batch_size}
    replayed = build(DataSource, recorded, "--config: calibration_data")
    if replayed.path is None and replayed.reader is None:
        raise ConfigError("--data: the record does not say where its calibration data lie; name them")
    if replayed.path is not None and not replayed.path.is_file():
        whose = "" if options.data is not None else "the recorded data are gone, name them: "
        raise ConfigError(f"--data: {whose}no file {str(replayed.path)!r}")
    return replayed


if __name__ == "__main__":
    sys.exit(main())
