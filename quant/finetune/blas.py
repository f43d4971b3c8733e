"""NumPy's BLAS and its threads."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

_LARGE_PRODUCT = 1 << 26
"""Multiplications that are worth waking other threads for."""


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def one_thread(multiplications: int = 0) -> AbstractContextManager[object]:
    """Within, products run on the calling thread, unless they are as large as said.

    Small products by many threads take longer than by one, and much longer when other threads or
    processes want the same cores.
    """
    if multiplications >= _LARGE_PRODUCT:
        return nullcontext()
    limited: AbstractContextManager[object] = _controller().limit(limits=1)
    return limited
