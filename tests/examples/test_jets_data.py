from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from examples.jets.data import CLASSES, FEATURES, read_jets, synthetic_jets

ROWS = np.arange(32, dtype=np.float32).reshape(2, 16) / 8


def csv_text(prefix: str = "", last: str = "class") -> str:
    lines = [",".join([*(prefix + name for name in FEATURES), "other", last])]
    lines += [",".join([*map(str, row), "9", f"'{label}'"]) for row, label in zip(ROWS, "tg", strict=True)]
    return "\n".join(lines) + "\n"


def arff_text() -> str:
    lines = ["% jets", "@RELATION jets", *(f"@ATTRIBUTE {name} REAL" for name in FEATURES)]
    lines += ["@ATTRIBUTE class {g,q,t,w,z}", "@DATA"]
    lines += [",".join([*map(str, row), label]) for row, label in zip(ROWS, "tg", strict=True)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", csv_text()), ("b.csv", csv_text("j_")), ("c.arff", arff_text())],
    ids=["csv", "prefixed", "arff"],
)
def test_text_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    features, labels = read_jets(tmp_path / name)
    np.testing.assert_array_equal(features, ROWS)
    assert features.dtype == np.float32
    assert [CLASSES[label] for label in labels] == ["t", "g"]


def test_hdf5_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    columns = [f"j_{name}" for name in (*reversed(FEATURES), *CLASSES)]
    table = np.zeros(2, dtype=[(name, "f4") for name in columns])
    for number, name in enumerate(FEATURES):
        table[f"j_{name}"] = ROWS[:, number]
    table["j_t"], table["j_g"] = [1, 0], [0, 1]
    with h5py.File(tmp_path / "jets.z", "w") as file:
        file["t_allpar_new"] = table
    features, labels = read_jets(tmp_path / "jets.z")
    np.testing.assert_array_equal(features, ROWS)
    assert [CLASSES[label] for label in labels] == ["t", "g"]


def test_hdf5_asks_for_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"jets\.h5: .*pip install h5py"):
        read_jets(tmp_path / "jets.h5")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", "give a .csv"),
        ("a.csv", "", "no column 'zlogz'; it has none"),
        ("a.csv", csv_text(last="kind"), "no column 'class'"),
        ("a.csv", csv_text().splitlines()[0], "no samples"),
        ("a.csv", csv_text().replace("'t'", "'x'"), "class 'x'; classes are g, q, t, w, z"),
        ("a.csv", csv_text().replace("1.875", "many"), "many"),
    ],
    ids=["ending", "empty", "no class", "no rows", "class", "number"],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_jets(tmp_path / name)


def test_synthetic_jets_overlap_and_differ_in_scale() -> None:
    features, labels = synthetic_jets(4000, np.random.default_rng(0))
    assert features.shape == (4000, 16)
    assert np.bincount(labels).min() > 600
    spread = features.std(axis=0)
    assert spread.max() / spread.min() > 100
    again, _ = synthetic_jets(4000, np.random.default_rng(0))
    np.testing.assert_array_equal(features, again)
    # the nearest class mean of standardised features is right more often than chance, but not always
    normal = (features - features.mean(axis=0)) / spread
    means = np.stack([normal[labels == label].mean(axis=0) for label in range(5)])
    nearest = ((normal[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.4 < (nearest == labels).mean() < 0.7
