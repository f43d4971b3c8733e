import os

import numpy as np
import pytest

from evaluators import EvaluatorInputError
from evaluators.stored_outputs import StoredOutputs

DTYPES = (np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool)


def batches():
    rng = np.random.default_rng(0)
    return [tuple((10 * rng.normal(size=(n, 3))).astype(dtype) for dtype in DTYPES) for n in (4, 0, 7, 1)] + [
        (np.array(1.5), np.zeros((2, 0)), np.arange(12).reshape(3, 4).T, *(np.ones(1),) * 3)
    ]


@pytest.mark.parametrize("memory_limit_bytes", [0, 200, 1 << 20])
def test_what_goes_in_comes_out_any_number_of_times(tmp_path, memory_limit_bytes):
    stored = StoredOutputs(memory_limit_bytes, tmp_path)
    for batch in batches():
        stored.append(batch)
    assert len(stored) == len(batches())
    for _ in range(2):
        for batch, expected in zip(stored, batches(), strict=True):
            for array, original in zip(batch, expected, strict=True):
                assert array.dtype == original.dtype
                np.testing.assert_array_equal(array, original)
    stored.close()


def test_appending_after_reading(tmp_path):
    stored = StoredOutputs(0, tmp_path)
    stored.append((np.arange(3),))
    (first,) = next(iter(stored))
    stored.append((np.arange(5),))
    assert [len(batch[0]) for batch in stored] == [3, 5]
    np.testing.assert_array_equal(first, np.arange(3))
    stored.close()


def test_arrays_within_the_limit_are_kept_as_they_are_and_make_no_file(tmp_path):
    stored = StoredOutputs(1 << 20, tmp_path / "never made")
    array = np.ones(4)
    stored.append((array,))
    assert next(iter(stored))[0] is array
    assert not any(tmp_path.iterdir())


def test_the_file_leaves_nothing_behind_even_if_it_is_not_closed(tmp_path):
    stored = StoredOutputs(0, tmp_path / "cache")
    stored.append((np.ones(4),))
    held = next(iter(stored))[0]
    if os.name == "posix":
        assert not any((tmp_path / "cache").iterdir())
    stored.close()
    stored.close()
    assert not any((tmp_path / "cache").iterdir())
    assert not held.flags.writeable
    np.testing.assert_array_equal(held, np.ones(4))


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    stored = StoredOutputs(0, tmp_path / "file")
    with pytest.raises(EvaluatorInputError, match=r"cache_dir: cannot write 32 bytes .*file"):
        stored.append((np.ones(4),))
