"""Claims of many processes at once, without the search around them: each has a storage of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from autosearch.errors import StudyError
from autosearch.samplers import History, Known, Proposal, make_sampler
from autosearch.space import SearchSpace
from autosearch.storage import open_storage
from autosearch.study import SearchStudy
from autosearch.trial import Trial
from autosearch.trial_records import digest_of, is_abandoned
from quant import QuantConfig
from tests.autosearch.models import SPACE
from tests.autosearch.trials import make_trial
from tests.machines.fleet import DISTINCT as MANY
from tests.machines.fleet import SPACE as LARGE

FINGERPRINT = {"model": "a"}


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(SPACE, QuantConfig())


@pytest.fixture
def opened(storage: str) -> Iterator[list[SearchStudy]]:
    """Two of one study."""
    made = [SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600) for _ in range(2)]
    yield made
    for study in made:
        study.leave()


def start(study: SearchStudy, space: SearchSpace, position: int) -> int | None:
    configuration = list(space)[position]
    return study.start(Proposal(configuration), *space.trial_params(configuration))


def ended(number: int, space: SearchSpace, position: int, value: float = 0.5) -> Trial:
    configuration = list(space)[position]
    return make_trial(number, value, digest=configuration.digest)


@pytest.mark.parametrize(
    ("algorithm", "workers"),
    [
        ("grid_search", 4),
        pytest.param("TPE", 4, marks=pytest.mark.slow),
        pytest.param("grid_search", 16, marks=pytest.mark.slow),
        pytest.param("TPE", 16, marks=pytest.mark.slow),
    ],
)
def test_every_configuration_is_claimed_once(storage: str, algorithm: str, workers: int) -> None:
    space = SearchSpace(LARGE, QuantConfig())

    def work(worker: int) -> list[str]:
        study = SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600)
        sampler = make_sampler(algorithm, space, worker)
        known: dict[str, Known] = {}
        freed = []
        history, done = History(known, study.begin_stage(None)), list[str]()
        while True:
            news = study.look()
            known |= {trial.digest: Known(trial.number, trial.values) for trial in news.ended}
            freed += news.freed
            proposal = sampler.propose(history)
            while proposal is None and freed:
                frozen = freed.pop()
                configuration = next(each for each in space if each.digest == digest_of(frozen))
                proposal = None if configuration.digest in known else Proposal(configuration)
            if proposal is None:
                if not news.running:
                    study.leave()
                    return done
                continue
            configuration = proposal.configuration
            number = study.start(proposal, *space.trial_params(configuration))
            if number is None:
                continue
            known[configuration.digest] = Known(number, (0.5,))
            assert study.finish(make_trial(number, 0.5, digest=configuration.digest), 0.0)
            done.append(configuration.digest)

    with ThreadPoolExecutor(workers) as pool:
        claimed = Counter(digest for done in pool.map(work, range(workers)) for digest in done)
    assert set(claimed.values()) == {1}
    if algorithm == "grid_search":
        assert len(claimed) == MANY


def test_who_comes_second_withdraws(opened: list[SearchStudy], space: SearchSpace) -> None:
    one, other = opened
    number = start(one, space, 0)
    assert number is not None
    assert start(other, space, 0) is None
    assert start(other, space, 1) is not None
    assert other.look().running.keys() == {number}
    assert one.finish(ended(number, space, 0), 1.0)
    news = other.look()
    assert [trial.number for trial in news.ended] == [number]
    assert news.freed == ()


def test_trials_of_who_left_are_free_again(opened: list[SearchStudy], space: SearchSpace) -> None:
    one, other = opened
    assert start(one, space, 0) is not None
    one.release()
    (freed,) = other.look().freed
    assert not is_abandoned(freed)
    assert start(other, space, 0) is not None


def test_trials_of_who_ended_are_abandoned_and_an_outcome_that_comes_late_is_dropped(
    opened: list[SearchStudy], space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opened
    number = start(one, space, 0)
    assert number is not None
    monkeypatch.setattr(other.parents, "_has_ended", lambda entry: entry["id"] == one.parents.me.id)
    (freed,) = other.look().freed
    assert is_abandoned(freed)
    assert other.abandonments() == {next(iter(space)).digest: 1}
    again = start(other, space, 0)
    assert again is not None
    assert not one.finish(ended(number, space, 0, 0.25), 1.0)
    assert other.finish(ended(again, space, 0, 0.75), 1.0)
    assert [trial.values for trial in one.look().ended] == [(0.75,)]
    states = [trial.state for trial in one.study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


def test_trials_asked_for_by_both_are_tried_by_one_at_most(
    opened: list[SearchStudy], space: SearchSpace
) -> None:
    configuration = next(iter(space))
    params, distributions = space.trial_params(configuration)
    proposals, views = [], [study.begin_stage(None) for study in opened]
    for view in views:
        view.enqueue_trial(params)
        trial = view.ask()
        assert space.suggest(trial).digest == configuration.digest
        proposals.append(Proposal(configuration, trial))
    numbers = [
        study.start(proposal, params, distributions)
        for study, proposal in zip(opened, proposals, strict=True)
    ]
    assert numbers == [0, None]
    assert [view.trials[0].state for view in views] == [TrialState.RUNNING, TrialState.FAIL]
    first, second = opened[0].study.trials
    assert (first.state, second.state) == (TrialState.RUNNING, TrialState.FAIL)
    assert second.user_attrs["repeat_of"] == 0


def test_what_others_finish_their_samplers_learn(opened: list[SearchStudy], space: SearchSpace) -> None:
    one, other = opened
    views = [study.begin_stage(None) for study in opened]
    number = start(one, space, 0)
    assert number is not None
    one.finish(replace(make_trial(number, 0.25), digest=next(iter(space)).digest), 1.0)
    for _ in range(2):
        other.look()
        assert [trial.value for trial in views[1].trials] == [0.25]


def test_failures_of_a_run_without_success_are_tried_again_by_who_is_alone(
    storage: str, space: SearchSpace
) -> None:
    one = SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600)
    number = start(one, space, 0)
    assert number is not None
    one.finish(replace(make_trial(number), digest=next(iter(space)).digest), 1.0)
    beside = SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600)
    assert len(beside.recover()[0]) == 1  # the first one may still go on
    for study in (one, beside):
        study.leave()
    alone = SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600)
    assert alone.recover() == ([], [])
    later = SearchStudy(open_storage(storage), FINGERPRINT, ["minimize"], "shared", 3600)
    assert later.recover() == ([], [])
    for study in (alone, later):
        study.leave()


def test_another_search_is_refused(opened: list[SearchStudy], storage: str) -> None:
    with pytest.raises(StudyError, match="is of another search"):
        SearchStudy(open_storage(storage), {"model": "z"}, ["minimize"], "shared", 3600)
