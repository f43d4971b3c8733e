from __future__ import annotations

import pytest

from autosearch.space import SearchSpace
from autosearch.time_left import TimeLeft
from tests.autosearch.models import SPACE


@pytest.mark.parametrize("limit", [2**22, 1])
def test_the_estimate_follows_what_trials_take(limit: int) -> None:
    space = SearchSpace(SPACE, limit=limit)
    left = TimeLeft(space)
    seconds = {"quantize": 0.5, "evaluate": 1.5}
    for index in range(0, 16):
        left.observe(space.configuration(index), seconds)
    assert left.seconds(10) == pytest.approx(20.0, rel=0.3)
    assert left.seconds(0) == 0.0


def test_slower_trials_make_it_longer() -> None:
    space = SearchSpace(SPACE)
    fast, slow = TimeLeft(space), TimeLeft(space)
    for index in range(4):
        fast.observe(space.configuration(index), {"quantize": 0.1, "evaluate": 0.1})
        slow.observe(space.configuration(index), {"quantize": 0.1, "evaluate": 5.0})
    assert slow.seconds(5) > 10 * fast.seconds(5)
