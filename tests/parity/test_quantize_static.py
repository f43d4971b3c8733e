from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity.configurations import MINMAX, OPTIONS
from tests.parity.models import CASES
from tests.parity.reference import assert_same_numbers, both
from tests.quant.graphs import run


@pytest.mark.parametrize("config", MINMAX)
@pytest.mark.parametrize("case", CASES)
def test_same_integers(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **MINMAX[config]))


@pytest.mark.parametrize("config", OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_same_integers_with_options(case: str, config: str, tmp_path: Path) -> None:
    assert_same_numbers(*both(*CASES[case](), tmp_path, **OPTIONS[config]))


LEFT_OUT = {
    "encoder_dynamo21": ["Reshape", "Transpose"],
    "encoder_script17": ["Reshape"],
    "decoder_dynamo20": ["Transpose"],
    "detector_script16": ["Reshape", "Slice"],
    "residual_script13": ["MaxPool"],
}


@pytest.mark.parametrize("config", ["QInt8-QInt8", "QUInt8-QInt8 per channel", "QInt16-QInt8"])
@pytest.mark.parametrize("case", LEFT_OUT)
def test_same_integers_with_nodes_left_out(case: str, config: str, tmp_path: Path) -> None:
    model, feeds = CASES[case]()
    moving = [node.name for node in model.graph.node if node.op_type in LEFT_OUT[case]]
    for name in (moving[-1:], moving):
        ours, theirs = both(model, feeds, tmp_path, nodes_to_exclude=name, **MINMAX[config])
        assert_same_numbers(ours, theirs)
        assert all(np.isfinite(output).all() for output in run(ours, feeds[0]))
