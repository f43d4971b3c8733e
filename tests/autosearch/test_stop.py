from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosearch.stop import Limits, Progress, stop_reason

NOTHING = Progress(trials=0, candidates=0, since_best=None, seconds=0.0)


@pytest.mark.parametrize(
    ("limits", "before", "at"),
    [
        (Limits(find_n_candidates=2), Progress(5, 1, 0, 1.0), Progress(6, 2, 0, 1.0)),
        (Limits(find_best_candidate=3), Progress(5, 1, 2, 1.0), Progress(6, 1, 3, 1.0)),
        (Limits(iteration_limit=4), Progress(3, 0, None, 1.0), Progress(4, 0, None, 1.0)),
        (Limits(n_trials=4), Progress(3, 0, None, 1.0), Progress(4, 0, None, 1.0)),
        (Limits(time_limit_s=2.5), Progress(3, 0, None, 2.4), Progress(3, 0, None, 2.5)),
    ],
)
def test_each_limit_holds_from_its_value_on(limits: Limits, before: Progress, at: Progress) -> None:
    assert stop_reason(limits, before) is None
    reason = stop_reason(limits, at)
    assert reason is not None
    named = next(name for name, value in vars(limits).items() if value is not None)
    assert reason.startswith(named.removesuffix("_s"))


def test_the_least_number_of_trials_counts() -> None:
    assert Limits().trials is None
    assert Limits(iteration_limit=4, n_trials=3).trials == Limits(iteration_limit=3).trials == 3


def test_waiting_for_a_better_candidate_begins_with_the_first_one() -> None:
    assert stop_reason(Limits(find_best_candidate=1), Progress(100, 0, None, 1.0)) is None


@given(
    st.builds(
        Progress,
        trials=st.integers(0, 10**6),
        candidates=st.integers(0, 10**6),
        since_best=st.none() | st.integers(0, 10**6),
        seconds=st.floats(0, 1e9),
    )
)
def test_without_limits_nothing_stops(progress: Progress) -> None:
    assert stop_reason(Limits(), progress) is None
