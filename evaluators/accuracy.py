"""Top-k accuracy of a classifier, or of a segmentation model pixel by pixel, on labelled data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import Metric, hint
from evaluators.sessions import Feed, SessionConfig, SessionSettings, check_feeds, create_session, run_batches


class AccuracyEvaluator:
    """Share of the labels that are among the k classes with the highest scores.

    Args:
        feeds: `{input name: array}` for each batch, iterable again and again.
        labels: Classes from 0, integers, in the order of the samples: (samples,), or
            (samples, *spatial) for one class per position.
        output: Name of the output with the scores, (batch, classes, *spatial); None stands for the
            only output.
        top_k: How many of the highest scores count. Of equal scores the lower class comes first.
        session_settings: How models are run.

    Raises:
        EvaluatorInputError: If the labels are not integers from 0, there is none, top_k is below 1,
            or the feeds can be read only once.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        labels: ArrayLike,
        *,
        output: str | None = None,
        top_k: int = 1,
        session_settings: SessionSettings | None = None,
    ) -> None:
        check_feeds(feeds)
        if top_k < 1:
            raise EvaluatorInputError(f"top_k: must be at least 1, not {top_k!r}")
        self._feeds = feeds
        self._labels = _checked_labels(labels)
        self._output = output
        self._top_k = top_k
        self._session_settings = session_settings or SessionSettings()
        name = "accuracy" if top_k == 1 else f"top{top_k}_accuracy"
        self._metrics = (Metric(name, unit="", direction="maximize", against_float=False),)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One metric, "accuracy" or "top<k>_accuracy", between 0 and 1."""
        return self._metrics

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers on the same feeds."""
        labels = hashlib.sha256(self._labels.tobytes()).hexdigest()
        return f"{self._metrics[0].name} of {self._output} on {labels}"

    def evaluate(self, model_path: Path, session_config: SessionConfig = ()) -> dict[str, float]:
        """Accuracy of one model.

        Raises:
            EvaluationError: If the model does not run, its scores do not fit the labels, or a score
                is NaN.
        """
        session = create_session(model_path, self._session_settings, session_config)
        output = self._scores_output(session)
        samples = hits = 0
        for (scores,) in run_batches(session, self._feeds, [output]):
            self._check_scores(output, scores)
            labels = self._labels[samples : samples + len(scores)]
            samples += len(scores)
            if samples > len(self._labels):
                break
            hits += count_top_k(scores, _fitting(labels, scores), self._top_k)
        if samples != len(self._labels):
            more = "more samples" if samples > len(self._labels) else f"{samples} samples"
            raise EvaluationError(f"labels: {len(self._labels)} labels for {more} in the feeds")
        return {self._metrics[0].name: hits / self._labels.size}

    def _scores_output(self, session: onnxruntime.InferenceSession) -> str:
        names = [output.name for output in session.get_outputs()]
        if self._output is None and len(names) > 1:
            raise EvaluationError(f"output: the model has {', '.join(names)}; name the one with the scores")
        if self._output is not None and self._output not in names:
            raise EvaluationError(
                f"output: the model has no output {self._output!r}; {hint(self._output, names)}"
            )
        return self._output or names[0]

    def _check_scores(self, output: str, scores: Any) -> None:
        shape: tuple[int, ...] = getattr(scores, "shape", ())
        if len(shape) < 2 or shape[1] < 2 or scores.dtype.kind not in "fiu":
            raise EvaluationError(
                f"output {output!r} has shape {shape}; scores are numbers, (batch, classes, ...), "
                "of at least 2 classes"
            )
        if self._top_k > shape[1]:
            raise EvaluationError(f"top_k: {self._top_k} of {shape[1]} classes is always right")
        if np.isnan(scores).any():
            raise EvaluationError(f"output {output!r} has NaN among its scores")


def count_top_k(scores: NDArray[Any], labels: NDArray[np.integer[Any]], k: int) -> int:
    """Number of labels that are among the k highest scores; of equal scores the lower class wins.

    The rank of a label is the number of classes that score higher, plus those before it that score
    the same; for k = 1 this is `argmax(scores) == label`.

    Args:
        scores: (batch, classes, *spatial), without NaN.
        labels: (batch, *spatial), from 0 to classes - 1.
        k: From 1.
    """
    if k == 1:
        return int(np.count_nonzero(scores.argmax(axis=1) == labels))
    label = np.expand_dims(labels, 1)
    score = np.take_along_axis(scores, label, axis=1)
    classes = np.arange(scores.shape[1]).reshape(1, -1, *(1,) * (scores.ndim - 2))
    ahead = (scores > score) | ((scores == score) & (classes < label))
    return int(np.count_nonzero(np.count_nonzero(ahead, axis=1) < k))


def _checked_labels(labels: ArrayLike) -> NDArray[np.integer[Any]]:
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise EvaluatorInputError(f"labels: not one array of equal shapes: {error}") from error
    if array.dtype.kind not in "iu" or not array.size or not array.ndim:
        raise EvaluatorInputError(
            f"labels: must be integers, at least one, not {array.dtype} of shape {array.shape}"
        )
    if array.min() < 0:
        raise EvaluatorInputError(f"labels: classes count from 0, but {array.min()} is among them")
    return array


def _fitting(labels: NDArray[np.integer[Any]], scores: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """The labels, if they fit the scores of a batch in shape and number of classes."""
    if len(labels) == len(scores) and labels.shape[1:] != scores.shape[2:]:
        raise EvaluationError(
            f"labels: shape {labels.shape} for scores of shape {scores.shape}; "
            f"expected {(len(scores), *scores.shape[2:])}"
        )
    if labels.size and labels.max() >= scores.shape[1]:
        raise EvaluationError(f"labels: {labels.max()} is none of the {scores.shape[1]} classes from 0")
    return labels
