"""The float model's columns are made once for all configurations, and never decide on a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant import Pipeline
from quant.cache import StageCache
from quant.finetune import float_side
from quant.finetune.block import Block
from quant.finetune.float_side import decode, encode
from quant.graph.segment_runner import SegmentRunner
from tests.quant.finetune.test_finetune import FEEDS, config, network
from tests.quant.graphs import floats, pipeline

OPTIONS: dict[str, Any] = {"OptimAlgorithm": "gptq", "MaxColumns": 1024}


def quantized(stages: Pipeline, **changes: Any) -> bytes:
    return stages.quantize(config({**OPTIONS, **changes})).model.SerializeToString(deterministic=True)


def cached(directory: Path) -> Pipeline:
    own = pipeline(network(), FEEDS)
    return Pipeline(own.float_model, own.data, StageCache(directory))


@pytest.fixture
def segments(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes each segment had that was run."""
    ran: list[int] = []
    run = SegmentRunner._run

    def counted(self: SegmentRunner, segment: Any) -> Any:
        ran.append(len(segment.nodes))
        return run(self, segment)

    monkeypatch.setattr(SegmentRunner, "_run", counted)
    return ran


def test_later_configurations_do_not_run_the_float_model(segments: list[int]) -> None:
    stages = pipeline(network(), FEEDS)
    first = quantized(stages)
    assert len(segments) == 10  # five layers in each model
    again = quantized(stages, OptimAlgorithm="adaquant")
    assert len(segments) == 15 and again != first
    assert stages.cache.counts["float columns"].memory_hits == 5
    assert quantized(stages, OptimAlgorithm="adaquant") == again
    quantized(stages, FixedSeed=7)
    assert stages.cache.counts["float columns"].computed == 10  # others are drawn


def test_processes_share_them_on_disk(tmp_path: Path, segments: list[int]) -> None:
    first = quantized(cached(tmp_path))
    segments.clear()
    stages = cached(tmp_path)
    assert quantized(stages, DropRatio=0.0) != first
    assert segments == []  # with float inputs alone nothing has to run
    assert quantized(stages) == first
    assert stages.cache.counts["float columns"].disk_hits == 5


@pytest.mark.parametrize("room", [0, 200_000])
def test_the_float_model_runs_again_for_what_does_not_fit(
    room: int, monkeypatch: pytest.MonkeyPatch, segments: list[int]
) -> None:
    wanted = quantized(pipeline(network(), FEEDS))
    monkeypatch.setattr(float_side, "KEPT_BYTES", room)
    stages = pipeline(network(), FEEDS)
    assert quantized(stages) == wanted
    segments.clear()
    assert quantized(stages) == wanted
    kept = list(stages.cache._memory["float columns"]._entries.values())
    assert sum(size for _, size in kept) <= room
    assert any(found is None for (found, _) in kept) and len(segments) > 5
    assert (room > 0) == any(found is not None for (found, _) in kept)


def test_columns_survive_their_encoding() -> None:
    kept = [
        [[Block(floats(2, 3, 6, 5), 3, 1, 4)], [Block(floats(1, 4, 1, 7, seed=1), 1, 1, 1)] * 2],
        [[], [Block(np.zeros((1, 4, 1, 0), np.float32), 1, 1, 1)]],
    ]
    found = decode(memoryview(b"".join(encode(kept))))
    assert found is not None
    for one, other in zip(found, kept, strict=True):
        for blocks, others in zip(one, other, strict=True):
            for block, wanted in zip(blocks, others, strict=True):
                np.testing.assert_array_equal(block.values, wanted.values)
                assert (block.taps, block.dilation, block.length) == (
                    wanted.taps,
                    wanted.dilation,
                    wanted.length,
                )
    assert decode(memoryview(b"".join(encode(None)))) is None
