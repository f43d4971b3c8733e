import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import EvaluatorInputError, token_windows


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(2, 12), st.integers(1, 5))
def test_the_windows_side_by_side_are_the_text(count, length, batch_size):
    tokens = np.arange(100, 100 + count)
    feeds = token_windows(tokens, length, batch_size=batch_size, pad_token=-7)
    ids = np.concatenate([feed["input_ids"] for feed in feeds])
    mask = np.concatenate([feed["attention_mask"] for feed in feeds])
    alone = count % length == 1  # a last token that nothing predicts and that predicts nothing
    np.testing.assert_array_equal(ids[mask == 1], tokens[:-1] if alone else tokens)
    assert (ids[mask == 0] == -7).all() and ids.shape[1] == length
    assert (np.diff(mask, axis=1) <= 0).all() and (mask.sum(axis=1) >= 2).all()
    assert [len(feed["input_ids"]) for feed in feeds[:-1]] == [batch_size] * (len(feeds) - 1)
    assert all(array.dtype == np.int64 for feed in feeds for array in feed.values())


def test_only_what_the_model_takes_is_made():
    (feed,) = token_windows([[5, 6, 7, 8, 9]], 3, batch_size=2, inputs=("position_ids", "input_ids"))
    assert list(feed) == ["position_ids", "input_ids"]
    assert feed["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert feed["position_ids"].tolist() == [[0, 1, 2], [0, 1, 1]]


def test_a_text_that_is_shorter_than_a_window_is_padded():
    (feed,) = token_windows(np.array([3, 4], np.uint16), 4)
    assert feed["attention_mask"].tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], 4), r"tokens: must be integers, \(tokens,\), at least two, not int64 of shape \(1,\)"),
        (([0.5, 1.0], 4), "tokens: must be integers"),
        (([[1, 2], [3, 4]], 4), r"shape \(2, 2\)"),
        (([[1, 2], [3]], 4), "tokens: not one stream"),
        (([1, 2], 1), "length: must be an integer from 2, not 1"),
        (([1, 2], 2.0), r"length: must be an integer from 2, not 2\.0"),
    ],
    ids=["one", "float", "rows", "ragged", "short", "fraction"],
)
def test_what_is_no_stream_of_tokens_is_refused(arguments, message):
    with pytest.raises(EvaluatorInputError, match=message):
        token_windows(*arguments)


def test_options_are_checked():
    with pytest.raises(EvaluatorInputError, match="batch_size: must be an integer from 1, not 0"):
        token_windows([1, 2], 2, batch_size=0)
    with pytest.raises(
        EvaluatorInputError, match="cannot make 'input_id' of tokens; did you mean 'input_ids'"
    ):
        token_windows([1, 2], 2, inputs=["input_id"])
