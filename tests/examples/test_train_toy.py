from __future__ import annotations

import numpy as np
import pytest

from examples.toy import train as toy
from examples.toy.train import noisy_parity


def test_the_class_is_the_parity_of_the_bits() -> None:
    features, labels = noisy_parity(5000, np.random.default_rng(0))
    assert (features.dtype, features.shape) == (np.float32, (5000, 4))
    right = (features > 0).sum(axis=1) % 2 == labels
    assert right.mean() == pytest.approx(0.998, abs=0.002)
    # no feature by itself says anything
    assert abs(np.corrcoef(features.T, labels)[-1, :-1]).max() < 0.05


def test_training_again_writes_the_shipped_model(tmp_path, monkeypatch, capsys) -> None:
    shipped = toy.FOLDER
    monkeypatch.setattr(toy, "FOLDER", tmp_path)
    toy.main()
    assert "validation accuracy 0.99" in capsys.readouterr().out
    for name in ("validation", "calibration"):
        again, before = (dict(np.load(folder / f"{name}.npz")) for folder in (tmp_path, shipped))
        assert again.keys() == before.keys()
        for key in again:
            np.testing.assert_array_equal(again[key], before[key])
