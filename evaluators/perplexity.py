"""Perplexity of a causal language model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from evaluators.cross_entropy import losses_from_logits
from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.labelled_scores import output_named
from evaluators.metric import Metric
from evaluators.reports import Report, Reports
from evaluators.sessions import Feed, SessionConfig, SessionSettings, check_feeds, create_session, run_batches

IGNORED_LABEL = -100
"""What PyTorch and Hugging Face label tokens with that do not count."""

_INPUT_IDS, _ATTENTION_MASK, _LOGITS = "input_ids", "attention_mask", "logits"


class PerplexityEvaluator:
    """How many tokens a language model is torn between: the exponential of its mean loss per token.

        loss        mean over the counted positions t of -log softmax(logits_t)[label_(t+1)], in nats
        perplexity  exp(loss)

    Labels are one position ahead of the logits: the logits at a token are the prediction of the next. A
    position counts if its label is not `ignore_index`, and the attention mask is not zero at the label
    nor at the token before. All counted tokens weigh the same, however they are batched.

    Args:
        feeds: `{input name: array}` for each batch, iterable again and again: `input_ids` (batch, tokens),
            integers; `attention_mask` of the same shape, if there is padding; and whatever else the model
            takes.
        labels: Tokens that are to be predicted, (samples, tokens), not shifted, in the order of the samples;
            None = `input_ids`. With labels all feeds have the same number of tokens.
        output: Name of the output with the logits, (batch, tokens, vocabulary); None = the only output, or
            the one that is called "logits".
        ignore_index: The label of tokens that do not count.
        session_settings: How models are run.

    Raises:
        EvaluatorInputError: If the labels are no matrix of integers, ignore_index is no integer, or the feeds
            can be read only once.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        labels: ArrayLike | None = None,
        *,
        output: str | None = None,
        ignore_index: int = IGNORED_LABEL,
        session_settings: SessionSettings | None = None,
    ) -> None:
        check_feeds(feeds)
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise EvaluatorInputError(f"ignore_index: must be an integer, not {ignore_index!r}")
        self._feeds = feeds
        self._labels = None if labels is None else _checked_labels(labels)
        self._output = output
        self._ignore_index = ignore_index
        self._session_settings = session_settings or SessionSettings()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Perplexity, from 1, and "loss"."""
        return (Metric("perplexity", "", "minimize"), Metric("loss", "nat", "minimize"))

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers on the same feeds."""
        labels = "" if self._labels is None else hashlib.sha256(self._labels.tobytes()).hexdigest()
        return f"perplexity of {self._output} on {labels or _INPUT_IDS} but {self._ignore_index}"

    def evaluate(
        self,
        model_path: Path,
        session_config: SessionConfig = (),
        *,
        report: Report | None = None,
        report_at: Sequence[int] = (),
    ) -> dict[str, float]:
        """Perplexity and loss of one model; +inf if a token is impossible or the exponential overflows.

        Args:
            model_path: An ONNX file.
            session_config: What its session needs.
            report: Told both over part of the data; what it raises passes through.
            report_at: As for `Reports`.

        Raises:
            EvaluationError: If the model does not run, its logits do not fit the tokens, a logit of a
                counted position is NaN or +inf, or no position counts.
        """
        session = create_session(model_path, self._session_settings, session_config)
        output = output_named(self._output, [each.name for each in session.get_outputs()], _LOGITS)
        reports = Reports(report, report_at, 0 if report is None else sum(1 for _ in self._feeds))
        total, tokens, samples = 0.0, 0, 0

        def so_far() -> dict[str, float]:
            return {"perplexity": _exp(total / tokens), "loss": total / tokens} if tokens else {}

        for seen, (feed, logits) in enumerate(self._batches(session, output), 1):
            labels = self._next_tokens(feed, samples)
            _check_logits(output, logits, labels, self._ignore_index)
            samples += len(labels)
            for sample, targets in zip(logits, labels, strict=True):
                losses = _losses(sample, targets, self._ignore_index)
                total += float(losses.sum())
                tokens += len(losses)
            reports.after(seen, so_far)
        self._check_end(output, total, tokens, samples)
        return so_far()

    def _batches(
        self, session: onnxruntime.InferenceSession, output: str
    ) -> Iterator[tuple[Feed, NDArray[Any]]]:
        read: list[Feed] = []

        def feeds() -> Iterator[Feed]:
            for feed in self._feeds:
                read[:] = [feed]
                yield feed

        for (logits,) in run_batches(session, feeds(), [output]):
            yield read[0], logits

    def _next_tokens(self, feed: Feed, start: int) -> NDArray[np.integer[Any]]:
        """Labels of a batch, shape (batch, tokens): at each token the next, or `ignore_index`."""
        if _INPUT_IDS not in feed:
            raise EvaluationError(f"feeds: inputs {', '.join(feed)}; a language model reads {_INPUT_IDS}")
        tokens = np.asarray(feed[_INPUT_IDS])
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise EvaluationError(
                f"feeds: {_INPUT_IDS} must be integers, (batch, tokens), not {tokens.dtype} of {tokens.shape}"
            )
        labels = tokens if self._labels is None else self._labels[start : start + len(tokens)]
        if labels.shape != tokens.shape:
            raise EvaluationError(f"labels: shape {labels.shape} for {_INPUT_IDS} of shape {tokens.shape}")
        mask = np.asarray(feed.get(_ATTENTION_MASK, np.ones(tokens.shape, bool))) != 0
        if mask.shape != tokens.shape:
            raise EvaluationError(f"feeds: {_ATTENTION_MASK} {mask.shape} for {_INPUT_IDS} {tokens.shape}")
        following = np.full(tokens.shape, self._ignore_index, np.int64)
        following[:, :-1] = np.where(mask[:, :-1] & mask[:, 1:], labels[:, 1:], self._ignore_index)
        return following

    def _check_end(self, output: str, total: float, tokens: int, samples: int) -> None:
        if self._labels is not None and samples != len(self._labels):
            raise EvaluationError(f"labels: {len(self._labels)} sequences, the feeds have {samples}")
        if not tokens:
            raise EvaluationError("feeds: no token counts; give sequences of at least two tokens")
        if math.isnan(total):
            raise EvaluationError(f"output {output!r}: NaN or infinite logits have no loss")


def _losses(
    logits: NDArray[Any], targets: NDArray[np.integer[Any]], ignore_index: int
) -> NDArray[np.float64]:
    """Loss at each counted position of one sequence: logits (tokens, vocabulary), targets (tokens,)."""
    counted = np.flatnonzero(targets != ignore_index)
    if not len(counted):
        return np.empty(0, np.float64)
    span = slice(counted[0], counted[-1] + 1)  # a view; padding lies outside of it
    inside = np.where(targets[span] == ignore_index, 0, targets[span])
    losses: NDArray[np.float64] = losses_from_logits(logits[span], inside)[counted - counted[0]]
    return losses


def _check_logits(output: str, logits: Any, labels: NDArray[np.integer[Any]], ignore_index: int) -> None:
    shape: tuple[int, ...] = getattr(logits, "shape", ())
    if len(shape) != 3 or shape[:2] != labels.shape or logits.dtype.kind not in "fiu":
        raise EvaluationError(
            f"output {output!r} has shape {shape} for tokens of shape {labels.shape}; logits are numbers, "
            "(batch, tokens, vocabulary)"
        )
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= shape[2]))]
    if wrong.size:
        raise EvaluationError(f"labels: token {wrong[0]} is none of the vocabulary of {shape[2]} from 0")


def _checked_labels(labels: ArrayLike) -> NDArray[np.integer[Any]]:
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise EvaluatorInputError(f"labels: not one array of equal shapes: {error}") from error
    if array.dtype.kind not in "iu" or array.ndim != 2 or not array.size:
        raise EvaluatorInputError(
            f"labels: must be integers, (samples, tokens), not {array.dtype} of shape {array.shape}"
        )
    return array


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
