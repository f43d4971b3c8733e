from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant.cache import write_atomically


def test_parts_are_written_in_order(tmp_path: Path) -> None:
    write_atomically(tmp_path / "entry", (b"one ", memoryview(b"two")))
    assert (tmp_path / "entry").read_bytes() == b"one two"


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "entry"
    write_atomically(target, b"old")

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("os.replace", fail)
    for data in (b"new", (b"ne", memoryview(b"w"))):
        with pytest.raises(OSError, match="no"):
            write_atomically(target, data)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_an_error_says_which_file_could_not_be_written(tmp_path: Path) -> None:
    def fails() -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*entry'") as raised:
        write_atomically(tmp_path / "entry", fails())
    assert raised.value.errno == errno.ENOSPC
