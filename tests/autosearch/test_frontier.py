from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosearch.frontier import Combination, Option, frontier, lower_hull, spread

_NUMBER = st.integers(0, 20)
_OPTIONS = st.lists(st.builds(Option, _NUMBER, _NUMBER), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(_OPTIONS, min_size=1, max_size=4))
def test_no_mixture_of_combinations_beats_the_frontier(groups: list[list[Option]]) -> None:
    found = frontier(groups)
    everything = [
        (
            sum(group[i].cost for group, i in zip(groups, choice, strict=True)),
            sum(group[i].error for group, i in zip(groups, choice, strict=True)),
        )
        for choice in product(*(range(len(group)) for group in groups))
    ]
    for cost, error in everything:  # the frontier's line at the same cost is no worse
        at_most = [each for each in found if each.cost <= cost]
        assert at_most, "nothing is cheaper than the frontier's first"
        assert np.interp(cost, [each.cost for each in found], [each.error for each in found]) <= error + 1e-9
    assert min(cost for cost, _ in everything) == found[0].cost
    assert min(error for _, error in everything) == found[-1].error


@given(st.lists(_OPTIONS, min_size=1, max_size=4))
def test_neighbours_differ_in_one_group_and_errors_fall(groups: list[list[Option]]) -> None:
    found = frontier(groups)
    for before, after in pairwise(found):
        assert sum(a != b for a, b in zip(before.choices, after.choices, strict=True)) == 1
        assert after.error < before.error
        assert after.cost > before.cost
    for each in found:
        chosen = [group[i] for group, i in zip(groups, each.choices, strict=True)]
        assert each.cost == sum(option.cost for option in chosen)
        assert each.error == sum(option.error for option in chosen)


def test_options_that_give_no_number_are_left_out() -> None:
    assert lower_hull([Option(1, np.inf), Option(2, 3), Option(3, np.nan)]) == [1]


def test_of_options_without_any_number_the_cheapest_is_kept() -> None:
    assert lower_hull([Option(2, np.inf), Option(1, np.inf)]) == [1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_spread_takes_both_ends_and_no_combination_twice(count: int) -> None:
    combinations = [Combination((i,), cost=2.0**i, error=-float(i)) for i in range(9)]
    chosen = spread(combinations, count)
    assert len({each.choices for each in chosen}) == count
    assert [each.cost for each in chosen] == sorted(each.cost for each in chosen)
    if count > 1:
        assert chosen[0] is combinations[0]
        assert chosen[-1] is combinations[-1]


def test_spread_of_few_takes_all() -> None:
    combinations = [Combination((i,), float(i), -float(i)) for i in range(3)]
    assert spread(combinations, 5) == combinations
