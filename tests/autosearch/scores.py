"""Evaluators that score a candidate by its configuration, whatever the quantizer makes of it."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

Score = Callable[[dict[str, Any]], float]


class ByConfiguration:
    """Finds a model's configuration in the study, by its file name; the float model scores 0."""

    direction = "minimize"

    def __init__(self, output_dir: str, score: Score) -> None:
        self.database = Path(output_dir) / "study.db"
        self.score = score
        self.calls: list[str] = []

    def __call__(self, path: str) -> float:
        stem = Path(path).stem
        if not self.database.exists() or stem == "model":
            return 0.0
        self.calls.append(stem)
        query = "select value_json from trial_user_attributes where key = 'configuration'"
        with closing(sqlite3.connect(self.database, timeout=60)) as connection:
            described = [json.loads(text) for (text,) in connection.execute(query)]
        (config, *_) = [each["config"] for each in described if each["digest"].startswith(stem)]
        return self.score(config)


METHODS = {"MinMax": 3.0, "Percentile": 1.0, "Entropy": 2.0}


def calibration_loss(config: dict[str, Any]) -> float:
    """Least, 1, for Percentile 99.9 with per_channel; no two alike."""
    percentile = config["extra_options"]["Percentile"]
    part = 0.1 * (100 - percentile) if config["calibrate_method"] == "Percentile" else 0.0
    return METHODS[config["calibrate_method"]] - 0.01 + part + (0.0 if config["per_channel"] else 0.3)


def finetune_loss(config: dict[str, Any]) -> float:
    """Least, 0, at 150 iterations and a learning rate of 1e-5; one decade or 50 iterations off cost 1."""
    finetune = config["extra_options"]["FastFinetune"]
    decades = math.log10(finetune["LearningRate"]) + 5
    return decades**2 + ((finetune["NumIterations"] - 150) / 50) ** 2


def whole_loss(config: dict[str, Any]) -> float:
    """FastFinetune takes half of the loss at its best, less elsewhere."""
    loss = calibration_loss(config)
    return loss * (0.5 + 0.01 * finetune_loss(config)) if config["include_fast_ft"] else loss


def finetunes(trial: Any) -> tuple[int, float]:
    """NumIterations and LearningRate of a trial."""
    finetune = trial.config["extra_options"]["FastFinetune"]
    return finetune["NumIterations"], finetune["LearningRate"]
