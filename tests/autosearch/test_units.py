from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosearch.units import Amount, duration_text, read_amount, read_duration, read_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("10 GB", 10**10), ("1.5kB", 1500), (" 512 MiB ", 2**29), ("7", 7), ("2tib", 2**41), (12, 12)],
)
def test_sizes(text: object, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("wrong", ["", "GB", "ten GB", "-1 GB", "1 G", "1e9", "1,5 GB", 1.5, True, None, [1]])
def test_what_is_no_size(wrong: object) -> None:
    with pytest.raises(ValueError, match="such as '10 GB'"):
        read_size(wrong)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * 86_400), ("1.5 h", 5400), ("90s", 90), ("2w", 14 * 86_400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("wrong", ["", "30", "d", "30 years", "-3d"])
def test_what_is_no_duration(wrong: str) -> None:
    with pytest.raises(ValueError, match="write a duration such as 30d"):
        read_duration(wrong)


@given(st.integers(0, 10**15))
def test_a_size_written_is_read_as_nearly_the_same(size: int) -> None:
    assert read_size(size_text(size)) == pytest.approx(size, rel=0.006, abs=0.5)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (10**10, "10 GB")]
)
def test_how_sizes_are_written(size: int, text: str) -> None:
    assert size_text(size) == text


@given(st.floats(0, 1e8))
def test_a_duration_written_is_read_as_no_more(seconds: float) -> None:
    written = read_duration(duration_text(seconds))
    assert written <= seconds < 2 * written + 1


@pytest.mark.parametrize(
    ("given", "amount", "shown"),
    [
        (0.98, Amount(0.98), "0.98"),
        (8, Amount(8.0), "8"),
        ("1e-3", Amount(0.001), "0.001"),
        ("0.98x", Amount(0.98, is_relative=True), "0.98x"),
        (" -.5 X", Amount(-0.5, is_relative=True), "-0.5x"),
    ],
)
def test_amounts(given: object, amount: Amount, shown: str) -> None:
    assert read_amount(given) == amount
    assert str(amount) == shown
    assert read_amount(amount) is amount


def test_a_relative_amount_is_times_the_float_value() -> None:
    assert Amount(0.5, is_relative=True).of(8.0) == 4.0
    assert Amount(0.5).of(8.0) == 0.5


@pytest.mark.parametrize("wrong", ["", "x", "0.98 times", "10 %", True, [1], float("nan"), float("inf")])
def test_what_is_no_amount(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"'0\.98x'"):
        read_amount(wrong)
