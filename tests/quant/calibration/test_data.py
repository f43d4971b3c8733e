from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quant import CalibrationData, DataError
from quant.calibration.data import InputSpec
from tests.quant.graphs import Feed, floats

FEEDS: list[Feed] = [{"x": floats(4, 3, seed=seed)} for seed in range(3)]
INPUTS = (InputSpec("x", np.dtype(np.float32), (None, 3)),)


class Reader:
    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.position = 0

    def get_next(self) -> Feed | None:
        self.position += 1
        return self.feeds[self.position - 1] if self.position <= len(self.feeds) else None


class RewindableReader(Reader):
    def rewind(self) -> None:
        self.position = 0


SOURCES: dict[str, Callable[[], Any]] = {
    "list": lambda: FEEDS,
    "tuple": lambda: tuple(FEEDS),
    "generator": lambda: (feed for feed in FEEDS),
    "reader": lambda: Reader(FEEDS),
    "data": lambda: CalibrationData(FEEDS),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_are_read_once_and_kept(source: str) -> None:
    data = CalibrationData(SOURCES[source]())
    assert (len(data), data.samples) == (3, 12)
    for _ in range(2):
        for feed, wanted in zip(data, FEEDS, strict=True):
            np.testing.assert_array_equal(feed["x"], wanted["x"])
    assert data.digest == CalibrationData(FEEDS).digest


def test_one_dict_is_one_feed() -> None:
    assert len(CalibrationData({"x": floats(5, 3)})) == 1


def test_lists_of_numbers_become_arrays() -> None:
    (feed,) = CalibrationData({"x": [[1, 2], [3, 4]]})
    assert feed["x"].shape == (2, 2)


def test_an_exhausted_reader_is_rewound_or_refused() -> None:
    reader = RewindableReader(FEEDS)
    assert len(CalibrationData(reader)) == len(CalibrationData(reader)) == 3
    spent = Reader(FEEDS)
    CalibrationData(spent)
    with pytest.raises(DataError, match="read to its end before"):
        CalibrationData(spent)


@pytest.mark.parametrize("source", [[], Reader([]), RewindableReader([]), iter(())])
def test_no_feeds_are_refused(source: Any) -> None:
    with pytest.raises(DataError, match="no feeds"):
        CalibrationData(source)


@pytest.mark.parametrize(("source", "message"), [(3, "got int"), ([floats(3)], "feed 0: got ndarray")])
def test_other_objects_are_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CalibrationData(source)


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [(None, [4, 4, 4]), (99, [4, 4, 4]), (12, [4, 4, 4]), (8, [4, 4]), (5, [4, 1]), (1, [1])],
)
def test_head_cuts_the_batch_at_the_limit(samples: int | None, sizes: list[int]) -> None:
    head = CalibrationData(FEEDS).head(samples)
    assert [feed["x"].shape[0] for feed in head] == sizes
    everything = np.concatenate([feed["x"] for feed in FEEDS])
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in head]), everything[: sum(sizes)])


def test_head_leaves_inputs_without_the_batch_axis_whole() -> None:
    (feed,) = CalibrationData([{"x": floats(4, 3), "mask": floats(7), "alpha": np.float32(2)}]).head(2)
    assert (feed["x"].shape, feed["mask"].shape, feed["alpha"].shape) == ((2, 3), (7,), ())


def test_the_digest_depends_on_everything() -> None:
    x, y = floats(4, 3), floats(4, 3, seed=1)
    variants = [
        [{"x": x}, {"x": y}],
        [{"x": y}, {"x": x}],
        [{"x": x, "y": y}],
        [{"y": x, "x": y}],
        [{"x": np.concatenate([x, y])}],
        [{"z": x}, {"z": y}],
        [{"x": x}, {"x": y + 1}],
        [{"x": x.T.copy()}, {"x": y}],
        [{"x": x.view(np.int32)}, {"x": y}],
        [{"x": x}],
    ]
    digests = {CalibrationData(feeds).digest for feeds in variants}
    assert len(digests) == len(variants)
    assert CalibrationData([{"y": y, "x": x}]).digest == CalibrationData([{"x": x, "y": y}]).digest
    transposed = np.asfortranarray(x)
    assert CalibrationData([{"x": transposed}]).digest == CalibrationData([{"x": x}]).digest


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.bool_, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_any_element_type_has_a_digest(dtype: Any, shape: tuple[int, ...]) -> None:
    assert CalibrationData({"x": np.zeros(shape, dtype)}).digest


BAD_FEEDS: list[tuple[Feed, str]] = [
    ({"y": floats(2, 3)}, r"feed 1: inputs \['y'\], the model takes \['x'\]"),
    ({"x": floats(2, 3), "y": floats(2)}, r"feed 1: inputs \['x', 'y'\]"),
    ({"x": floats(2, 4)}, r"feed 1, input 'x': shape \(2, 4\), the model takes \(\?, 3\)"),
    ({"x": floats(3)}, r"feed 1, input 'x': shape \(3,\)"),
    (
        {"x": floats(2, 3).astype(np.float64)},
        "feed 1, input 'x': element type float64, the model takes float32",
    ),
    ({"x": np.full((2, 3), np.nan, np.float32)}, "feed 1, input 'x': NaN or infinite"),
    ({"x": np.full((2, 3), np.inf, np.float32)}, "feed 1, input 'x': NaN or infinite"),
]


@pytest.mark.parametrize(("feed", "message"), BAD_FEEDS)
def test_feeds_that_do_not_fit_are_refused(feed: Feed, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CalibrationData([FEEDS[0], feed]).check(INPUTS)


def test_feeds_that_fit_pass() -> None:
    CalibrationData(FEEDS).check(INPUTS)
    CalibrationData(FEEDS).check((InputSpec("x", np.dtype(np.float32), None),))
