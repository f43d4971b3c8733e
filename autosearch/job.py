"""A search as a file: the model, the data, and the keys of `AutoSearchConfig`, on one level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from autosearch.compat import (
    JOB_KEYS,
    apply_change,
    build,
    check_keys,
    import_object,
    parse_config,
    read_yaml,
)
from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError
from autosearch.mase import SUFFIX, load_toml, read_search
from quant import CalibrationData, DataError
from quant.calibration.data import InputSpec

_BATCH_SIZE = 32


@validated(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataSource:
    """Where feeds come from.

    Attributes:
        path: An .npz archive with an array for each model input, samples along the first axis.
        reader: ``module:callable`` instead, which returns a data reader or a list of feeds.
        folder: Where that module is looked for first; by default the YAML file's folder.
        batch_size: Samples in a feed, of an archive.
        samples: How many to take; None = all.
        labels: Name of the array of labels in the archive.
    """

    path: Path | None = None
    reader: str | None = None
    folder: Path = Path()
    batch_size: int = Field(default=_BATCH_SIZE, gt=0)
    samples: int | None = Field(default=None, gt=0)
    labels: str = "labels"


@dataclass(frozen=True)
class Job:
    """A file, read.

    Attributes:
        model_input: The float model.
        quantization_config: What all configurations share.
        calibration_data, eval_data: Where feeds come from.
        settings: How to search.
        folder: Of the file; modules that it names may lie there.
        notes: What of the file has no effect.
    """

    model_input: Path
    quantization_config: Mapping[str, Any]
    calibration_data: DataSource
    eval_data: DataSource | None
    settings: AutoSearchConfig
    folder: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What the command line gives to a file of MASE's, which says nothing of it.

    Attributes:
        model: The float model.
        data: An archive to calibrate and to evaluate with.
        labels: Name of its array of labels; None = the default of `DataSource`.
    """

    model: str | None = None
    data: str | None = None
    labels: str | None = None


def read_job(path: str | Path, changes: Sequence[str] = (), given: Given | None = None) -> Job:
    """Reads a YAML file, or a TOML file of MASE's; paths of inputs in it are relative to its folder.

    Args:
        path: Of the file.
        changes: ``key=value``; of a TOML file, keys that begin with ``search.`` are those of the file.
        given: Model and data of a TOML file.

    Raises:
        ConfigError: Naming the file, the key and what to do.
    """
    if Path(path).suffix == SUFFIX:
        return _read_mase(Path(path), changes, given or Given())
    for name, value in vars(given or Given()).items():
        if value is not None:
            raise ConfigError(
                f"--{name}: is for TOML files of MASE's; a YAML file says it itself, or use --set"
            )
    return _job(read_yaml(path, changes), path)


def _read_mase(path: Path, changes: Sequence[str], given: Given) -> Job:
    content = load_toml(path)
    own = [change for change in changes if change.startswith("search.")]
    for change in own:
        apply_change(content, change)
    search = read_search(content)
    for name, value in (("model", given.model), ("data", given.data)):
        if value is None:
            raise ConfigError(f"{path}: the file does not say which; give --{name}")
    source: dict[str, Any] = {"path": str(Path(given.data or "").resolve())}
    evaluation = {**source, "labels": given.labels, "samples": search.num_samples}
    job_content = {
        **search.settings,
        "model_input": str(Path(given.model or "").resolve()),
        "calibration_data": source,
        "eval_data": {key: value for key, value in evaluation.items() if value is not None},
    }
    for change in changes:
        if change not in own:
            apply_change(job_content, change)
    check_keys(job_content, path)
    return dataclasses.replace(_job(job_content, path), notes=search.notes)


def _job(content: Mapping[str, Any], path: str | Path) -> Job:
    folder = Path(path).resolve().parent
    for key in ("model_input", "calibration_data"):
        if not content.get(key):
            raise ConfigError(f"{path}: {key} is missing")
    evaluation = content.get("eval_data")
    job = Job(
        model_input=folder / str(content["model_input"]),
        quantization_config=content.get("quantization_config") or {},
        calibration_data=_data_source(content["calibration_data"], "calibration_data", folder),
        eval_data=None if evaluation is None else _data_source(evaluation, "eval_data", folder),
        settings=parse_config({key: value for key, value in content.items() if key not in JOB_KEYS}),
        folder=folder,
    )
    if not job.model_input.is_file():
        raise ConfigError(f"{path}: model_input: no file {str(job.model_input)!r}")
    return job


def load_data(source: DataSource, inputs: Sequence[InputSpec]) -> CalibrationData:
    """Feeds of a source.

    Args:
        source: Where from; of an archive, arrays that are no inputs (labels, indices) are left out.
        inputs: What the model takes.

    Raises:
        DataError: If they cannot be read.
    """
    if source.reader is not None:
        return CalibrationData(_read(source.reader, source.folder)).head(source.samples)
    stored = _arrays(source)
    arrays = {spec.name: stored[spec.name] for spec in inputs if spec.name in stored}
    if len(arrays) < len(inputs):
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(f"{source.path}: arrays {', '.join(stored)}; the model takes {names}")
    count = _samples(arrays, source)
    size = source.batch_size
    starts = range(0, count, size)
    return CalibrationData(
        [
            {name: array[start : min(start + size, count)] for name, array in arrays.items()}
            for start in starts
        ]
    )


def load_labels(source: DataSource) -> NDArray[Any]:
    """Labels of a source.

    Raises:
        DataError: If it has none.
    """
    arrays = _arrays(source)
    if source.labels not in arrays:
        raise DataError(f"{source.path}: no array {source.labels!r}; there are {', '.join(arrays)}")
    labels = arrays[source.labels]
    return labels[: source.samples]


def labels_of(job: Job) -> NDArray[Any] | None:
    """The labels of the evaluation data, for metrics that need some; None if there are none.

    Raises:
        DataError: If the archive cannot be read, or lacks the array that the file names.
    """
    source = job.eval_data
    if source is None or source.path is None:
        return None
    if source.labels == DataSource.labels and source.labels not in _arrays(source):
        return None
    return load_labels(source)


def _data_source(value: object, place: str, folder: Path) -> DataSource:
    given = {"path": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}: got {value!r}; give a path or {{path: ..., batch_size: ...}}")
    source = build(DataSource, given, place)
    if (source.path is None) == (source.reader is None):
        raise ConfigError(f"{place}: give either a path or a reader")
    if source.path is None:
        return dataclasses.replace(source, folder=folder / source.folder)
    path = folder / source.path
    if not path.is_file():
        raise ConfigError(f"{place}: no file {str(path)!r}")
    return build(DataSource, {**given, "path": path}, place)


def _read(reader: str, folder: Path) -> Any:
    """What the named object is, or returns: a data reader or feeds."""
    named = import_object(reader, folder, "reader")
    if not callable(named):
        return named
    try:
        return named()
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"reader: {reader!r} raised {type(error).__name__}: {error}") from error


def _arrays(source: DataSource) -> dict[str, NDArray[Any]]:
    assert source.path is not None
    try:
        with np.load(source.path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{source.path}: not an .npz archive of arrays: {error}") from None


def _samples(arrays: Mapping[str, NDArray[Any]], source: DataSource) -> int:
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not counts or len(set(counts.values())) > 1 or not min(counts.values()):
        raise DataError(f"{source.path}: arrays must be of one number of samples, more than none: {counts}")
    count = min(counts.values())
    return count if source.samples is None else min(count, source.samples)
