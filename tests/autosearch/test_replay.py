from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autosearch.errors import ConfigError
from autosearch.files import read_entry
from autosearch.replay import is_sampled_config, key_of_trial, recorded_config
from quant import QuantConfig

INTEGER = {"name": "integer", "data_in_width": 8, "data_in_frac_width": None, "weight_width": 4}
MASE: dict[str, Any] = {
    "seq_blocks_1": {"config": {"name": None}},
    "seq_blocks_2": {"config": INTEGER},
    "default": {"config": {"name": "integer", "bypass": True, "weight_width": 8}},
    "accelerator": "cuda",
}
LAYERS = {"by": "name", "seq_blocks_1": {"name": None}, "seq_blocks_2": INTEGER}


def test_records_of_mase_have_formats_alone() -> None:
    assert recorded_config({"number": 3, "sampled_config": MASE}) == {"layers": LAYERS}
    assert recorded_config({"user_attrs_sampled_config": MASE}) == {"layers": LAYERS}
    assert recorded_config({"sampled_config": {"per_channel": True}}) is None


def test_keys_beside_the_layers_count() -> None:
    sampled = {**MASE, "calibrate_method": "Entropy", "extra_options.CalibDataSize": 20}
    found = recorded_config({"sampled_config": sampled})
    expected = {"calibrate_method": "Entropy", "extra_options": {"CalibDataSize": 20}, "layers": LAYERS}
    assert found == expected


def test_own_records_have_the_whole_configuration() -> None:
    config = QuantConfig(per_channel=True).to_dict()
    assert recorded_config({"config": config, "sampled_config": MASE}) is config
    assert not is_sampled_config({"0": {"config": config}})


@pytest.mark.parametrize("reference", ["mase.json#1", "mase.json"])
def test_entries_of_mase_are_read(reference: str, tmp_path: Path) -> None:
    records = {"0": {"number": 8, "sampled_config": MASE}, "1": {"number": 16, "sampled_config": MASE}}
    (tmp_path / "mase.json").write_text(json.dumps(records))
    assert read_entry(f"{tmp_path}/{reference}")["config"] == QuantConfig(layers=LAYERS)
    assert read_entry(f"{tmp_path}/mase.json", 16)["number"] == 16


def test_a_file_may_be_one_sampled_config(tmp_path: Path) -> None:
    (tmp_path / "sampled.json").write_text(json.dumps(MASE))
    assert read_entry(str(tmp_path / "sampled.json"))["config"] == QuantConfig(layers=LAYERS)


def test_a_trial_that_is_not_there_lists_those_that_are() -> None:
    records = {"0": {"number": 8}, "1": {"number": 16}}
    assert key_of_trial(records, 16, "--config") == "1"
    with pytest.raises(ConfigError, match="--config: no trial 1; there are: 8, 16"):
        key_of_trial(records, 1, "--config")
