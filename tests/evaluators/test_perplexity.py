import math
import pickle
import tracemalloc
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from evaluators import EvaluationError, EvaluatorInputError, PerplexityEvaluator, SessionSettings, perplexity
from tests.evaluators.graphs import affine, save, tensor

INT64 = onnx.TensorProto.INT64
VOCABULARY = 7
ONE_THREAD = SessionSettings(threads=1)


def bigram_model(path, table, mask=True):
    """Logits of the next token are a row of a table: logits[b, t] = table[input_ids[b, t]].

    A mask, and a second output of another name, are there as in exported models.
    """
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"])]
    inputs = [tensor("input_ids", ["N", "T"], INT64)]
    if mask:
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["present"]))
        inputs.append(tensor("attention_mask", ["N", "T"], INT64))
    outputs = [tensor("logits", ["N", "T", table.shape[1]])]
    outputs += [tensor("present", ["N", "T"], INT64)] if mask else []
    return save(path, nodes, inputs, outputs, {"table": table})


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(0, 2, (VOCABULARY, VOCABULARY)).astype(np.float32)


@pytest.fixture
def model(tmp_path, table):
    return bigram_model(tmp_path / "m.onnx", table)


def tokens_of(seed, samples=5, length=9):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (samples, length))


def written_out(table, sequences):
    """Loss and perplexity of sequences, token by token."""
    losses = []
    for tokens in sequences:
        for token, following in pairwise(tokens):
            logits = table[token].astype(float).tolist()
            losses.append(math.log(sum(math.exp(z) for z in logits)) - logits[following])
    loss = math.fsum(losses) / len(losses)
    return {"perplexity": pytest.approx(math.exp(loss), rel=1e-5), "loss": pytest.approx(loss, rel=1e-5)}


def feed(tokens, mask=None):
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens) if mask is None else mask}


def test_every_token_is_predicted_by_the_one_before(model, table):
    tokens = tokens_of(1)
    evaluator = PerplexityEvaluator([feed(tokens[:2]), feed(tokens[2:])], session_settings=ONE_THREAD)
    assert evaluator.evaluate(model) == written_out(table, tokens)
    assert [(m.name, m.unit, m.direction) for m in evaluator.metrics] == [
        ("perplexity", "", "minimize"),
        ("loss", "nat", "minimize"),
    ]


def test_a_model_that_knows_nothing_is_torn_between_all_tokens(tmp_path):
    model = bigram_model(tmp_path / "m.onnx", np.zeros((VOCABULARY, VOCABULARY), np.float32), mask=False)
    values = PerplexityEvaluator([{"input_ids": tokens_of(1)}]).evaluate(model)
    assert values["perplexity"] == pytest.approx(VOCABULARY)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_padding_changes_nothing_on_either_side(tmp_path_factory, seed, left):
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 2, (VOCABULARY, VOCABULARY)).astype(np.float32)
    model = bigram_model(tmp_path_factory.mktemp("padding") / "m.onnx", table)
    sequences = [rng.integers(0, VOCABULARY, rng.integers(2, 8)) for _ in range(4)]
    tokens = rng.integers(0, VOCABULARY, (4, 8))  # padding has tokens, too, which must not count
    mask = np.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        place = slice(8 - len(sequence), 8) if left else slice(0, len(sequence))
        tokens[row, place], mask[row, place] = sequence, 1
    values = PerplexityEvaluator([feed(tokens, mask)], session_settings=ONE_THREAD).evaluate(model)
    assert values == written_out(table, sequences)


def test_tokens_weigh_the_same_in_batches_of_any_size(model):
    long, short = tokens_of(1, 1, 20), tokens_of(2, 6, 3)
    together = PerplexityEvaluator([feed(long), feed(short)]).evaluate(model)["loss"]
    parts = [PerplexityEvaluator([feed(each)]).evaluate(model)["loss"] for each in (long, short)]
    assert together == pytest.approx((19 * parts[0] + 12 * parts[1]) / 31)


def test_labels_say_what_counts(model, table):
    tokens = tokens_of(1)
    labels = tokens.copy()
    labels[:, :4] = -100  # a prompt, say
    feeds = [feed(tokens[:3]), feed(tokens[3:])]
    values = PerplexityEvaluator(feeds, labels).evaluate(model)
    assert values == written_out(table, [row[3:] for row in tokens])
    labels[labels == -100] = -1
    assert PerplexityEvaluator(feeds, labels, ignore_index=-1).evaluate(model) == values
    with pytest.raises(EvaluationError, match="token -1 is none of the vocabulary of 7"):
        PerplexityEvaluator(feeds, labels).evaluate(model)


def test_a_token_may_be_ignored_by_its_number(model, table):
    tokens = np.array([[1, 2, 0, 0]])  # 0 pads
    values = PerplexityEvaluator([feed(tokens)], ignore_index=0).evaluate(model)
    assert values == written_out(table, [[1, 2]])


def test_gaps_in_the_middle_are_left_out(model, table):
    tokens = tokens_of(1, 1, 8)
    mask = np.array([[1, 1, 1, 0, 0, 1, 1, 1]])
    values = PerplexityEvaluator([feed(tokens, mask)]).evaluate(model)
    assert values == written_out(table, [tokens[0, :3], tokens[0, 5:]])


def test_an_impossible_token_is_infinitely_surprising(tmp_path, table):
    table[:, 3] = -np.inf
    model = bigram_model(tmp_path / "m.onnx", table)
    values = PerplexityEvaluator([feed(np.array([[1, 3]]))]).evaluate(model)
    assert values == {"perplexity": math.inf, "loss": math.inf}
    table[1, 3] = -1e4  # whose exponential overflows
    values = PerplexityEvaluator([feed(np.array([[1, 3]]))]).evaluate(
        bigram_model(tmp_path / "n.onnx", table)
    )
    assert values["perplexity"] == math.inf and values["loss"] == pytest.approx(1e4, rel=1e-2)


def test_nan_counts_where_it_is_read_and_not_in_padding(tmp_path, table):
    table[5] = np.nan
    model = bigram_model(tmp_path / "m.onnx", table)
    tokens, mask = np.array([[1, 2, 5, 5]]), np.array([[1, 1, 0, 0]])
    assert PerplexityEvaluator([feed(tokens, mask)]).evaluate(model) == written_out(table, [[1, 2]])
    with pytest.raises(EvaluationError, match="'logits': NaN or infinite logits"):
        PerplexityEvaluator([feed(tokens)]).evaluate(model)


def test_the_vocabulary_is_read_in_slices():
    """Beside a sequence's logits (51 MB) no more than a quarter of them is held, padding or not."""
    logits = np.zeros((128, 100_000), np.float32)
    following = np.r_[np.full(3, -100), np.zeros(120, np.int64), np.full(5, -100)]
    tracemalloc.start()
    try:
        losses = perplexity._losses(logits, following, -100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(losses, np.full(120, math.log(100_000)))
    assert peak < logits.nbytes / 4


def test_it_starts_afresh_and_travels(model, tmp_path, table):
    evaluator = PerplexityEvaluator([feed(tokens_of(1))])
    first = evaluator.evaluate(model)
    assert evaluator.evaluate(bigram_model(tmp_path / "n.onnx", -table)) != first
    assert evaluator.evaluate(model) == first == pickle.loads(pickle.dumps(evaluator)).evaluate(model)


@pytest.mark.parametrize(
    ("feeds", "labels", "message"),
    [
        ([feed(np.zeros((2, 1), np.int64))], None, "no token counts; give sequences of at least two"),
        ([], None, "no token counts"),
        ([feed(tokens_of(1), np.zeros((5, 9), np.int64))], None, "no token counts"),
        ([feed(tokens_of(1))], tokens_of(1)[:4], r"labels: shape \(4, 9\) for input_ids of shape \(5, 9\)"),
        ([feed(tokens_of(1))], tokens_of(1, 6), "labels: 6 sequences, the feeds have 5"),
        ([feed(tokens_of(1))], tokens_of(1) + 5, "is none of the vocabulary of 7 from 0"),
    ],
    ids=["one-token", "no-feed", "all-masked", "few-labels", "many-labels", "unknown-token"],
)
def test_what_does_not_fit_is_refused(model, feeds, labels, message):
    with pytest.raises(EvaluationError, match=message):
        PerplexityEvaluator(feeds, labels).evaluate(model)


def test_models_that_are_none_of_a_language(tmp_path, model):
    scores = affine(tmp_path / "scores.onnx")
    with pytest.raises(EvaluationError, match="a language model reads input_ids"):
        PerplexityEvaluator([{"x": np.zeros((2, 4), np.float32)}]).evaluate(scores)
    with pytest.raises(EvaluationError, match="no output 'logit'; did you mean 'logits'"):
        PerplexityEvaluator([feed(tokens_of(1))], output="logit").evaluate(model)
    with pytest.raises(EvaluationError, match=r"'present' has shape \(5, 9\) for tokens of shape \(5, 9\)"):
        PerplexityEvaluator([feed(tokens_of(1))], output="present").evaluate(model)
    renamed = onnx.load(model)
    renamed.graph.output[0].name = renamed.graph.node[0].output[0] = "scores"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    with pytest.raises(EvaluationError, match="the model has scores, present; name the one"):
        PerplexityEvaluator([feed(tokens_of(1))]).evaluate(tmp_path / "renamed.onnx")


@pytest.mark.parametrize(
    "labels", [[1, 2], [[0.5]], [[1, 2], [3]], [[]]], ids=["flat", "float", "ragged", "none"]
)
def test_labels_are_checked_at_the_door(labels):
    with pytest.raises(EvaluatorInputError, match="labels: "):
        PerplexityEvaluator([], labels)


def test_other_arguments_are_checked_at_the_door():
    with pytest.raises(EvaluatorInputError, match="feeds"):
        PerplexityEvaluator(iter([]))
    with pytest.raises(EvaluatorInputError, match="ignore_index: must be an integer, not 'pad'"):
        PerplexityEvaluator([], ignore_index="pad")


def test_other_options_are_another_identity():
    ways = [{}, {"labels": [[1, 2]]}, {"labels": [[1, 3]]}, {"output": "y"}, {"ignore_index": 1}]
    assert len({PerplexityEvaluator([], **way).identity for way in ways}) == len(ways)
