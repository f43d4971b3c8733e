"""Text to train on: the documentation strings of the Python standard library that runs this."""

from __future__ import annotations

import ast
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_HELD_OUT_SHARE = 20
"""One file in so many is held out, chosen by its name."""


def documents(library: Path | None = None) -> tuple[list[str], list[str]]:
    """What modules, classes and functions say of themselves, and the topics of `help()`.

    Whole files are held out, by a checksum of their names, so that no text is told apart from its
    neighbour in the same file. Equal strings are taken once.

    Args:
        library: Folder of the standard library; None = that of the running Python.

    Returns:
        Texts to train on and texts held out, in the order of the files' names.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    train: list[str] = []
    held_out: list[str] = []
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if _LEFT_OUT & set(name.split("/")):
            continue
        chosen = held_out if zlib.crc32(name.encode()) % _HELD_OUT_SHARE == 0 else train
        for text in _texts(path):
            if text and text not in seen:
                seen.add(text)
                chosen.append(text)
    return train, held_out


def _texts(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # samples of broken code belong to the library, too
        return
    if path.parent.name == "pydoc_data":
        yield from _strings(tree)
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            yield ast.get_docstring(node) or ""


def _strings(tree: ast.Module) -> Iterator[str]:
    """The values of the mapping from a topic of `help()` to its text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (value.value for value in node.values if isinstance(value, ast.Constant))
