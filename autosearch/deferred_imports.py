"""Imports that a worker process puts off until something uses them.

onnx-ir imports SymPy for arithmetic with symbolic dimensions, which quantizing does without: 33 MB and
0.3 s of every process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""The second one needs the first as it is imported."""


class DeferringFinder:
    """Finds modules of these names where Python would, to be executed at the first use of an attribute."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `importlib` asks for it; None = this module is no concern of the finder."""
        if name not in DEFERRED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def defer_imports() -> None:
    """To be called before onnx-ir is imported; for a process of ours, as it changes how Python imports."""
    sys.meta_path.insert(0, DeferringFinder)
