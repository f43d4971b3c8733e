"""Top-k accuracy of a classifier, or of a segmentation model pixel by pixel, on labelled data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.labelled_scores import LabelledScores, Labels
from evaluators.metric import Metric, hint
from evaluators.reports import Report
from evaluators.sessions import Feed, SessionConfig, SessionSettings

Average = Literal["micro", "macro"]


class AccuracyEvaluator:
    """Share of the labels that are among the k classes with the highest scores.

    Args:
        feeds: `{input name: array}` for each batch, iterable again and again.
        labels: Classes from 0, integers, in the order of the samples: (samples,), or
            (samples, *spatial) for one class per position.
        output: Name of the output with the scores, (batch, classes, *spatial); None stands for the
            only output.
        top_k: How many of the highest scores count. Of equal scores the lower class comes first.
        average: "micro" is the share of all labels; "macro" the mean, over the classes that occur, of the
            share of each class's labels.
        session_settings: How models are run.

    Raises:
        EvaluatorInputError: If the labels are not integers from 0, there is none, top_k is below 1,
            the average is unknown, or the feeds can be read only once.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        labels: ArrayLike,
        *,
        output: str | None = None,
        top_k: int = 1,
        average: Average = "micro",
        session_settings: SessionSettings | None = None,
    ) -> None:
        self._metric = accuracy_metric(top_k, average)
        self._data = LabelledScores(feeds, labels, output, session_settings)
        self._top_k = top_k
        self._average = average

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One metric, "accuracy" or "top<k>_accuracy", between 0 and 1, whatever the average."""
        return (self._metric,)

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers on the same feeds."""
        average = "" if self._average == "micro" else f" ({self._average})"
        return f"{self._metric.name}{average} of {self._data.identity}"

    def evaluate(
        self,
        model_path: Path,
        session_config: SessionConfig = (),
        *,
        report: Report | None = None,
        report_at: Sequence[int] = (),
    ) -> dict[str, float]:
        """Accuracy of one model.

        Args:
            model_path: An ONNX file.
            session_config: What its session needs.
            report: Told the accuracy over part of the data; what it raises passes through.
            report_at: As for `Reports`.

        Raises:
            EvaluationError: If the model does not run, its scores do not fit the labels, or a score
                is NaN.
        """
        hits, reports = Hits(self._top_k), self._data.reports(report, report_at)

        def so_far() -> dict[str, float]:
            return {self._metric.name: hits.share(self._average)} if hits.labels else {}

        batches = self._data.batches(self._data.open(model_path, session_config))
        for seen, (scores, labels) in enumerate(batches, 1):
            hits.add(scores, labels)
            reports.after(seen, so_far)
        return so_far()


class Hits:
    """Counts, class by class, the labels that are among the k highest scores."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._of_class = np.zeros(0, np.int64)
        self._hits_of_class = np.zeros(0, np.int64)

    def add(self, scores: NDArray[Any], labels: Labels) -> None:
        """Counts a batch of scores (batch, classes, *spatial) and labels (batch, *spatial).

        Raises:
            EvaluationError: If there are fewer classes than would count.
        """
        classes = scores.shape[1]
        if self._top_k > classes:
            raise EvaluationError(f"top_k: {self._top_k} of {classes} classes is always right")
        labels = labels.astype(np.int64, copy=False)  # bincount takes no uint64
        hits = labels[among_top_k(scores, labels, self._top_k)]
        self._of_class = _plus(self._of_class, np.bincount(labels.reshape(-1), minlength=classes))
        self._hits_of_class = _plus(self._hits_of_class, np.bincount(hits, minlength=classes))

    @property
    def labels(self) -> int:
        """How many were counted."""
        return int(self._of_class.sum())

    def share(self, average: Average) -> float:
        """Share of the labels that were hit, of all or as the mean over the classes that occurred."""
        if average == "micro":
            return float(self._hits_of_class.sum() / self._of_class.sum())
        occurred = self._of_class > 0
        return float(np.mean(self._hits_of_class[occurred] / self._of_class[occurred]))


def accuracy_metric(top_k: int, average: str) -> Metric:
    """The metric with those options.

    Raises:
        EvaluatorInputError: If top_k is below 1 or the average is unknown.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise EvaluatorInputError(f"top_k: must be at least 1, not {top_k!r}")
    if average not in get_args(Average):
        raise EvaluatorInputError(f"average: unknown {average!r}; {hint(str(average), get_args(Average))}")
    return Metric("accuracy" if top_k == 1 else f"top{top_k}_accuracy", "", "maximize")


def among_top_k(scores: NDArray[Any], labels: Labels, k: int) -> NDArray[np.bool]:
    """Which labels are among the k highest scores; of equal scores the lower class wins.

    The rank of a label is the number of classes that score higher, plus those before it that score
    the same; for k = 1 this is `argmax(scores) == label`.

    Args:
        scores: (batch, classes, *spatial), without NaN.
        labels: (batch, *spatial), from 0 to classes - 1.
        k: From 1.

    Returns:
        (batch, *spatial).
    """
    if k == 1:
        return np.asarray(scores.argmax(axis=1) == labels)
    label = np.expand_dims(labels, 1)
    score = np.take_along_axis(scores, label, axis=1)
    classes = np.arange(scores.shape[1]).reshape(1, -1, *(1,) * (scores.ndim - 2))
    ahead = (scores > score) | ((scores == score) & (classes < label))
    return np.asarray(np.count_nonzero(ahead, axis=1) < k)


def _plus(counts: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two counts by class; a model may give later batches more classes."""
    total = np.zeros(max(len(counts), len(more)), np.int64)
    total[: len(counts)] += counts
    total[: len(more)] += more
    return total
