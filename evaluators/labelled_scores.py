"""A classifier's scores and the right classes, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import hint
from evaluators.reports import Report, Reports
from evaluators.sessions import Feed, SessionConfig, SessionSettings, check_feeds, create_session, run_batches

Labels = NDArray[np.integer[Any]]


class LabelledScores:
    """Runs models on labelled data and checks that what they return are scores of the labels' classes.

    Args:
        feeds: `{input name: array}` for each batch, iterable again and again.
        labels: Classes from 0, integers, in the order of the samples: (samples,), or
            (samples, *spatial) for one class per position.
        output: Name of the output with the scores, (batch, classes, *spatial); None stands for the
            only output.
        session_settings: How models are run.

    Raises:
        EvaluatorInputError: If the labels are not integers from 0, there is none, or the feeds can be
            read only once.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        labels: ArrayLike,
        output: str | None,
        session_settings: SessionSettings | None,
    ) -> None:
        check_feeds(feeds)
        self._feeds = feeds
        self._labels = _checked_labels(labels)
        self._output = output
        self._session_settings = session_settings or SessionSettings()

    @property
    def count(self) -> int:
        """Number of labels: samples times positions."""
        return self._labels.size

    def reports(self, report: Report | None, report_at: Sequence[int]) -> Reports:
        """What is to be told on the way through the feeds."""
        return Reports(report, report_at, 0 if report is None else sum(1 for _ in self._feeds))

    @property
    def identity(self) -> str:
        """Tells apart other labels, and scores of another output."""
        return f"{self._output} on {hashlib.sha256(self._labels.tobytes()).hexdigest()}"

    def open(self, model_path: Path, session_config: SessionConfig) -> OpenModel:
        """A model, ready to run, and the output that has its scores.

        Raises:
            EvaluationError: If onnxruntime cannot load it, or the output is not there.
        """
        session = create_session(model_path, self._session_settings, session_config)
        names = [output.name for output in session.get_outputs()]
        return session, output_named(self._output, names)

    def batches(self, model: OpenModel) -> Iterator[tuple[NDArray[Any], Labels]]:
        """Scores (batch, classes, *spatial), without NaN, and labels (batch, *spatial) below `classes`.

        Raises:
            EvaluationError: If the model does not run, or its scores do not fit the labels.
        """
        session, output = model
        samples = 0
        for (scores,) in run_batches(session, self._feeds, [output]):
            _check_scores(output, scores)
            labels = self._labels[samples : samples + len(scores)]
            samples += len(scores)
            if samples > len(self._labels):
                break
            yield scores, _fitting(labels, scores)
        if samples != len(self._labels):
            more = "more samples" if samples > len(self._labels) else f"{samples} samples"
            raise EvaluationError(f"labels: {len(self._labels)} labels for {more} in the feeds")


OpenModel = tuple[onnxruntime.InferenceSession, str]
"""A session and the name of the output that has the scores."""


def output_named(wanted: str | None, names: Sequence[str], usual: str | None = None) -> str:
    """The output with the scores.

    Args:
        wanted: Its name; None = the only output.
        names: Of the model's outputs.
        usual: What it is called where the model has several and none is named.

    Raises:
        EvaluationError: If there is none of that name, or none is named among several.
    """
    if wanted is None and len(names) > 1 and usual not in names:
        raise EvaluationError(f"output: the model has {', '.join(names)}; name the one with the scores")
    if wanted is not None and wanted not in names:
        raise EvaluationError(f"output: the model has no output {wanted!r}; {hint(wanted, names)}")
    return wanted or (usual if usual in names else None) or names[0]


def _checked_labels(labels: ArrayLike) -> Labels:
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


def _check_scores(output: str, scores: Any) -> None:
    shape: tuple[int, ...] = getattr(scores, "shape", ())
    if len(shape) < 2 or shape[1] < 2 or scores.dtype.kind not in "fiu":
        raise EvaluationError(
            f"output {output!r} has shape {shape}; scores are numbers, (batch, classes, ...), "
            "of at least 2 classes"
        )
    if np.isnan(scores).any():
        raise EvaluationError(f"output {output!r} has NaN among its scores")


def _fitting(labels: Labels, scores: NDArray[Any]) -> Labels:
    """The labels, if they fit the scores of a batch in shape and number of classes."""
    if len(labels) == len(scores) and labels.shape[1:] != scores.shape[2:]:
        raise EvaluationError(
            f"labels: shape {labels.shape} for scores of shape {scores.shape}; "
            f"expected {(len(scores), *scores.shape[2:])}"
        )
    if labels.size and labels.max() >= scores.shape[1]:
        raise EvaluationError(f"labels: {labels.max()} is none of the {scores.shape[1]} classes from 0")
    return labels
