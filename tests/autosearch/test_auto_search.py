from __future__ import annotations

import json
import linecache
import logging
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import optuna
import pytest

from autosearch import AutoSearch, AutoSearchConfig
from autosearch.errors import ConfigError, StudyError
from quant import CalibrationMethod, DataError, ModelError, ModelQuantizer, QuantConfig, QuantType
from tests.autosearch.models import DISTINCT, SPACE, make_feeds, write_model

Feeds = list[dict[str, np.ndarray]]
ALGORITHMS = ["grid_search", "random", "priority", "TPE", "RandomSampler", "NSGAII", "BruteForce"]


def l2(model: Path, candidate: str, feeds: Feeds) -> float:
    """The metric by hand."""
    reference, quantized = ort.InferenceSession(str(model)), ort.InferenceSession(candidate)
    differences = [reference.run(None, feed)[0] - quantized.run(None, feed)[0] for feed in feeds]
    return float(np.mean(np.concatenate(differences).astype(np.float64) ** 2))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_tries_every_configuration_once(
    model: Path, feeds: Feeds, settings: dict[str, Any], algorithm: str
) -> None:
    search = AutoSearch(None, {**settings, "search_algo": algorithm}, model, feeds)
    search.search_model()
    assert search.result is not None
    digests = [trial.digest for trial in search.result.trials]
    assert len(digests) == len(set(digests)) == DISTINCT
    assert search.result.stop_reason == "every configuration of the space has been tried"


def test_candidates_come_sorted_with_their_evidence(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    search = AutoSearch(
        quantization_config=QuantConfig(weight_type=QuantType.QInt8),
        auto_search_config=settings,
        model_input=model,
        calibration_data_reader=feeds,
        eval_data_reader=None,
    )
    candidates = search.search_model()
    assert len(candidates) == DISTINCT  # no tolerance: all of them
    differences = [candidate["difference"] for candidate in candidates]
    assert differences == sorted(differences)
    for candidate in candidates[:3]:
        assert candidate["difference"] == pytest.approx(l2(model, candidate["model_path"], feeds), rel=1e-5)
        assert candidate["metrics"] == {"L2": candidate["difference"]}
        assert candidate["seconds"] > 0
        again = Path(candidate["model_path"]).with_name("again.onnx")
        ModelQuantizer(QuantConfig(**candidate["config"])).quantize_model(model, again, feeds)
        assert again.read_bytes() == Path(candidate["model_path"]).read_bytes()
    assert isinstance(search.study, optuna.Study)
    assert search.study.best_value == differences[0]


def test_tolerance_decides_and_losing_models_are_deleted(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    everything = AutoSearch(None, {**settings, "study_name": "all"}, model, feeds).search_model()
    tolerance = everything[4]["difference"]
    directory = Path(settings["search_output_dir"]) / "few"
    few = AutoSearch(
        None,
        {**settings, "search_metric_tolerance": tolerance, "search_output_dir": str(directory)},
        model,
        feeds,
    )
    assert [c["config"] for c in few.search_model()] == [c["config"] for c in everything[:5]]
    assert len(list((directory / "models").glob("*.onnx"))) == 5


def test_never_empty_handed(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    search = AutoSearch(None, {**settings, "search_metric_tolerance": 0.0}, model, feeds)
    assert search.search_model() == []
    assert search.result is not None
    best = search.result.best
    assert best is not None
    assert best.difference == min(t.difference for t in search.result.trials if t.difference is not None)
    assert best.outcome.model_path is not None
    models = list((Path(settings["search_output_dir"]) / "models").iterdir())
    assert models == [Path(best.outcome.model_path)]


@pytest.mark.parametrize(("keep", "expected"), [("all", DISTINCT), ("best", 1)])
def test_models_kept_as_asked(
    model: Path, feeds: Feeds, settings: dict[str, Any], keep: str, expected: int
) -> None:
    AutoSearch(None, {**settings, "keep_models": keep}, model, feeds).search_model()
    assert len(list((Path(settings["search_output_dir"]) / "models").iterdir())) == expected


@pytest.mark.parametrize("metric", ["cos", "psnr", "ssim", "sqnr"])
def test_similarities_are_maximised(model: Path, feeds: Feeds, settings: dict[str, Any], metric: str) -> None:
    by_l2 = AutoSearch(None, {**settings, "study_name": "L2"}, model, feeds).search_model()
    found = AutoSearch(
        None, {**settings, "search_metric": metric, "search_metric_tolerance": 0.5}, model, feeds
    ).search_model()
    assert found[0]["config"] == by_l2[0]["config"]
    assert all(candidate["difference"] >= 0.5 for candidate in found)


def test_a_custom_evaluator_is_compared_with_the_float_model(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    seen: list[str] = []

    def score(path: str) -> float:
        seen.append(path)
        return 0.9 if path == str(model) else 0.9 - 0.1 * l2(model, path, feeds)

    search = AutoSearch(
        None, {**settings, "search_evaluator": score, "search_metric_tolerance": 0.01}, model, feeds
    )
    candidates = search.search_model()
    assert seen[0] == str(model)
    assert len(seen) == DISTINCT + 1
    for candidate in candidates:
        assert candidate["difference"] == pytest.approx(0.9 - candidate["metrics"]["score"])
    assert search.study is not None
    assert search.study.direction is optuna.study.StudyDirection.MAXIMIZE


def test_a_lower_is_better_evaluator_with_several_metrics(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    class Evaluator:
        metrics = ("size", "loss")
        direction = "minimize"

        def evaluate(self, path: str) -> dict[str, float]:
            loss = 1.0 if path == str(model) else 1.0 + l2(model, path, feeds)
            return {"size": float(Path(path).stat().st_size), "loss": loss}

    changed = {**settings, "search_evaluator": Evaluator(), "search_metric": "loss"}
    candidates = AutoSearch(None, changed, model, feeds).search_model()
    assert candidates[0]["difference"] == pytest.approx(candidates[0]["metrics"]["loss"] - 1.0)
    assert candidates[0]["metrics"]["loss"] == min(c["metrics"]["loss"] for c in candidates)


def test_the_same_seed_gives_the_same_trials(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> list[str]:
        changed = {
            **settings,
            "search_algo": "random",
            "search_seed": seed,
            "search_output_dir": str(tmp_path / name),
        }
        search = AutoSearch(None, changed, model, feeds)
        search.search_model()
        assert search.result is not None
        return [trial.digest for trial in search.result.trials]

    assert run("a", 3) == run("b", 3)
    assert run("a2", 4) != run("b2", 3)


def test_running_again_runs_nothing_twice(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    limited = {**settings, "search_stop_condition": {"iteration_limit": 5}}
    first = AutoSearch(None, limited, model, feeds)
    first.search_model()
    assert first.result is not None
    assert len(first.result.trials) == 5
    second = AutoSearch(None, settings, model, feeds)
    candidates = second.search_model()
    assert second.result is not None
    recorded = [(t.number, t.digest, t.outcome, t.difference, t.is_candidate) for t in second.result.trials]
    assert recorded[:5] == [
        (t.number, t.digest, t.outcome, t.difference, t.is_candidate) for t in first.result.trials
    ]
    assert len(second.result.trials) == DISTINCT
    third = AutoSearch(None, settings, model, feeds)
    assert third.search_model() == candidates
    assert third.study is not None
    assert len(third.study.trials) == DISTINCT


def test_an_evaluator_that_has_changed_is_noticed(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Earlier results stay: the change may be a comment."""

    def search(code: str) -> str:
        source = tmp_path / "evaluator.py"
        source.write_text(f"def score(path):\n    return {code}\n")
        linecache.checkcache(str(source))
        evaluator = runpy.run_path(str(source))["score"]
        log = tmp_path / "own.log"
        log.unlink(missing_ok=True)
        given = {**settings, "search_evaluator": evaluator, "search_log_path": str(log)}
        AutoSearch(None, given, model, feeds).search_model()
        return log.read_text()

    said = "WARNING The evaluator's code has changed since this study began"
    assert [said in search(code) for code in ("0.5", "0.5", "0.25", "0.5")] == [False, False, True, False]


def test_a_looser_tolerance_gets_its_models_back(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    AutoSearch(None, {**settings, "search_metric_tolerance": 0.0}, model, feeds).search_model()
    candidates = AutoSearch(None, settings, model, feeds).search_model()
    assert len(candidates) == DISTINCT
    assert all(Path(candidate["model_path"]).is_file() for candidate in candidates)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"search_space": {"per_channel": [True, False]}}, "search space"),
        ({"search_metric": "L1"}, "metric"),
    ],
)
def test_another_search_under_the_same_name_is_refused(
    model: Path, feeds: Feeds, settings: dict[str, Any], change: dict[str, Any], differs: str
) -> None:
    named = {**settings, "study_name": "mine"}
    AutoSearch(None, named, model, feeds).search_model()
    with pytest.raises(StudyError, match=f"'mine' is of another search.*{differs}"):
        AutoSearch(None, {**named, **change}, model, feeds).search_model()


def test_another_model_under_the_same_name_is_refused(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    named = {**settings, "study_name": "mine"}
    AutoSearch(None, named, model, feeds).search_model()
    other = write_model(tmp_path / "other.onnx", seed=9)
    with pytest.raises(StudyError, match="model"):
        AutoSearch(None, named, other, feeds).search_model()


def test_failures_are_recorded_and_the_search_goes_on(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    calls = 0

    def sometimes(path: str) -> float:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise RuntimeError("no luck")
        return 1.0

    search = AutoSearch(None, {**settings, "search_evaluator": sometimes}, model, feeds)
    search.search_model()
    assert search.result is not None
    assert len(search.result.trials) == DISTINCT
    failed = search.result.failed
    assert len(failed) == (DISTINCT + 1) // 3
    assert all("no luck" in (trial.outcome.error or "") for trial in failed)
    assert "no luck" in Path(settings["search_log_path"]).read_text()
    assert all(trial.outcome.model_path is None for trial in failed)


def test_three_equal_failures_at_the_start_end_the_search(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    works = False

    def broken(path: str) -> float:
        if path != str(model) and not works:
            raise RuntimeError("labels are missing")
        return 1.0

    search = AutoSearch(None, {**settings, "search_evaluator": broken}, model, feeds)
    assert search.search_model() == []
    assert search.result is not None
    assert len(search.result.trials) == 3
    assert "labels are missing" in search.result.stop_reason
    works = True  # mended: the same command tries everything again
    assert (
        len(AutoSearch(None, {**settings, "search_evaluator": broken}, model, feeds).search_model())
        == DISTINCT
    )


def test_stop_conditions_end_the_search(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    for name, condition, trials in [
        ("n", {"find_n_candidates": 2}, 2),
        ("limit", {"iteration_limit": 4}, 4),
        ("time", {"time_limit": 1e-6}, 0),
    ]:
        changed = {
            **settings,
            "search_stop_condition": condition,
            "search_output_dir": f"{settings['search_output_dir']}{name}",
        }
        search = AutoSearch(None, changed, model, feeds)
        search.search_model()
        assert search.result is not None
        assert len(search.result.trials) == trials
        assert next(iter(condition)) in search.result.stop_reason


def test_waiting_for_a_better_candidate(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    scores: Iterator[float] = iter([0.5, 0.1, 0.2, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3])
    evaluate = {
        "search_evaluator": lambda path: next(scores),
        "search_stop_condition": {"find_best_candidate": 3},
    }
    search = AutoSearch(None, {**settings, **evaluate}, model, feeds)
    search.search_model()
    assert search.result is not None
    assert [trial.outcome.metrics["metric"] for trial in search.result.trials] == [
        0.1,
        0.2,
        0.9,
        0.3,
        0.3,
        0.3,
    ]


def test_the_log_tells_the_story(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    AutoSearch(None, {**settings, "search_metric_tolerance": 0.01}, model, feeds).search_model()
    log = Path(settings["search_log_path"]).read_text()
    lines = [line for line in log.splitlines() if "Executing search" in line]
    assert len(lines) == DISTINCT
    assert f"Executing search 1/{DISTINCT} with config [" in lines[0]
    for word in ("tolerance <= 0.01", "quantize", "evaluate", "best L2", "left"):
        assert word in lines[-1]
    for word in (
        "Percentile only with",
        "onnxruntime",
        "Sorted results",
        "Searched candidates",
        "Stopped: every",
    ):
        assert word in log


def test_a_second_search_has_a_log_of_its_own(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    AutoSearch(None, settings, model, feeds).search_model()
    before = Path(settings["search_log_path"]).read_text()
    other = {**settings, "search_log_path": str(tmp_path / "second.log"), "search_metric": "L1"}
    AutoSearch(None, other, model, feeds).search_model()
    assert Path(settings["search_log_path"]).read_text() == before
    assert not logging.getLogger("quant").handlers


def test_records_follow_the_schema(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    search = AutoSearch(None, {**settings, "search_metric_tolerance": 0.01}, model, feeds)
    candidates = search.search_model()
    directory = Path(settings["search_output_dir"])
    log = json.loads((directory / "log.json").read_text())
    assert list(log) == [str(number) for number in range(DISTINCT)]
    entry = log["3"]
    assert entry["number"] == 3
    assert entry["state"] == "COMPLETE"
    assert entry["value"] == entry["user_attrs_software_metrics"]["L2"]
    assert entry["duration"] == entry["datetime_complete"] - entry["datetime_start"] >= 0
    for key in ("hardware_metrics", "scaled_metrics", "sampled_config"):
        assert f"user_attrs_{key}" in entry
    best = json.loads((directory / "best.json").read_text())
    assert [best[str(rank)]["number"] for rank in range(len(best))] == [c["config_index"] for c in candidates]
    assert best["0"]["source"]["model_digest"] == search.problem.float_model.digest
    assert QuantConfig(**best["0"]["config"]).to_dict() == candidates[0]["config"]


def test_infinite_metrics_survive_the_record(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    space = {"op_types_to_quantize": [["Gemm"]]}
    changed = {**settings, "search_space": space, "search_evaluator": lambda path: math.inf}
    candidates = AutoSearch(None, changed, model, feeds).search_model()
    assert candidates[0]["metrics"] == {"metric": math.inf}
    log = json.loads((Path(settings["search_output_dir"]) / "log.json").read_text())
    assert log["0"]["value"] == "inf"


def test_the_float_model_runs_once_over_the_data_for_each_transformed_graph(
    model: Path, feeds: Feeds, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import quant.graph_stages

    passes: list[int] = []
    collect = quant.graph_stages.collect_statistics

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return collect(*args, **kwargs)

    monkeypatch.setattr(quant.graph_stages, "collect_statistics", counted)
    space = {**SPACE, "include_cle": [False, True]}
    AutoSearch(None, {**settings, "search_space": space}, model, feeds).search_model()
    assert len(passes) == 2


def test_what_mixed_precision_decided_is_on_record(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    options = {"AutoMixprecision": {"ErrorTarget": [1e-7]}}
    space = {"include_auto_mp": [False, True], "extra_options": options}
    search = AutoSearch(None, {**settings, "search_space": space}, model, feeds)
    candidates = search.search_model()
    assert search.result is not None
    plain, mixed = search.result.trials
    assert plain.outcome.promotion is None
    assert str(mixed.outcome.promotion).startswith("mixed precision: ")
    assert str(mixed.outcome.promotion) in Path(settings["search_log_path"]).read_text()
    assert candidates[0]["config"]["include_auto_mp"]
    again = AutoSearch(None, {**settings, "search_space": space}, model, feeds)
    again.search_model()
    assert again.result is not None
    assert [trial.outcome for trial in again.result.trials] == [plain.outcome, mixed.outcome]


class Reader:
    """onnxruntime's interface."""

    def __init__(self, feeds: Feeds, rewinds: bool) -> None:
        self.feeds, self.position = feeds, 0
        if rewinds:
            self.rewind = lambda: setattr(self, "position", 0)

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.position += 1
        return self.feeds[self.position - 1] if self.position <= len(self.feeds) else None


def test_readers_are_read_once_and_kept(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    candidates = AutoSearch(None, settings, model, Reader(feeds, rewinds=False)).search_model()
    assert all(math.isfinite(candidate["difference"]) for candidate in candidates)


def test_exhausted_readers_are_rewound_or_refused(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    for rewinds in (True, False):
        reader = Reader(feeds, rewinds)
        while reader.get_next() is not None:
            pass
        if rewinds:
            assert AutoSearch(None, settings, model, reader).problem.data.samples == 64
        else:
            with pytest.raises(DataError, match="no rewind"):
                AutoSearch(None, settings, model, reader)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"search_space": {"per_chanel": [True]}}, ConfigError, "unknown key 'per_chanel'"),
        ({"search_space": {"per_channel": []}}, ConfigError, "per_channel"),
        ({"search_space": {"extra_options": {"Percentile": [20]}}}, ConfigError, "Percentile"),
        ({"search_algo": "gird_search"}, ConfigError, "did you mean 'grid_search'"),
        ({"search_metric": "L3"}, ValueError, "L"),
        ({"search_devices": "cuda:0"}, ConfigError, "search_devices"),
        ({"advanced_fastft_search": True}, ConfigError, "advanced_fastft_search"),
        ({"search_output_dir": "/proc/nowhere"}, ValueError, "search_output_dir"),
        ({"search_evaluator": 3}, ValueError, "evaluator"),
    ],
)
def test_bad_configuration_is_refused_before_any_work(
    model: Path,
    feeds: Feeds,
    settings: dict[str, Any],
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        AutoSearch(None, {**settings, **change}, model, feeds)
    assert not (Path(settings["search_output_dir"]) / "study.db").exists()


def test_bad_data_and_models_are_refused_before_any_work(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no feeds"):
        AutoSearch(None, settings, model, [])
    with pytest.raises(DataError, match=r"feed 0: inputs \['z'\]"):
        AutoSearch(None, settings, model, [{"z": feeds[0]["x"]}])
    with pytest.raises(DataError, match="float64"):
        AutoSearch(None, settings, model, [{"x": feeds[0]["x"].astype(np.float64)}])
    with pytest.raises(DataError, match=r"shape \(16, 5\)"):
        AutoSearch(None, settings, model, [{"x": feeds[0]["x"][:, :5]}])
    with pytest.raises(DataError, match=r"feed 1.*NaN"):
        AutoSearch(None, settings, model, [feeds[0], {"x": np.full((2, 6), np.nan, np.float32)}])
    with pytest.raises(ModelError, match="no file"):
        AutoSearch(None, settings, tmp_path / "absent.onnx", feeds)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        AutoSearch(None, settings, tmp_path / "broken.onnx", feeds)
    quantized = tmp_path / "quantized.onnx"
    ModelQuantizer(QuantConfig()).quantize_model(model, quantized, feeds)
    with pytest.raises(ModelError, match="already quantized"):
        AutoSearch(None, settings, quantized, feeds)


def test_enumerations_and_names_mean_the_same(model: Path, feeds: Feeds, settings: dict[str, Any]) -> None:
    space = {"calibrate_method": [CalibrationMethod.MinMax], "activation_type": [QuantType.QUInt8, "QUInt8"]}
    search = AutoSearch(None, {**settings, "search_space": space}, model, feeds)
    assert len(search.search_model()) == 1


def test_worker_processes_find_the_same(
    model: Path, feeds: Feeds, settings: dict[str, Any], tmp_path: Path
) -> None:
    alone = AutoSearch(None, settings, model, feeds).search_model()
    shared = {**settings, "n_jobs": 2, "search_output_dir": str(tmp_path / "parallel")}
    search = AutoSearch(None, shared, model, feeds)
    together = search.search_model()
    assert {c["difference"] for c in alone} == {c["difference"] for c in together}
    assert search.result is not None
    assert len(search.result.trials) == DISTINCT


def test_two_searches_do_not_share_an_output_directory(
    model: Path, feeds: Feeds, settings: dict[str, Any]
) -> None:
    def nested(path: str) -> float:
        if path != str(model):
            with pytest.raises(StudyError, match="a search is running there"):
                AutoSearch(None, settings, model, feeds).search_model()
        return 1.0

    changed = {**settings, "search_evaluator": nested, "search_stop_condition": {"iteration_limit": 1}}
    search = AutoSearch(None, changed, model, feeds)
    search.search_model()
    assert search.result is not None
    assert not search.result.failed


def test_the_default_configuration_runs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    candidates = AutoSearch(None, AutoSearchConfig(), model, make_feeds(1)).search_model()
    assert candidates
    assert (tmp_path / "auto_search.log").is_file()
    assert (tmp_path / "study.db").is_file()
