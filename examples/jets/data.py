"""Jets: made ones, and the files of the real data set."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    "zlogz",
    "c1_b0_mmdt",
    "c1_b1_mmdt",
    "c1_b2_mmdt",
    "c2_b1_mmdt",
    "c2_b2_mmdt",
    "d2_b1_mmdt",
    "d2_b2_mmdt",
    "d2_a1_b1_mmdt",
    "d2_a1_b2_mmdt",
    "m2_b1_mmdt",
    "m2_b2_mmdt",
    "n2_b1_mmdt",
    "n2_b2_mmdt",
    "mass_mmdt",
    "multiplicity",
)
CLASSES = ("g", "q", "t", "w", "z")  # gluon, light quark, top quark, W and Z boson

_CLOSENESS = {("g", "q"): 0.9, ("w", "z"): 1.0}
"""How far apart pairs of classes lie that are hard to tell apart; others lie about 2 apart."""
_TABLE = "t_allpar_new"

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


def synthetic_jets(samples: int, rng: np.random.Generator) -> Samples:
    """Features with the ranges and the class overlap of jets, (samples, 16), and classes from 0.

    Every class is a normal distribution of its own mean and covariance; half of the features are
    then made log-normal, and all are scaled and shifted, from some thousandths (ratios of energy
    correlations) to some hundreds (masses). The distributions themselves do not depend on `rng`.
    """
    fixed = np.random.default_rng(2)
    directions = fixed.normal(size=(len(CLASSES), len(FEATURES)))
    means = 1.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    for (first, second), distance in _CLOSENESS.items():
        near, far = CLASSES.index(first), CLASSES.index(second)
        away = means[far] - means[near]
        means[far] = means[near] + distance * away / np.linalg.norm(away)
    mixing = np.eye(len(FEATURES)) + 0.1 * fixed.normal(size=(len(CLASSES), len(FEATURES), len(FEATURES)))
    scale = np.exp(fixed.uniform(np.log(0.01), np.log(60), len(FEATURES)))
    shift = scale * fixed.uniform(0, 3, len(FEATURES))

    classes = rng.integers(0, len(CLASSES), samples)
    noise = rng.normal(size=(samples, 1, len(FEATURES)))
    latent = means[classes] + (noise @ mixing[classes])[:, 0]
    latent[:, ::2] = np.exp(0.5 * latent[:, ::2])
    return (latent * scale + shift).astype(np.float32), classes


def read_jets(path: Path) -> Samples:
    """Features, (samples, 16), and classes from 0, from a file of the hls4ml jet data set.

    Files are known by their names' endings:

    - ``.csv``: a header with the names of `FEATURES` and ``class``, whose values are `CLASSES`; other
      columns are left out. ``j_`` before a name does no harm.
    - ``.arff``: the same columns, as OpenML has them (hls4ml_lhc_jets_hlf, data set 42468).
    - ``.h5``, ``.z``: HDF5 with the table ``t_allpar_new``: the features with ``j_`` before their
      names, and a column of 0 and 1 for each class, ``j_g`` to ``j_z``. Needs h5py.

    Raises:
        ValueError: If the file is of another kind, lacks a column, or holds what is no number.
    """
    suffix = path.suffix.lower()
    if suffix in (".h5", ".z"):
        return _read_hdf5(path)
    if suffix not in (".csv", ".arff"):
        raise ValueError(f"{path}: give a .csv, .arff, .h5 or .z file, not {suffix!r}")
    with open(path, newline="", encoding="utf-8") as stream:
        rows = _arff_rows(stream) if suffix == ".arff" else csv.reader(stream)
        header = [name.strip().removeprefix("j_") for name in next(rows, [])]
        columns = [_column(header, name, path) for name in (*FEATURES, "class")]
        values = [[row[column].strip(" '\"") for column in columns] for row in rows if row]
    if not values:
        raise ValueError(f"{path}: no samples")
    unknown = sorted({row[-1] for row in values} - set(CLASSES))
    if unknown:
        raise ValueError(f"{path}: class {unknown[0]!r}; classes are {', '.join(CLASSES)}")
    try:
        features = np.array([row[:-1] for row in values], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return features, np.array([CLASSES.index(row[-1]) for row in values])


def _arff_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The attributes' names, then the rows: what a CSV file of the same data would give."""
    header: list[str] = []
    lines = iter(lines)
    for line in lines:
        words = line.split()
        if words and words[0].lower() == "@attribute":
            header.append(words[1].strip("'\""))
        if words and words[0].lower() == "@data":
            break
    yield header
    yield from csv.reader(line for line in lines if line.strip() and not line.startswith("%"))


def _read_hdf5(path: Path) -> Samples:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path}: an HDF5 file; to read it: pip install h5py") from None
    with h5py.File(path) as file:
        if _TABLE not in file:
            raise ValueError(f"{path}: no table {_TABLE!r} in it")
        table: Any = file[_TABLE][:]
    header = [name.removeprefix("j_") for name in table.dtype.names]
    names = [table.dtype.names[_column(header, name, path)] for name in (*FEATURES, *CLASSES)]
    columns = np.stack([table[name] for name in names], axis=1).astype(np.float32)
    return columns[:, : len(FEATURES)], columns[:, len(FEATURES) :].argmax(axis=1)


def _column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise ValueError(f"{path}: no column {name!r}; it has {', '.join(header[:20]) or 'none'}")
    return header.index(name)
