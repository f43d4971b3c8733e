from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators import (
    AccuracyEvaluator,
    ClassificationEvaluator,
    EvaluationError,
    PerplexityEvaluator,
)
from evaluators.reports import Reports
from tests.evaluators.graphs import affine
from tests.evaluators.test_perplexity import bigram_model

SCORES = np.random.default_rng(0).normal(0, 2, (12, 4)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 4, 12)
TOKENS = np.random.default_rng(2).integers(0, 5, (12, 6))
TABLE = np.random.default_rng(3).normal(0, 2, (5, 5)).astype(np.float32)


def batches(name: str, array: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{name: array[start : start + 3]} for start in range(0, len(array), 3)]


def accuracy(samples: int) -> Any:
    return AccuracyEvaluator(batches("x", SCORES[:samples]), LABELS[:samples])


def classification(samples: int) -> Any:
    return ClassificationEvaluator(batches("x", SCORES[:samples]), LABELS[:samples], average="macro")


def perplexity(samples: int) -> Any:
    return PerplexityEvaluator(batches("input_ids", TOKENS[:samples]))


@pytest.mark.parametrize("make", [accuracy, classification, perplexity])
def test_reports_are_the_metrics_of_the_batches_so_far(make: Callable[[int], Any], tmp_path: Path) -> None:
    if make is perplexity:
        model = bigram_model(tmp_path / "m.onnx", TABLE, mask=False)
    else:
        model = affine(tmp_path / "m.onnx")
    seen: dict[int, Mapping[str, float]] = {}
    values = make(12).evaluate(model, report=seen.__setitem__, report_at=(25, 50, 75, 100))
    assert values == make(12).evaluate(model)
    assert list(seen) == [25, 50, 75]
    for percentage, reported in seen.items():
        assert reported == pytest.approx(make(12 * percentage // 100).evaluate(model))

    def stop(percentage: int, metrics: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(12).evaluate(model, report=stop, report_at=(50,))


def test_scores_are_judged_by_all_of_the_data_only(tmp_path: Path) -> None:
    """The first batch alone looks like probabilities; the whole is logits."""
    model = affine(tmp_path / "m.onnx")
    scores = np.concatenate([np.full((3, 4), 0.5, np.float32), SCORES[:3]])
    evaluator = ClassificationEvaluator(batches("x", scores), LABELS[:6])
    seen: dict[int, Mapping[str, float]] = {}
    evaluator.evaluate(model, report=seen.__setitem__, report_at=(50,))
    assert seen[50]["loss"] == pytest.approx(np.log(4))
    undecided = ClassificationEvaluator(batches("x", np.full((6, 4), 0.5, np.float32)), LABELS[:6])
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        undecided.evaluate(model, report=seen.__setitem__, report_at=(50,))


def test_what_has_no_values_yet_is_not_told() -> None:
    told: dict[int, Mapping[str, float]] = {}
    reports = Reports(told.__setitem__, (30, 60), 3)
    reports.after(1, dict)
    reports.after(2, lambda: {"L2": 1.0})
    assert told == {60: {"L2": 1.0}}
