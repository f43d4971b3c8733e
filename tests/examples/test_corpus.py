from __future__ import annotations

from pathlib import Path

from examples.lm.corpus import documents


def test_documentation_strings_of_a_library(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"m{number:02}.py").write_text(
            f'"""Module {number}."""\ndef f():\n    """Same."""\nclass C:\n    """Class {number}."""\n'
        )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text('"""A test."""')
    (tmp_path / "broken.py").write_text('"""Broken."""\ndef (:')
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text('topics = {"if": "The if statement."}')
    train, held_out = documents(tmp_path)
    both = train + held_out
    assert sorted(both) == sorted(
        ["Same.", "The if statement.", *(f"{kind} {n}." for kind in ("Module", "Class") for n in range(60))]
    )
    assert held_out
    assert len(held_out) < len(train) / 4
    # a file is in one of the two as a whole
    assert {text.split()[1] for text in held_out if text[:2] in ("Mo", "Cl")}.isdisjoint(
        text.split()[1] for text in train if text[:2] in ("Mo", "Cl")
    )
