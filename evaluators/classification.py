"""Accuracy and loss of a classifier, from one pass over labelled data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.accuracy import Average, Hits, accuracy_metric
from evaluators.cross_entropy import losses_from_logits, losses_from_probabilities
from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.labelled_scores import LabelledScores, Labels
from evaluators.metric import Metric
from evaluators.reports import Report
from evaluators.sessions import Feed, SessionConfig, SessionSettings
from evaluators.softmax import ends_in_softmax

_TOLERANCE = 0.05
"""How far beyond 0 and 1 quantization may carry a probability."""


class ClassificationEvaluator:
    """Accuracy, as in `AccuracyEvaluator`, and the mean cross entropy of the labels ("loss", in nats).

    Args:
        feeds: `{input name: array}` for each batch, iterable again and again.
        labels: Classes from 0, integers, in the order of the samples: (samples,), or
            (samples, *spatial) for one class per position.
        output: Name of the output with the scores, (batch, classes, *spatial); None stands for the
            only output.
        top_k: How many of the highest scores count as right.
        average: Of the accuracy, "micro" or "macro"; the loss is the mean over all labels.
        from_logits: Whether scores are logits (True; logarithms of probabilities are, too) or probabilities
            (False). None: probabilities where the output is that of a Softmax, quantized or not; else
            logits if some of them are below 0 or above 1; else it is an error.
        float_model: What models are made of. Its scores then decide for all of them, once: those of a
            candidate may all lie between 0 and 1 and be logits. None: each model's own decide.
        session_settings: How models are run.

    Raises:
        EvaluatorInputError: As for `AccuracyEvaluator`; or if from_logits is none of the three.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        labels: ArrayLike,
        *,
        output: str | None = None,
        top_k: int = 1,
        average: Average = "micro",
        from_logits: bool | None = None,
        float_model: str | Path | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self._accuracy = accuracy_metric(top_k, average)
        if from_logits is not None and not isinstance(from_logits, bool):
            raise EvaluatorInputError(f"from_logits: must be true, false or None, not {from_logits!r}")
        self._data = LabelledScores(feeds, labels, output, session_settings)
        self._top_k = top_k
        self._average = average
        self._from_logits = from_logits
        self._float_model = None if float_model is None else Path(float_model)
        self._decision = from_logits

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy under its name in `AccuracyEvaluator`, and "loss"."""
        return (self._accuracy, Metric("loss", "nat", "minimize"))

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers on the same feeds."""
        options = f"{self._average}, from_logits={self._from_logits}"
        return f"{self._accuracy.name} and loss ({options}) of {self._data.identity}"

    def evaluate(
        self,
        model_path: Path,
        session_config: SessionConfig = (),
        *,
        report: Report | None = None,
        report_at: Sequence[int] = (),
    ) -> dict[str, float]:
        """Accuracy and loss of one model; before the first candidate, the float model has its turn.

        Args:
            model_path: An ONNX file.
            session_config: What its session needs.
            report: Told both over part of the data; what it raises passes through.
            report_at: As for `Reports`.

        Raises:
            EvaluationError: If the model does not run, its scores do not fit the labels, are NaN, or are
                not what `from_logits` says; or if the float model's may be either.
        """
        is_float_model = self._float_model is not None and Path(model_path) == self._float_model
        if self._decision is None and self._float_model is not None and not is_float_model:
            self.evaluate(self._float_model)
        model = self._data.open(model_path, session_config)
        loss = _Loss(self._decision, model_path, model[1])
        hits, reports = Hits(self._top_k), self._data.reports(report, report_at)

        def so_far() -> dict[str, float]:
            if not hits.labels:
                return {}
            return {self._accuracy.name: hits.share(self._average), "loss": loss.sum / hits.labels}

        for seen, (scores, labels) in enumerate(self._data.batches(model), 1):
            hits.add(scores, labels)
            loss.add(scores, labels)
            reports.after(seen, so_far)
        values = {self._accuracy.name: hits.share(self._average), "loss": loss.total() / self._data.count}
        if is_float_model:
            self._decision = loss.from_logits
        return values


class _Loss:
    """Adds up the cross entropy of batches, and looks whether the scores are what they are taken for.

    Attributes:
        sum: So far, unchecked.
    """

    def __init__(self, from_logits: bool | None, model_path: Path, output: str) -> None:
        self._output = output
        self._certain = from_logits is not None
        if from_logits is None and ends_in_softmax(model_path, output):
            self._certain, from_logits = True, False
        self._logits = from_logits is not False
        self.sum = 0.0
        self._low, self._high = math.inf, -math.inf

    @property
    def from_logits(self) -> bool:
        """What the scores are taken for."""
        return self._logits

    def add(self, scores: NDArray[Any], labels: Labels) -> None:
        if not scores.size:
            return
        self._low, self._high = min(self._low, float(scores.min())), max(self._high, float(scores.max()))
        if not self._logits:
            if self._low < -_TOLERANCE or self._high > 1 + _TOLERANCE:
                raise EvaluationError(
                    f"output {self._output!r}: scores from {self._low:.6g} to {self._high:.6g} are no"
                    " probabilities; from_logits is to be true"
                )
            scores = np.maximum(scores, 0)
        losses = losses_from_logits if self._logits else losses_from_probabilities
        for rows, own in _rows(scores, labels):
            self.sum += float(losses(rows, own).sum())

    def total(self) -> float:
        if not self._certain and self._low >= 0 and self._high <= 1:
            raise EvaluationError(
                f"output {self._output!r}: all scores are between 0 and 1, and the model does not end in a"
                " Softmax; say whether they are logits or probabilities (from_logits: true or false)"
            )
        if math.isnan(self.sum):
            raise EvaluationError(f"output {self._output!r}: infinite scores have no loss")
        return self.sum


def _rows(scores: NDArray[Any], labels: Labels) -> Iterable[tuple[NDArray[Any], Labels]]:
    """The same as (rows, classes) and (rows,), without a copy: sample by sample if there are positions."""
    if scores.ndim == 2:
        return [(scores, labels)]
    return (
        (sample.reshape(len(sample), -1).T, own.reshape(-1))
        for sample, own in zip(scores, labels, strict=True)
    )
