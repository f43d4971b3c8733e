from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autosearch.pareto import Front, domination_ranks, hypervolume, is_on_front

LEVELS = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 1.0, 2.0, np.inf])
"""Few, so that points are often equal, in one loss or in all."""

clouds = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=LEVELS)
)


def dominates(one: np.ndarray, other: np.ndarray) -> bool:
    """By the definition."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


def ranks_by_peeling(losses: np.ndarray) -> list[int]:
    """Front after front is taken away."""
    ranks = [-1] * len(losses)
    rank = 0
    while -1 in ranks:
        left = [i for i, known in enumerate(ranks) if known == -1]
        front = [i for i in left if not any(dominates(losses[j], losses[i]) for j in left)]
        for i in front:
            ranks[i] = rank
        rank += 1
    return ranks


@given(clouds)
def test_ranks_are_those_of_the_definition(losses: np.ndarray) -> None:
    assert domination_ranks(losses).tolist() == ranks_by_peeling(losses)


@given(clouds)
def test_the_front_is_rank_zero(losses: np.ndarray) -> None:
    assert (is_on_front(losses) == (domination_ranks(losses) == 0)).all()


@given(clouds)
def test_a_front_kept_up_to_date_is_that_of_all_points(losses: np.ndarray) -> None:
    front = Front(losses.shape[1])
    gone: set[int] = set()
    for number, point in enumerate(losses):
        equal = any((point == losses[member]).all() for member in front.members)
        assert front.has_equal(point) == equal
        joined, left = front.add(number, point)
        assert joined == (number in front)
        gone |= {*left, *([] if joined else [number])}
    assert sorted(front.members) == np.flatnonzero(is_on_front(losses)).tolist()
    assert len(front) == len(losses) - len(gone)


@given(clouds, st.randoms(use_true_random=False))
def test_ranks_follow_their_points(losses: np.ndarray, random: object) -> None:
    order = np.arange(len(losses))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert (domination_ranks(losses[order]) == domination_ranks(losses)[order]).all()


def test_no_points_have_no_ranks() -> None:
    assert domination_ranks(np.empty((0, 2))).size == 0
    assert is_on_front(np.empty((0, 3))).size == 0
    assert hypervolume(np.empty((0, 2)), [1, 1]) == 0.0


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hypervolume_is_the_number_of_cells_covered(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for _ in range(20):
        points = rng.integers(0, 6, size=(rng.integers(1, 9), objectives))
        reference = np.full(objectives, 5)
        covered = sum(
            any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
            for cell in product(range(5), repeat=objectives)
        )
        assert hypervolume(points, reference) == pytest.approx(covered)


def test_ten_thousand_points_of_three_losses_have_exact_ranks() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(10_000, 3))
    ranks = domination_ranks(losses)
    chosen = rng.integers(0, len(losses), size=200)
    for i in chosen:  # one more than the highest rank that dominates it
        above = (losses <= losses[i]).all(axis=1) & (losses < losses[i]).any(axis=1)
        assert ranks[i] == ranks[above].max(initial=-1) + 1
