from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quant.mixed_precision.greedy import shortest_prefix, wide_order, within_budget, without_needless

ERRORS = st.lists(st.floats(0, 10), min_size=1, max_size=7)


@given(ERRORS)
def test_equal_costs_order_by_error(errors: list[float]) -> None:
    order = wide_order(np.array(errors)[:, None], np.ones(len(errors)))
    ordered = [errors[group] for group in order]
    assert ordered == sorted(errors, reverse=True)


@given(ERRORS, st.floats(0, 30))
def test_equal_costs_and_additive_errors_need_no_more_than_the_best_set(
    errors: list[float], target: float
) -> None:
    def reaches(wide: Sequence[int]) -> bool:
        return sum(error for group, error in enumerate(errors) if group not in wide) <= target

    order = wide_order(np.array(errors)[:, None], np.ones(len(errors)))
    found = without_needless(shortest_prefix(order, reaches), reaches)
    assert reaches(found)
    fewest = next(
        size
        for size in range(len(errors) + 1)
        if any(reaches(chosen) for chosen in combinations(range(len(errors)), size))
    )
    assert len(found) == fewest


def test_the_part_that_is_worst_decides() -> None:
    errors = np.array([[5.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, np.inf]])
    assert wide_order(errors, np.ones(4)) == (3, 0, 2, 1)


def test_cheap_groups_come_first() -> None:
    assert wide_order(np.array([[1.0], [0.5]]), np.array([1.0, 0.1])) == (1, 0)
    assert wide_order(np.array([[1.0], [0.5]]), np.array([0.0, 0.0])) == (0, 1)


def test_a_group_that_later_ones_make_needless_is_left_out() -> None:
    assert without_needless((0, 1, 2), lambda wide: 2 in wide) == (2,)
    assert without_needless((0, 1, 2), lambda wide: 2 in wide, least=2) == (0, 2)
    assert shortest_prefix((4, 2, 7), lambda wide: True) == ()
    assert shortest_prefix((4, 2, 7), lambda wide: True, least=2) == (4, 2)
    assert shortest_prefix((4, 2, 7), lambda wide: 2 in wide) == (4, 2)


def test_a_budget_passes_over_what_is_too_large() -> None:
    sizes = [3, 9, 4, 2, 1]
    assert within_budget(range(5), lambda wide: sum(sizes[group] for group in wide) <= 8) == (0, 2, 4)
