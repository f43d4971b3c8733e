from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.lm.tokenizer import ByteLevelBpe, load_tokenizer, split_words, train_bpe

LM = Path(__file__).parents[2] / "examples" / "lm"
SHIPPED = load_tokenizer(LM / "tokenizer.json")


@given(st.text())
@settings(deadline=None, max_examples=40)
def test_round_trip(text: str) -> None:
    ids = SHIPPED.encode(text)
    assert SHIPPED.decode(ids) == text
    assert all(0 <= number < 1024 for number in ids)


@given(st.text())
@settings(deadline=None, max_examples=40)
def test_words_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_words_are_gpt2s() -> None:
    text = "It's 12½  cats_and\n\tdogs’ ²Ⅷ一\x1c!"
    words = ["It", "'s", " 12½", " ", " cats", "_", "and", "\n", "\t", "dogs", "’", " ²Ⅷ", "一", "\x1c!"]
    assert split_words(text) == words


def test_the_shipped_tokens_are_those_of_the_shipped_text() -> None:
    tokens = SHIPPED.encode((LM / "heldout.txt").read_text("utf-8"))
    held_out = np.load(LM / "heldout.npz")
    assert held_out["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(held_out["input_ids"].ravel(), tokens[: held_out["input_ids"].size])
    assert len(tokens) - held_out["input_ids"].size < 128
    assert held_out["attention_mask"].all()


def test_the_most_frequent_pair_is_merged_first() -> None:
    trained = train_bpe(["low low low lower lower newest newest"], 256 + 1 + 4, ("</s>",))
    assert trained.merges == [("l", "o"), ("lo", "w"), ("Ġ", "low"), ("e", "r")] or len(trained.merges) == 4
    assert trained.merges[0] in (("l", "o"), ("o", "w"))
    assert trained.decode(trained.encode("lowest</s>low")) == "lowest</s>low"
    assert trained.encode("</s>") == [0]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    trained = train_bpe(["the cat sat on the mat, the end"] * 3, 300, ("<pad>", "</s>"))
    trained.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(loaded, ByteLevelBpe)
    assert (loaded.vocabulary, loaded.merges, loaded.special) == (
        trained.vocabulary,
        trained.merges,
        trained.special,
    )


def test_merges_as_pairs_are_read_too(tmp_path: Path) -> None:
    document = json.loads((LM / "tokenizer.json").read_text("utf-8"))
    document["model"]["merges"] = [pair.split(" ") for pair in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_tokenizer(tmp_path / "tokenizer.json").encode("A new word.") == SHIPPED.encode("A new word.")


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("model", "type", "WordPiece"),
        ("model", "ignore_merges", True),
        (None, "normalizer", {"type": "NFC"}),
        ("pre_tokenizer", "add_prefix_space", True),
        ("pre_tokenizer", "type", "Whitespace"),
    ],
)
def test_other_kinds_need_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None, key: str, value: object
) -> None:
    document = json.loads((LM / "tokenizer.json").read_text("utf-8"))
    (document if place is None else document[place])[key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*pip install 'autosearch\[lm\]'"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["", "{}", "[]", "3"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_it_agrees_with_hugging_faces_package() -> None:
    """Against ids that tokenizers 0.23.3 gave for the shipped file."""
    text = "It's 12½  cats_and\n\tdogs’ ²Ⅷ一\x1c! </s>x <pad>\n\n "
    assert SHIPPED.encode(text) == [
        44,
        87,
        638,
        595,
        21,
        130,
        125,
        224,
        274,
        291,
        86,
        66,
        366,
        202,
        201,
        71,
        654,
        86,
        997,
        224,
        130,
        114,
        162,
        231,
        104,
        164,
        120,
        226,
        220,
        4,
        224,
        2,
        91,
        224,
        1,
        202,
        501,
    ]
