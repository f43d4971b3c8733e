"""What is evaluated does not depend on how many workers there are, nor on which of them is done first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosearch import AutoSearch
from autosearch.objective import Objective
from autosearch.workers import Done, InProcess
from tests.autosearch.models import make_feeds


class Shuffled(InProcess):
    """Several slots, of which any may be done first."""

    def __init__(self, objective: Objective, slots: int) -> None:
        super().__init__(objective)
        self.slots = slots
        self._rng = np.random.default_rng(slots)

    def next(self, patience_s: float | None = None) -> Done:
        self._rng.shuffle(self._waiting)
        return super().next()


@pytest.mark.parametrize(
    "algorithm",
    ["random", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grid_search", "priority"))],
)
def test_the_same_seed_gives_the_same_configurations_with_any_number_of_jobs(
    model: Path, settings: dict[str, Any], algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for jobs in (1, 2, 5):
        monkeypatch.setattr(
            "autosearch.run.make_executor",
            lambda objective, settings, abandoned: Shuffled(objective, settings.n_jobs),
        )
        changed = {
            **settings,
            "search_algo": algorithm,
            "search_seed": 5,
            "search_stop_condition": {"iteration_limit": 7},
            "search_evaluator": lambda path: 0.5,
            "search_output_dir": str(model.parent / str(jobs)),
            "n_jobs": jobs,
        }
        search = AutoSearch(None, changed, model, make_feeds())
        search.search_model()
        assert search.result is not None
        found.append({trial.digest for trial in search.result.trials})
    assert len(found[0]) == 7
    assert found[0] == found[1] == found[2]
