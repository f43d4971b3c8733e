from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from autosearch.mirror import Mirror
from autosearch.samplers import History, make_sampler
from autosearch.samplers.contract import Known, Proposal
from autosearch.space import SearchSpace
from autosearch.storage import open_storage, running_trial, sqlite_url
from autosearch.study import SearchStudy, known
from autosearch.trial import Trial
from tests.autosearch.trials import make_trial

SPACE: dict[str, Any] = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy"],
    "per_channel": [False, True],
    "include_cle": [False, True],
    "extra_options": {"Percentile": [99.0, 99.5, 99.9]},
}


def opened(directory: Path, names: int = 1) -> SearchStudy:
    directory.mkdir(exist_ok=True)
    return SearchStudy(open_storage(sqlite_url(directory)), {"model": "m"}, ["minimize"] * names, "mine")


def search(study: SearchStudy, sampler: str, count: int, objectives: int = 1) -> list[str]:
    """Proposes and finishes some trials; the digests."""
    space = SearchSpace(SPACE)
    asked, history = make_sampler(sampler, space, 1, objectives=objectives), {}
    for trial in study.recover()[0]:
        history[trial.digest] = trial
    view, digests = History(_known(history), study.begin_stage(None)), []
    for _ in range(count):
        proposal = asked.propose(view)
        assert proposal is not None
        number = study.start(proposal, *space.trial_params(proposal.configuration))
        trial = make_trial(number, 0.5 + number, digest=proposal.configuration.digest)
        if objectives > 1:
            trial = replace(trial, values=(0.5 + number, -float(number)))
        study.finish(trial, 0.0)
        history[trial.digest] = trial
        view = History(_known(history), view.study)
        digests.append(trial.digest)
    return digests


def _known(history: dict[str, Trial]) -> dict[str, Known]:
    return {digest: known(trial) for digest, trial in history.items()}


@pytest.mark.parametrize("sampler", ["TPE", "NSGAII", "QMC"])
def test_the_study_has_evaluations_alone(tmp_path: Path, sampler: str) -> None:
    """Twenty configurations: samplers repeat themselves, and nobody else needs to know."""
    if sampler == "QMC":
        pytest.importorskip("scipy")
    study = opened(tmp_path)
    digests = search(study, sampler, 14)
    recorded = study.study.trials
    assert [trial.user_attrs["configuration"]["digest"] for trial in recorded] == digests
    assert all(trial.state is TrialState.COMPLETE and trial.params for trial in recorded)


def test_samplers_find_their_notes_again(tmp_path: Path) -> None:
    """NSGA-II notes the generation of each trial: without it a resumed search would begin from none."""
    first = opened(tmp_path, 2)
    search(first, "NSGAII", 5, objectives=2)
    again = opened(tmp_path, 2)
    seen = again.begin_stage(None)
    generations = [
        value for t in seen.trials for key, value in t.system_attrs.items() if key.endswith("generation")
    ]
    assert generations == [0] * 5
    assert [trial.values for trial in seen.trials] == [trial.values for trial in first.study.trials]


def test_sequences_go_on_where_they_stopped(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    whole = search(opened(tmp_path / "whole"), "QMC", 8)
    first = search(opened(tmp_path / "parts"), "QMC", 4)
    assert first + search(opened(tmp_path / "parts"), "QMC", 4) == whole


def test_what_others_found_is_learned_once_it_has_ended(tmp_path: Path) -> None:
    study = opened(tmp_path)
    view = study.begin_stage("second")
    distributions = {"x": FloatDistribution(0, 1)}
    for state, stage in (
        (TrialState.COMPLETE, "second"),
        (TrialState.RUNNING, "second"),
        (TrialState.COMPLETE, "first"),
    ):
        value = 0.5 if state is TrialState.COMPLETE else None
        study.learn(
            create_trial(
                state=state,
                value=value,
                params={"x": 0.25},
                distributions=distributions,
                user_attrs={"stage": stage},
            )
        )
    (learned,) = view.trials
    assert (learned.params, learned.value) == ({"x": 0.25}, 0.5)


def test_constraints_reach_the_sampler_and_the_record(tmp_path: Path) -> None:
    study = opened(tmp_path)
    space = SearchSpace(SPACE)
    view = History({}, study.begin_stage(None))
    proposal = make_sampler("TPE", space, 1).propose(view)
    assert isinstance(proposal, Proposal) and view.study is not None
    number = study.start(proposal, *space.trial_params(proposal.configuration))
    study.finish(replace(make_trial(number, 0.5), violations={"size": 2.0}), 0.0)
    (recorded,), (seen,) = study.study.trials, view.study.trials
    assert recorded.system_attrs == seen.system_attrs
    assert "2.0" in str(recorded.system_attrs)


@pytest.mark.parametrize("count", [0, 3, 200])
def test_parameters_written_together_are_read_as_optuna_writes_them(tmp_path: Path, count: int) -> None:
    distributions = {
        f"p{i}": FloatDistribution(0, 1) if i % 2 else CategoricalDistribution([4, "a", None, 2.5])
        for i in range(count)
    }
    params = {
        name: 0.25 if isinstance(own, FloatDistribution) else None for name, own in distributions.items()
    }
    template = running_trial(params, distributions, {"stage": "s"}, {"noted": 1})
    read = []
    for name, storage in (
        ("ours", open_storage(f"sqlite:///{tmp_path}/ours.db")),
        ("optuna", RDBStorage(f"sqlite:///{tmp_path}/optuna.db")),
    ):
        study = optuna.create_study(storage=storage, study_name=name)
        storage.create_new_trial(study._study_id, template_trial=template)
        path = f"sqlite:///{tmp_path}/{name}.db"
        (trial,) = optuna.load_study(study_name=name, storage=path).trials
        read.append((trial.params, trial.distributions, trial.user_attrs, trial.system_attrs, trial.state))
    assert read[0] == read[1]
    assert read[0][0] == params


def test_a_mirror_leaves_out_what_has_not_ended() -> None:
    running = running_trial({}, {}, {})
    assert Mirror("s", [optuna.study.StudyDirection.MINIMIZE], [running]).study.trials == []
