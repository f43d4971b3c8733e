"""Byte-level byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909; bytes as in GPT-2 and OPT).

Reads and writes Hugging Face's tokenizer.json, so that the shipped file works with their `tokenizers`
package, too, and a file of the same kind (GPT-2's, OPT's) works without it.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

Pair = tuple[str, str]

_UNUSUAL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
"""Options of a BPE model that ask for more than merging bytes by rank."""
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space; Python's ``\\s`` has four control characters more."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without special tokens around it."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids."""


class ByteLevelBpe:
    """Splits text into words, words into bytes, and merges pairs of tokens by rank.

    Args:
        vocabulary: Id of each token; a token is written with one character per byte
            (`byte_characters`).
        merges: Pairs to join, most urgent first.
        special: Tokens that stand for themselves wherever the text has them, such as ``</s>``.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Iterable[Pair], special: Sequence[str] = ()):
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self.special = tuple(special)
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._token = {number: token for token, number in self.vocabulary.items()}
        self._words: dict[str, list[int]] = {}
        self._split = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without special tokens around it."""
        parts = [text] if self._split is None else self._split.split(text)
        return [number for part in parts if part for number in self._encode_part(part)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        byte_of = {character: byte for byte, character in byte_characters().items()}
        text = bytearray()
        for number in ids:
            token = self._token[int(number)]
            text += token.encode() if token in self.special else bytes(byte_of[c] for c in token)
        return text.decode("utf-8", errors="replace")

    def _encode_part(self, part: str) -> list[int]:
        if part in self.special:
            return [self.vocabulary[part]]
        return [number for word in split_words(part) for number in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._words:
            self._words[word] = [self.vocabulary[token] for token in self._merged(as_characters(word))]
        return self._words[word]

    def _merged(self, tokens: Sequence[str]) -> list[str]:
        """Joins the pair of lowest rank, everywhere, until none of the pairs has a rank."""
        joined = list(tokens)
        while len(joined) > 1:
            pair = min(pairwise(joined), key=lambda p: self._rank.get(p, len(self._rank)))
            if pair not in self._rank:
                break
            joined = _join(joined, pair)
        return joined

    def save(self, path: Path) -> None:
        """Writes a tokenizer.json."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        added = [
            {"id": self.vocabulary[token], "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for token in self.special
        ]
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": self.vocabulary,
                "merges": [" ".join(pair) for pair in self.merges],
            },
        }
        path.write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json: itself if it is a byte-level BPE, else with the `tokenizers` package.

    Raises:
        ValueError: If the file is not a tokenizer.json, or of another kind and the package is missing.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        model = document["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a tokenizer.json: {type(error).__name__}: {error}") from None
    if _is_byte_level_bpe(document):
        merges = (
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]
        )
        added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
        return ByteLevelBpe({**model["vocab"], **added}, merges, tuple(added))
    return _HuggingFace(path, model.get("type"))


class _HuggingFace:
    """Any other tokenizer.json."""

    def __init__(self, path: Path, kind: object) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ValueError(
                f"{path}: a {kind} tokenizer, not a byte-level BPE; to read it: pip install 'autosearch[lm]'"
            ) from None
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=False))


def _is_byte_level_bpe(document: Mapping[str, Any]) -> bool:
    """Whether nothing in the file asks for more than `ByteLevelBpe` does."""
    model, words = document["model"], document.get("pre_tokenizer") or {}
    plain_model = model.get("type") == "BPE" and not any(model.get(key) for key in _UNUSUAL)
    plain_words = words.get("type") == "ByteLevel" and words.get("use_regex", True)
    # `lstrip` and `rstrip` swallow spaces, `single_word` looks at neighbours
    plain_added = not any(
        token.get(key)
        for token in document.get("added_tokens") or ()
        for key in ("single_word", "lstrip", "rstrip")
    )
    plain = plain_model and plain_words and plain_added and not document.get("normalizer")
    return plain and not words.get("add_prefix_space")


def train_bpe(texts: Iterable[str], size: int, special: Sequence[str]) -> ByteLevelBpe:
    """Merges the most frequent pair of neighbours, again and again; of equals the first by name.

    Args:
        texts: What to count in.
        size: Tokens in all: the special ones, 256 bytes, and what is merged.
        special: First in the vocabulary, and never merged.
    """
    counts = Counter(word for text in texts for word in split_words(text))
    words = [list(as_characters(word)) for word in counts]
    weights = list(counts.values())
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += weights[index]
            where[pair].add(index)
    vocabulary = [*special, *byte_characters().values()]
    merges: list[Pair] = []
    while len(vocabulary) < size and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        vocabulary.append("".join(best))
        for index in where.pop(best):
            _recount(pairs, where, words[index], weights[index] * -1, index)
            words[index] = _join(words[index], best)
            _recount(pairs, where, words[index], weights[index], index)
        pairs.pop(best, None)
    return ByteLevelBpe({token: number for number, token in enumerate(vocabulary)}, merges, special)


def _recount(
    pairs: Counter[Pair], where: defaultdict[Pair, set[int]], word: list[str], weight: int, index: int
) -> None:
    for pair in pairwise(word):
        pairs[pair] += weight
        if weight > 0:
            where[pair].add(index)


def _join(tokens: Sequence[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    for token in tokens:
        if joined and (joined[-1], token) == pair:
            joined[-1] = "".join(pair)
        else:
            joined.append(token)
    return joined


def as_characters(word: str) -> str:
    """One visible character for each byte of the word in UTF-8."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in word.encode())


@cache
def byte_characters() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the others U+0100 onwards."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    characters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in characters]
    return characters | {byte: chr(256 + number) for number, byte in enumerate(others)}


def split_words(text: str) -> list[str]:
    """GPT-2's words: a space sticks to the word after it, letters, digits and signs stay apart."""
    return _words_pattern().findall(text)


@cache
def _words_pattern() -> re.Pattern[str]:
    """GPT-2's expression, for which Python's `re` lacks Unicode's categories L and N.

    A letter is what Python takes for part of a word, but for the underscore and numbers. Of numbers it
    has category Nd; Nl and No (Roman numerals, fractions ...) are listed.
    """
    others = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c) in ("Nl", "No"))
    letter, number = rf"[^\W\d_{others}]", rf"[\d{others}]"
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?{letter}+| ?{number}+"
        rf"| ?(?:(?!{letter}|{number})[^{_SPACE}])+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
    )
