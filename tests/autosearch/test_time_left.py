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


def test_later_spaces_are_priced_as_their_own() -> None:
    space = SearchSpace(SPACE)
    slow = SearchSpace(
        {"include_fast_ft": True, "extra_options": {"FastFinetune": {"NumIterations": 10_000}}}
    )
    left = TimeLeft(space, [slow])
    both = left.seconds(space.size + slow.size)
    assert both == pytest.approx(TimeLeft(space).seconds(space.size) + TimeLeft(slow).seconds(slow.size))
    assert left.seconds(1) == pytest.approx(TimeLeft(slow).seconds(1))


def test_what_was_learned_goes_on_to_the_next_stage() -> None:
    space = SearchSpace(SPACE)
    left = TimeLeft(space)
    left.observe(space.configuration(0), {"quantize": 1.0, "evaluate": 100.0})
    assert left.at_stage(space).seconds(1) == left.seconds(1) > 50 * TimeLeft(space).seconds(1)


def test_slower_trials_make_it_longer() -> None:
    space = SearchSpace(SPACE)
    fast, slow = TimeLeft(space), TimeLeft(space)
    for index in range(4):
        fast.observe(space.configuration(index), {"quantize": 0.1, "evaluate": 0.1})
        slow.observe(space.configuration(index), {"quantize": 0.1, "evaluate": 5.0})
    assert slow.seconds(5) > 10 * fast.seconds(5)
