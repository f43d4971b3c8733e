from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest

from autosearch.samplers import History, Known, SeededSampler, make_sampler
from autosearch.space import Configuration, SearchSpace
from tests.autosearch.spaces import FEWER, TWENTY_SEVEN

NAMES = ["grid_search", "random", "TPE", "NSGAII", "BruteForce"]


@pytest.mark.parametrize("name", NAMES)
def test_known_ones_are_left_out_and_the_rest_follows(name: str) -> None:
    space = SearchSpace(TWENTY_SEVEN)
    every = list(space)
    first = [every[9], every[3], every[9], every[20]]
    study = optuna.create_study(directions=["minimize", "minimize"])
    trials = {every[3].digest: Known(0, (1.0, 2.0))}
    sampler = SeededSampler(first, make_sampler(name, space, 0, objectives=2))
    order = []
    while (proposal := sampler.propose(History(trials, study))) is not None:
        digest = proposal.configuration.digest
        assert digest not in trials
        order.append(digest)
        trials[digest] = Known(len(trials), (1.0, 2.0))
        if proposal.trial is not None:
            study.tell(proposal.trial, [1.0, 2.0])
    assert order[:2] == [every[9].digest, every[20].digest]
    assert len(order) == len(set(order)) == 26


def test_samplers_of_optuna_learn_from_them() -> None:
    space = SearchSpace(TWENTY_SEVEN)
    (first, *_) = space
    study = optuna.create_study(directions=["minimize", "minimize"])
    sampler = SeededSampler([first], make_sampler("NSGAII", space, 0, objectives=2))
    proposal = sampler.propose(History({}, study))
    assert proposal is not None
    assert proposal.trial is not None
    study.tell(proposal.trial, [1.0, 2.0])
    (trial,) = study.trials
    assert trial.params == space.trial_params(first)[0]
    assert any("generation" in key for key in trial.system_attrs)  # one of its population


def test_they_are_read_when_they_are_needed() -> None:
    space = SearchSpace(TWENTY_SEVEN)
    read: list[int] = []

    def first() -> Iterator[Configuration]:
        for position, configuration in enumerate(space):
            read.append(position)
            yield configuration

    sampler = SeededSampler(first(), make_sampler("random", space, 0))
    assert read == []
    assert sampler.propose(History({})) is not None
    assert read == [0]


def test_refused_ones_are_left_out() -> None:
    space = SearchSpace({"include_fast_ft": [True, False], "per_channel": [True, False]}, rules=FEWER)
    refused = [space.configuration(index) for index in range(4)]
    assert any(each.excluded is not None for each in refused)
    sampler = SeededSampler(refused, make_sampler("random", space, 0))
    trials: dict[str, Known] = {}
    while (proposal := sampler.propose(History(trials))) is not None:
        assert proposal.configuration.excluded is None
        trials[proposal.configuration.digest] = Known(len(trials))
    assert len(trials) == 2
