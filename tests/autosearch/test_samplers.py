from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autosearch import samplers
from autosearch.samplers import EXCLUDED, REPEAT_OF, History, Known, OptunaSampler, make_sampler
from autosearch.samplers.random import weighted_order
from autosearch.space import SearchSpace
from autosearch.space.configuration import Configuration
from quant.errors import ConfigError
from tests.autosearch.spaces import FEWER, SITES, TWENTY_SEVEN

optuna.logging.set_verbosity(optuna.logging.WARNING)

OWN = ["grid_search", "random", "priority"]
OF_OPTUNA = ["TPE", "RandomSampler", "NSGAII", "NSGAIIISampler", "QMC", "BruteForce", "CmaEs", "GPS"]
NEEDS = {"CmaEs": "cmaes", "GPS": "torch", "QMC": "scipy"}
OPTUNA = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in NEEDS and find_spec(NEEDS[name]) is None, reason=f"needs {NEEDS.get(name)}"
        ),
    )
    for name in OF_OPTUNA
]
ALL = [*OWN, *OPTUNA]

CONDITIONAL: list[dict[str, Any]] = [
    {
        "calibrate_method": ["MinMax", "Percentile", "Entropy"],
        "include_sq": [False, True],
        "nodes_to_exclude": [[], ["a"]],
        "extra_options": {"Percentile": [99.0, 99.9], "CalibMovingAverage": [False, True]},
    },
    {"calibrate_method": ["MinMax", "MinMSE"], "per_channel": [False, True]},
]


class Search:
    """The search loop, reduced to what a sampler sees of it."""

    def __init__(self, space: SearchSpace, name: str, seed: int = 0, objectives: int = 1) -> None:
        self.space, self.name, self.seed = space, name, seed
        self.study = optuna.create_study(directions=["minimize"] * objectives)
        self.trials: dict[str, Known] = {}
        self.resume()

    def resume(self) -> None:
        self.sampler = make_sampler(self.name, self.space, self.seed)

    def propose(self) -> tuple[Configuration, optuna.Trial] | None:
        proposal = self.sampler.propose(History(self.trials, self.study))
        if proposal is None:
            return None
        configuration, trial = proposal.configuration, proposal.trial
        if trial is None:
            self.study.enqueue_trial(self.space.trial_params(configuration)[0])
            trial = self.study.ask()
            assert self.space.suggest(trial) == configuration
        assert configuration.digest not in self.trials
        assert configuration.excluded is None
        self.trials[configuration.digest] = Known(trial.number)
        return configuration, trial

    def run(self, count: int | None = None) -> list[str]:
        done: list[str] = []
        while count is None or len(done) < count:
            proposed = self.propose()
            if proposed is None:
                break
            configuration, trial = proposed
            values = tuple(
                int(configuration.digest[i : i + 4], 16) / 65536 for i in range(len(self.study.directions))
            )
            self.study.tell(trial, list(values))
            self.trials[configuration.digest] = Known(trial.number, values)
            done.append(configuration.digest)
        return done


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("written", [TWENTY_SEVEN, CONDITIONAL])
def test_every_configuration_once_and_then_nothing(name: str, written: Any) -> None:
    space = SearchSpace(written)
    search = Search(space, name)
    done = search.run()
    assert sorted(done) == sorted(configuration.digest for configuration in space)
    assert search.propose() is None
    assert search.propose() is None


LAYERED: dict[str, Any] = {
    "calibrate_method": ["MinMax", "Entropy"],
    "layers": {
        "share": "type",
        "linear": {
            "name": ["integer", "int8", "NA"],
            "data_in_width": 8,
            "weight_width": [4, 8],
            "weight_frac_width": ["NA", 4],
        },
        "relu": {"name": ["bfloat16", "NA"]},
    },
}
"""Layers with several formats, of which one makes the calibration matter, and of which some are alike."""


@pytest.mark.parametrize("name", ALL)
def test_every_configuration_of_layers_once_and_then_nothing(name: str) -> None:
    space = SearchSpace(LAYERED, layers=lambda: SITES)
    assert space.size == (3 + 1 + 2) * 2  # 8 bits with 4 behind the point are one; int8 counts twice
    search = Search(space, name)
    assert sorted(search.run()) == sorted(configuration.digest for configuration in space)
    assert search.propose() is None


HUGE: dict[str, Any] = {
    "layers": {
        "default": {
            "name": ["integer", "int8", "float8e4m3fn", "NA"],
            "data_in_width": {"type": "int", "low": 2, "high": 16},
            "weight_width": {"type": "int", "low": 2, "high": 16},
            "weight_frac_width": {"type": "int", "low": -4, "high": 12},
        }
    }
}


@pytest.mark.parametrize("name", ["random", *OPTUNA])
def test_layers_beyond_counting(name: str) -> None:
    space = SearchSpace(HUGE, layers=lambda: SITES)
    assert not space.is_enumerable
    assert len(set(Search(space, name).run(12))) == 12
    assert Search(space, name, seed=1).run(4) == Search(space, name, seed=1).run(4)


@pytest.mark.parametrize("name", ["grid_search", "priority"])
def test_walks_refuse_layers_beyond_counting(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"points are too many to enumerate .* search with 'random' or 'TPE'"
    ):
        make_sampler(name, SearchSpace(HUGE, layers=lambda: SITES))


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_proposals(name: str) -> None:
    space = SearchSpace(CONDITIONAL)
    assert Search(space, name, seed=3).run(12) == Search(space, name, seed=3).run(12)


@pytest.mark.parametrize("name", ["random", *OPTUNA])
def test_other_seed_other_proposals(name: str) -> None:
    space = SearchSpace(TWENTY_SEVEN)
    assert len({tuple(Search(space, name, seed=seed).run(10)) for seed in range(4)}) > 1


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_search_repeats_nothing(name: str) -> None:
    space = SearchSpace(TWENTY_SEVEN)
    search = Search(space, name)
    before = search.run(11)
    search.resume()
    after = search.run()
    assert len({*before, *after}) == len(before) + len(after) == 27


@pytest.mark.parametrize("name", OWN)
def test_a_resumed_walk_is_the_uninterrupted_one(name: str) -> None:
    space = SearchSpace(TWENTY_SEVEN)
    search = Search(space, name)
    before = search.run(11)
    search.resume()
    assert before + search.run() == Search(space, name).run()


@pytest.mark.parametrize("name", ALL)
def test_configurations_in_flight_are_not_proposed_again(name: str) -> None:
    search = Search(SearchSpace(TWENTY_SEVEN), name)
    flying = [search.propose() for _ in range(27)]
    assert None not in flying
    assert search.propose() is None


@pytest.mark.parametrize(
    "name", ["TPE", "NSGAII", "QMC", "NSGAIIISampler", "GPS", "BruteForce", "grid_search"]
)
def test_several_objectives(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    search = Search(SearchSpace(TWENTY_SEVEN), name, objectives=2)
    assert len(search.run()) == 27
    for trial in search.study.trials:  # what was proposed again was told what was known
        known = trial.user_attrs.get(REPEAT_OF, trial.number)
        assert trial.values == search.study.trials[known].values


@pytest.mark.parametrize("name", ["random", *(one for one in OPTUNA if "BruteForce" not in one.values)])
def test_continuous_ranges(name: str) -> None:
    space = SearchSpace(
        {
            "calibrate_method": ["MinMax", "Percentile"],
            "extra_options": {"Percentile": {"type": "float", "low": 99, "high": 100}},
        }
    )
    assert len(set(Search(space, name).run(15))) == 15


@pytest.mark.parametrize("name", ["grid_search", "priority", "BruteForce"])
def test_walks_refuse_continuous_ranges(name: str) -> None:
    written = {"type": "float", "low": 99, "high": 100}
    with pytest.raises(ConfigError, match=r"search_space.extra_options.Percentile: .* give it a step"):
        make_sampler(name, SearchSpace({"extra_options": {"Percentile": written}}))


def test_repeats_are_told_what_is_known() -> None:
    search = Search(SearchSpace(TWENTY_SEVEN), "TPE")
    search.run()
    repeats = [trial for trial in search.study.trials if REPEAT_OF in trial.user_attrs]
    assert repeats
    for trial in repeats:
        original = search.study.trials[trial.user_attrs[REPEAT_OF]]
        assert trial.values == original.values
        assert trial.params == original.params
    assert len(search.study.trials) == 27 + len(repeats)


def test_repeats_of_what_has_no_value_are_told_as_failed() -> None:
    space = SearchSpace({"per_channel": [False, True]})
    search = Search(space, "RandomSampler")
    assert search.propose() is not None
    assert search.propose() is not None
    assert search.propose() is None
    states = Counter(trial.state for trial in search.study.trials)
    assert states[TrialState.RUNNING] == 2
    assert states[TrialState.COMPLETE] == 0


def test_what_rules_refuse_by_itself_is_not_suggested() -> None:
    space = SearchSpace({"include_fast_ft": [True, False], "per_channel": [True, False]}, rules=FEWER)
    search = Search(space, "TPE")
    assert len(search.run()) == 2
    assert not any(EXCLUDED in trial.user_attrs for trial in search.study.trials)
    assert search.study.trials[0].params["include_fast_ft"] is False


def test_what_rules_refuse_is_told_as_pruned() -> None:
    space = SearchSpace({"include_fast_ft": [True], "per_channel": [True, False]}, rules=FEWER)
    search = Search(space, "TPE")
    assert search.run() == []
    assert [trial.state for trial in search.study.trials] == [TrialState.PRUNED]
    assert "include_fast_ft" in search.study.trials[0].user_attrs[EXCLUDED]


def test_optuna_needs_a_study() -> None:
    with pytest.raises(ValueError, match=r"need History\.study"):
        make_sampler("TPE", SearchSpace(TWENTY_SEVEN)).propose(History({}))


def test_tpe_learns_through_the_study() -> None:
    """One study for all: without learning, the mean loss would be 2.9."""
    space = SearchSpace(
        {
            "calibrate_method": "Percentile",
            "extra_options": {"Percentile": {"type": "float", "low": 90, "high": 100}},
        }
    )
    study, trials = optuna.create_study(), dict[str, Known]()
    sampler, losses = make_sampler("TPE", space, 0), []
    for _ in range(40):
        proposal = sampler.propose(History(trials, study))
        assert proposal is not None
        assert proposal.trial is not None
        loss = abs(proposal.configuration.params["extra_options.Percentile"] - 97.0)
        study.tell(proposal.trial, loss)
        trials[proposal.configuration.digest] = Known(proposal.trial.number, (loss,))
        losses.append(loss)
    assert np.mean(losses[20:]) < 2.9 / 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GRID_SEARCH", samplers.GridSampler),
        ("Random", samplers.RandomSampler),
        ("Priority", samplers.PrioritySampler),
    ],
)
def test_own_samplers_by_name(name: str, kind: type) -> None:
    assert isinstance(make_sampler(name, SearchSpace(TWENTY_SEVEN)), kind)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("tpe", "TPESampler"),
        ("TPESampler", "TPESampler"),
        ("nsgaii", "NSGAIISampler"),
        ("randomsampler", "RandomSampler"),
        ("NSGAIIISampler", "NSGAIIISampler"),
    ],
)
def test_samplers_of_optuna_by_name(name: str, class_name: str) -> None:
    made = make_sampler(name, SearchSpace(TWENTY_SEVEN))
    assert isinstance(made, OptunaSampler)
    assert type(made.sampler).__name__ == class_name


@pytest.mark.parametrize(("name", "nearest"), [("TPEE", "TPE"), ("gridsearch", "grid_search")])
def test_unknown_names_are_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"search_algo: unknown sampler {name!r}; did you mean {nearest!r}"):
        make_sampler(name, SearchSpace(TWENTY_SEVEN))


@pytest.mark.parametrize(("name", "extra"), [("CmaEs", "samplers"), ("GPS", "gp"), ("QMC", "samplers")])
def test_missing_packages_and_their_extra_are_named(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosearch.samplers.by_name.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"{name!r} needs .*{NEEDS[name]}.*autosearch\[{extra}\]"):
        make_sampler(name, SearchSpace(TWENTY_SEVEN))


def test_priority_is_cheapest_first() -> None:
    space = SearchSpace(
        {"calibrate_method": ["Entropy", "MinMax", "Percentile"], "include_cle": [True, False]}
    )
    search = Search(space, "priority")
    found = [search.propose() for _ in range(6)]
    costs = [configuration.cost_s for configuration, _ in filter(None, found)]
    assert costs == sorted(costs)
    assert len(costs) == 6


def test_random_draws_fall_with_cost() -> None:
    """The first draw has probability w_i / sum w; the second is one of the rest, in proportion."""
    weight, rounds = np.array([4.0, 2.0, 1.0, 1.0]), 20_000
    generator = np.random.default_rng(0)
    orders = np.array([weighted_order(weight, generator) for _ in range(rounds)])
    first = np.bincount(orders[:, 0], minlength=4) / rounds
    np.testing.assert_allclose(first, weight / weight.sum(), atol=4 * 0.5 / np.sqrt(rounds))
    after_first = orders[orders[:, 0] == 0, 1]
    second = np.bincount(after_first, minlength=4) / after_first.size
    np.testing.assert_allclose(second, [0, 0.5, 0.25, 0.25], atol=4 * 0.5 / np.sqrt(after_first.size))


def test_rejection_draws_fall_with_cost() -> None:
    """Without enumeration, the share of each configuration follows the same weights."""
    written = {"calibrate_method": ["MinMax", "Entropy", "Percentile"]}
    listed, unlisted = SearchSpace(written), SearchSpace(written, limit=0)
    weight = {c.digest: 1 / c.cost_s for c in listed}
    rounds = 2000
    drawn: Counter[str] = Counter()
    for seed in range(rounds):
        proposal = make_sampler("random", unlisted, seed).propose(History({}))
        assert proposal is not None
        drawn[proposal.configuration.digest] += 1
    for digest, expected in weight.items():
        share = expected / sum(weight.values())
        assert drawn[digest] / rounds == pytest.approx(share, abs=4 * 0.5 / np.sqrt(rounds))


def test_rejection_ends_when_a_small_space_is_exhausted() -> None:
    space = SearchSpace(TWENTY_SEVEN, limit=0)
    assert len(Search(space, "random").run()) == 27
    assert len(Search(space, "TPE").run()) == 27
    assert Search(SearchSpace({"include_fast_ft": [True]}, rules=FEWER, limit=0), "random").run() == []


def test_a_trillion_points_are_drawn_from_without_enumeration() -> None:
    space = SearchSpace(
        {
            "calibrate_method": ["MinMax", "Percentile", "Entropy", "MinMSE", "NonOverflow"],
            "weight_type": ["QInt8", "QUInt8"],
            "include_cle": [False, True],
            "include_fast_ft": [False, True],
            "extra_options": {
                "Percentile": {"type": "float", "low": 99, "high": 99.999, "step": 0.001},
                "CalibDataSize": {"type": "int", "low": 1, "high": 10_000},
                "FastFinetune": {
                    "NumIterations": {"type": "int", "low": 1, "high": 1000},
                    "OptimAlgorithm": ["adaround", "adaquant", "gptq"],
                },
            },
        },
    )
    assert space.raw_size is not None
    assert space.raw_size > 10**12
    started = time.process_time()
    sampler, trials = make_sampler("random", space, 0), dict[str, Known]()
    tracemalloc.start()
    for number in range(200):
        proposal = sampler.propose(History(trials))
        assert proposal is not None
        assert proposal.configuration.digest not in trials
        trials[proposal.configuration.digest] = Known(number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert time.process_time() - started < 2


def test_exported_names() -> None:
    assert set(samplers.__all__) == {
        "EXCLUDED",
        "REPEAT_OF",
        "GridSampler",
        "History",
        "Known",
        "OptunaSampler",
        "PrioritySampler",
        "Proposal",
        "RandomSampler",
        "Sampler",
        "SeededSampler",
        "learns_from_infeasible",
        "make_sampler",
        "sampler_names",
        "tries_everything",
    }


def test_a_sampler_of_one_objective_refuses_several() -> None:
    with pytest.raises(ConfigError, match="'CmaEs' optimises one objective, and there are 2; set sum_scaled"):
        make_sampler("CmaEs", SearchSpace(TWENTY_SEVEN), objectives=2)


def test_known_violations_are_told_again() -> None:
    space = SearchSpace(TWENTY_SEVEN)
    study = optuna.create_study(directions=["minimize", "minimize"])
    sampler = make_sampler("TPE", space, 0, objectives=2)
    (configuration, *_) = space
    trials = {each.digest: Known(0, None, {"bits <= 4": 1.0, "size <= 9": -0.5}) for each in space}
    assert sampler.adopt(configuration, History(trials, study)) is None
    (told,) = study.trials
    assert (told.state, told.constraints) == (TrialState.PRUNED, {"bits <= 4": 1.0, "size <= 9": -0.5})
    trials[configuration.digest] = Known(0, (1.0, 2.0), {"bits <= 4": 0.5})
    assert sampler.adopt(configuration, History(trials, study)) is None
    assert (study.trials[1].values, study.trials[1].constraints) == ([1.0, 2.0], {"bits <= 4": 0.5})


def test_tpe_keeps_away_from_what_was_not_evaluated() -> None:
    """Half of the space breaks a constraint, and after a while few proposals are of that half."""
    space = SearchSpace({"calibrate_method": ["Percentile"], "extra_options": {
        "Percentile": [99.0, 99.9, 99.99, 99.999], "CalibDataSize": list(range(1, 41))}})  # fmt: skip
    study = optuna.create_study(directions=["minimize", "minimize"])
    sampler = make_sampler("TPE", space, 0, objectives=2)
    trials: dict[str, Known] = {}
    broken = []
    for _ in range(50):
        proposal = sampler.propose(History(trials, study))
        assert proposal is not None
        assert proposal.trial is not None
        size = proposal.configuration.config.extra_options.CalibDataSize or 0
        violations = {"size <= 20": (size - 20) / 20}
        proposal.trial.set_constraint("size <= 20", violations["size <= 20"])
        broken.append(size > 20)
        values = None if size > 20 else (size / 40, 1 - size / 40)
        study.tell(proposal.trial, values, state=TrialState.PRUNED if values is None else None)
        trials[proposal.configuration.digest] = Known(proposal.trial.number, values, violations)
    assert sum(broken[:10]) >= 3
    assert sum(broken[25:]) <= 6
