from __future__ import annotations

import json
import platform
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from autosearch import AutoSearch
from autosearch.errors import StudyError
from autosearch.samplers import Proposal
from autosearch.space import SearchSpace
from autosearch.storage import open_storage, sqlite_url
from autosearch.study import SearchStudy
from autosearch.trial_records import read_trial
from quant import QuantConfig
from tests.autosearch.models import DISTINCT, SPACE
from tests.autosearch.trials import START, make_trial

FINGERPRINT = {"model": "a", "search space": "b", "metric": ["L2", "minimize"]}


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_url(tmp_path) if request.param == "sqlite" else f"journal:{tmp_path / 'journal.log'}"


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(SPACE, QuantConfig())


def opened(url: str, fingerprint: dict[str, Any] = FINGERPRINT, name: str | None = "mine") -> SearchStudy:
    return SearchStudy(open_storage(url), fingerprint, ["minimize"], name)


def begin(study: SearchStudy, space: SearchSpace, position: int) -> int:
    configuration = list(space)[position]
    return study.start(Proposal(configuration), *space.trial_params(configuration))


def test_what_is_recorded_is_read_again(url: str, space: SearchSpace) -> None:
    study = opened(url)
    configuration = list(space)[2]
    number = begin(study, space, 2)
    described = {
        "digest": configuration.digest,
        "short": configuration.short,
        "params": dict(configuration.params),
        "config": configuration.config.to_dict(),
    }
    ended = [make_trial(number, 0.5, machine=platform.node(), **described)]
    study.finish(ended[0], 1.5)
    failed = begin(study, space, 3)
    configuration = list(space)[3]
    ended.append(make_trial(failed, None, digest=configuration.digest, short=configuration.short))
    study.finish(ended[1], 2.5)

    again = opened(url)
    trials, abandoned = again.recover()
    assert trials[0] == ended[0]
    assert trials[1].outcome == ended[1].outcome
    assert (trials[1].started, trials[1].ended) == (START, START + timedelta(milliseconds=500))
    assert abandoned == []
    assert again.elapsed_s() == 2.5
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert again.study.best_value == 0.5


def test_running_trials_are_set_free_and_never_counted(url: str, space: SearchSpace) -> None:
    begin(opened(url), space, 0)
    study = opened(url)
    assert study.recover() == ([], [next(iter(space)).digest])
    assert [trial.state for trial in study.study.trials] == [TrialState.FAIL]
    assert opened(url).recover() == ([], [])


def test_a_trial_killed_between_its_outcome_and_its_end_is_counted_once(
    url: str, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(url)
    number = begin(study, space, 0)
    monkeypatch.setattr(study, "_end", lambda *_: None)
    study.finish(make_trial(number, 0.25, digest=next(iter(space)).digest), 1.0)
    for _ in range(2):
        again = opened(url)
        trials, abandoned = again.recover()
        assert [trial.outcome.metrics for trial in trials] == [{"L2": 0.25}]
        assert abandoned == []
        (frozen,) = again.study.trials
        assert (frozen.state, frozen.value) == (TrialState.COMPLETE, 0.25)


def test_trials_asked_but_not_begun_are_set_free(url: str) -> None:
    opened(url).study.ask()
    study = opened(url)
    assert study.recover() == ([], [])
    assert read_trial(study.study.trials[0]) is None


def test_a_mismatch_names_what_differs(url: str) -> None:
    opened(url)
    opened(url)  # the same goes on
    with pytest.raises(StudyError, match=r"'mine' is of another search \(its model differs\)"):
        opened(url, {**FINGERPRINT, "model": "z"})
    with pytest.raises(StudyError, match=r"its metric, search space differs"):
        opened(url, {**FINGERPRINT, "search space": "z", "metric": ["L1", "minimize"]})
    with pytest.raises(StudyError, match="its data differs"):
        opened(url, {**FINGERPRINT, "data": "new"})


def test_unnamed_searches_do_not_collide(url: str) -> None:
    one, other = opened(url, name=None), opened(url, {**FINGERPRINT, "model": "z"}, name=None)
    assert one.name != other.name == opened(url, {**FINGERPRINT, "model": "z"}, name=None).name


def test_infinite_values_are_kept(url: str, space: SearchSpace) -> None:
    study = opened(url)
    study.finish(make_trial(begin(study, space, 0), float("inf")), 0.0)
    assert opened(url).recover()[0][0].outcome.metrics == {"L2": float("inf")}


def test_sqlite_writes_ahead(tmp_path: Path) -> None:
    opened(sqlite_url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("nonsense", r"give postgresql\+psycopg://.* or journal:PATH"),
        ("absent://host/name", r"give postgresql\+psycopg://.* or journal:PATH"),
        ("sqlite:////absent/directory/study.db", "its folder has to exist"),
        ("journal:/absent/directory/j", "its folder has to exist"),
    ],
)
def test_storages_that_cannot_be_opened_are_refused(url: str, remedy: str) -> None:
    with pytest.raises(StudyError, match=f"storage '{url}': cannot be opened: .*; {remedy}"):
        open_storage(url)


def test_a_search_in_a_journal_goes_on(
    model: Path, feeds: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "journal.log"
    journal = {**settings, "storage": f"journal:{path}"}
    AutoSearch(
        None, {**journal, "search_stop_condition": {"iteration_limit": 5}}, model, feeds
    ).search_model()
    search = AutoSearch(None, journal, model, feeds)
    assert len(search.search_model()) == DISTINCT
    assert search.study is not None
    assert len(search.study.trials) == DISTINCT
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_time_of_earlier_runs_counts(model: Path, feeds: list[Any], settings: dict[str, Any]) -> None:
    def limited(**condition: float) -> AutoSearch:
        search = AutoSearch(None, {**settings, "search_stop_condition": condition}, model, feeds)
        search.search_model()
        return search

    first = limited(iteration_limit=3).result
    assert first is not None
    recorded = first.trials[-1].ended - first.trials[0].started
    second = limited(time_limit=first.seconds / 1000).result
    assert second is not None
    assert len(second.trials) == 3
    assert second.stop_reason.startswith("time_limit: ")
    third = limited(time_limit=first.seconds + 3600).result
    assert third is not None
    assert len(third.trials) == DISTINCT
    new = third.trials[-1].ended - third.trials[3].started
    assert third.seconds >= (recorded + new).total_seconds()
