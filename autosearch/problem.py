"""Everything that a search needs, checked and put together before any work is done."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from autosearch.advanced import check_direction
from autosearch.compat import changed, with_evaluator
from autosearch.config import AutoSearchConfig
from autosearch.devices import Devices, check_devices, read_devices
from autosearch.digest import digest_of_json
from autosearch.errors import ConfigError, OutputError
from autosearch.evaluation import Evaluation, make_evaluation
from autosearch.objective import Objective
from autosearch.objective_settings import check_objectives, count_objectives, make_objectives
from autosearch.objectives import Objectives
from autosearch.plan import make_plan
from autosearch.pruning import Judge, make_pruner
from autosearch.samplers import tries_everything
from autosearch.sensitivity_seeds import SensitivitySeeds
from autosearch.software_metrics import Bench
from autosearch.space import CostModel, SearchSpace, effective_config, layer_sites
from autosearch.space.rules import METHOD
from autosearch.stage import Plan
from autosearch.trial import Trial
from autosearch.workers import check_isolation
from evaluators import DISTANCES, CombinedEvaluator, Evaluator, Metric, SessionSettings, can_report
from quant import CalibrationData, FloatModel, Pipeline, QuantConfig, StageCache, load_float_model
from quant.calibration.data import DataReader, Feed
from quant.calibration.ranges import needs_histogram
from quant.errors import nearest
from quant.types import CALIBRATE_METHODS

Data = CalibrationData | DataReader | Iterable[Feed]

CACHE_FOLDER = "autosearch_cache"
_USES_OF_A_WEIGHT = 20
"""For one sample, at a guess: once in a Gemm, hundreds of times in a Conv."""


@dataclass(frozen=True)
class Problem:
    """What is searched; made by `pose`, which checks it.

    Attributes:
        settings: How to search.
        base: What configurations share.
        float_model: What to quantize.
        data: What to calibrate with.
        evaluation_data: What the built-in evaluator compares on.
        space: What is varied.
        plan: Its stages.
        evaluation: What gives the metrics.
        notes: What was decided on the way that the user may want to know.
    """

    settings: AutoSearchConfig
    base: QuantConfig
    float_model: FloatModel
    data: CalibrationData
    evaluation_data: CalibrationData
    space: SearchSpace
    plan: Plan
    evaluation: Evaluation
    notes: tuple[str, ...]

    @property
    def evaluator(self) -> Evaluator:
        """What runs the model on data."""
        return self.evaluation.software

    @property
    def objectives(self) -> Objectives:
        """What is optimised; of a custom evaluator certain after its first evaluation only."""
        searched = None if self.settings.metrics else searched_metric(self.settings, self.evaluator)
        return make_objectives(self.settings, self.evaluation.metrics, searched)

    @property
    def metric(self) -> Metric:
        """The searched one, or the first of several."""
        return self.objectives.terms[0].metric

    @property
    def output_dir(self) -> Path:
        """Where everything but cache and log goes."""
        return Path(self.settings.search_output_dir)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may search in the same study."""
        return self.settings.storage is not None

    @property
    def models_dir(self) -> Path:
        """Where quantized models are written; absolute where others read of it."""
        return (self.output_dir.resolve() if self.is_shared else self.output_dir) / "models"

    @property
    def cache_dir(self) -> Path:
        """Where results of stages are kept between searches."""
        return Path(self.settings.search_cache_dir) / CACHE_FOLDER

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What makes two searches the same, by the words that an error uses."""
        return {
            "model": self.float_model.digest,
            "calibration data": self.data.digest,
            "evaluation data": self.evaluation_data.digest,
            "search space": self.space.digest,
            "quantization_config": digest_of_json(effective_config(self.base)),
            **self.objectives.identity,
            **self._hardware_identity,
            "evaluator": _identity(
                self.evaluator if self.settings.metrics else self.settings.search_evaluator or self.evaluator
            ),
            **self.plan.identity,
        }

    @property
    def evaluator_code(self) -> str | None:
        """Digest of the source of the caller's own evaluator; None where there is none, or no source."""
        evaluator = self.settings.search_evaluator
        named = evaluator if hasattr(evaluator, "__qualname__") else type(evaluator)
        if evaluator is None or named.__module__.partition(".")[0] == "evaluators":
            return None
        try:
            source = inspect.getsource(named)
        except (OSError, TypeError):  # typed at a prompt, or compiled
            return None
        return hashlib.sha256(source.encode()).hexdigest()

    @property
    def _hardware_identity(self) -> Mapping[str, Any]:
        identity = self.evaluation.identity
        return {"hardware metrics": identity} if identity else {}

    def objective(self, objectives: Objectives) -> Objective:
        """What trials execute.

        Args:
            objectives: With limits resolved.
        """
        return Objective(
            self.float_model,
            self.data,
            self.evaluation,
            objectives,
            skips_infeasible=self.plan.learns_from_infeasible,
            cache_dir=self.cache_dir,
            cache_bytes=self.settings.search_cache_size,
            histograms=self._needs_histograms,
            threads=threads_per_worker(self.settings.n_jobs),
        )

    def judge(self, trials: Iterable[Trial]) -> Judge | None:
        """Who decides whether a trial is given up, by those that ended; None if no pruner was asked for."""
        name, params = self.settings.search_pruner, self.settings.search_pruner_params
        if name is None:
            return None
        return Judge(make_pruner(name, params), self.metric.direction, self.metric.name, trials)

    @property
    def _needs_histograms(self) -> bool:
        methods = self.space.values_of(METHOD)
        mixed = any(self.space.values_of("include_auto_mp"))  # it looks at the noise of single tensors
        return mixed or any(needs_histogram(CALIBRATE_METHODS[method]) for method in methods)


def pose(
    quantization_config: QuantConfig | Mapping[str, Any] | None,
    settings: AutoSearchConfig,
    model_input: str | Path | FloatModel,
    calibration_data: Data,
    evaluation_data: Data | None = None,
    evaluation_labels: ArrayLike | None = None,
) -> Problem:
    """Checks everything that can be checked before a trial.

    Raises:
        ConfigError, DataError, ModelError, OutputError, EvaluatorInputError: Naming the place, the
            value and the remedy.
    """
    _check_supported(settings)
    devices = read_devices(settings.search_devices)
    n_jobs, jobs_note = devices.jobs(settings.n_jobs)
    settings = changed(settings, {"n_jobs": n_jobs})
    check_isolation(settings)
    check_objectives(settings)
    settings = with_evaluator(settings, Path.cwd())
    base = devices.apply(read_quantization_config(quantization_config))
    float_model = model_input if isinstance(model_input, FloatModel) else load_float_model(model_input)
    data = CalibrationData(calibration_data)
    data.check(float_model.inputs)
    held_out = data if evaluation_data is None else CalibrationData(evaluation_data)
    if held_out is not data:
        held_out.check(float_model.inputs)
    sites = partial(layer_sites, float_model, base)
    cost = expected_cost(float_model, data)
    space = SearchSpace(settings.search_space, base, cost_model=cost, layers=sites)
    seeds = _seeds(settings, space, float_model, data, held_out.samples)
    plan, notes = make_plan(settings, space, seeds)
    plan.check(settings.search_seed, count_objectives(settings))
    _check_seed_trials(settings, plan)
    _check_not_empty(plan.first.space)
    _check_devices(devices, space)
    bench = Bench(
        float_model.path,
        held_out,
        evaluation_labels,
        cache_dir=Path(settings.search_cache_dir) / CACHE_FOLDER,
        session_settings=SessionSettings(devices.providers, threads_per_worker(settings.n_jobs)),
    )
    evaluation = make_evaluation(settings, bench)
    problem = Problem(settings, base, float_model, data, held_out, plan.space, plan, evaluation, notes)
    _check_metrics(problem)
    _check_writable(Path(settings.search_output_dir))
    own_notes = () if jobs_note is None else (jobs_note,)
    return replace(problem, notes=(*own_notes, *notes, *problem.objectives.notes))


def _check_metrics(problem: Problem) -> None:
    """Refuses metrics that nothing produces, and what those that there are do not allow."""
    settings, objectives = problem.settings, problem.objectives
    if settings.search_pruner is not None:
        make_pruner(settings.search_pruner, settings.search_pruner_params)
        _check_parts(problem.evaluation.software, problem.metric, problem.evaluation_data)
    if settings.advanced_fastft_search and objectives.searched is not None:
        check_direction(settings.advanced_fastft_params, objectives.searched)


def _check_devices(devices: Devices, space: SearchSpace) -> None:
    """Refuses what some configuration computes on and this machine lacks."""
    check_devices(
        devices,
        finetunes_on=_finetuning_devices(space, "OptimDevice"),
        infers_on=_finetuning_devices(space, "InferDevice"),
        providers=[name for names in space.values_of("execution_providers") for name in names],
    )


def _finetuning_devices(space: SearchSpace, option: str) -> tuple[str, ...]:
    """Every device that some configuration finetunes on, by one of its two options."""
    if not any(space.values_of("include_fast_ft")):
        return ()
    return space.values_of(f"extra_options.FastFinetune.{option}")


def expected_cost(float_model: FloatModel, data: CalibrationData) -> CostModel:
    """What configurations cost before any has run, from the sizes of model and data."""
    weights = sum(
        value.const_value.size
        for value in float_model.model.graph.initializers.values()
        if value.const_value is not None
    )
    return CostModel.estimate(model_macs=_USES_OF_A_WEIGHT * weights, samples=data.samples)


def read_quantization_config(given: QuantConfig | Mapping[str, Any] | None) -> QuantConfig:
    """The base configuration from what the caller has.

    Raises:
        ConfigError: If it is wrong, with the place.
    """
    if given is None:
        return QuantConfig()
    if isinstance(given, QuantConfig):
        return given
    if isinstance(given, Mapping):
        try:
            return QuantConfig(**given)
        except ConfigError as error:
            raise ConfigError(f"quantization_config: {error}") from None
    raise ConfigError(f"quantization_config: got {type(given).__name__}; give a QuantConfig or a dict")


def threads_per_worker(n_jobs: int) -> int:
    """The cores that this process may use, shared out; at least one."""
    own = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(own(0)) if own is not None else os.cpu_count() or 1
    return max(1, cores // n_jobs)


def _identity(evaluator: object) -> str:
    """Module and name of a function or class, or of an object's class; and the `identity` it has."""
    named = evaluator if hasattr(evaluator, "__qualname__") else type(evaluator)
    name = f"{named.__module__}.{getattr(named, '__qualname__', '')}"
    return f"{name} {getattr(evaluator, 'identity', '')}".rstrip()


def _check_supported(settings: AutoSearchConfig) -> None:
    if settings.search_pruner_params and settings.search_pruner is None:
        raise ConfigError("search_pruner_params: no pruner to take them; name one with search_pruner")


def _seeds(
    settings: AutoSearchConfig,
    space: SearchSpace,
    float_model: FloatModel,
    data: CalibrationData,
    samples: int,
) -> SensitivitySeeds | None:
    """What a search per layer begins with: where everything is tried anyway, only if it is asked for."""
    if settings.seed_trials is None and tries_everything(settings.search_algo):
        return None
    wanted = {name for name, metric in settings.metrics.items() if metric.scale} | {*settings.constraints}

    def open_pipeline() -> Pipeline:
        cache = StageCache(Path(settings.search_cache_dir) / CACHE_FOLDER, settings.search_cache_size)
        return Pipeline(float_model, data, cache, threads=threads_per_worker(1))

    trials = settings.search_stop_condition.limits.trials
    seeds = SensitivitySeeds(space, open_pipeline, wanted, trials, samples)
    return seeds if seeds.useful(settings.seed_trials) else None


def _check_seed_trials(settings: AutoSearchConfig, plan: Plan) -> None:
    if settings.seed_trials and plan.first.seeds is None:
        raise ConfigError(
            f"seed_trials: {settings.seed_trials} trials cannot come from layers' sensitivities, because"
            " search_space has no layers; leave it out"
        )


def _check_parts(evaluator: Evaluator, metric: Metric, data: CalibrationData) -> None:
    """Refuses a pruner that would never have anything to judge."""
    if isinstance(evaluator, CombinedEvaluator):
        reports = evaluator.reporting(metric.name) is not None
    else:
        reports = can_report(evaluator, metric.name)
    if not reports:
        raise ConfigError(
            f"search_pruner: {metric.name} comes from a custom evaluator, which gives one value for all of"
            " its data, none after a part of it; leave search_pruner out, or search a built-in metric"
        )
    if sum(1 for _ in data) < 2:
        raise ConfigError(
            "search_pruner: the evaluation data is one batch, so that there are no parts of it; give it in"
            " batches of fewer samples"
        )


def searched_metric(settings: AutoSearchConfig, evaluator: Evaluator) -> Metric:
    """The metric that `search_metric` names, else the evaluator's first.

    The name of a built-in distance says nothing to a custom evaluator, which then decides by its first
    metric: such configurations exist, because L2 is the documented default.

    Raises:
        ConfigError: If the evaluator has no such metric.
    """
    wanted = settings.search_metric
    by_name = {metric.name.casefold(): metric for metric in evaluator.metrics}
    if wanted is None or wanted.casefold() in by_name:
        return evaluator.metrics[0] if wanted is None else by_name[wanted.casefold()]
    if wanted.casefold() in {name.casefold() for name in DISTANCES}:
        return evaluator.metrics[0]
    names = [metric.name for metric in evaluator.metrics]
    raise ConfigError(f"search_metric: the evaluator has no metric {wanted!r}{nearest(wanted, names)}")


def _check_not_empty(space: SearchSpace) -> None:
    if not space.is_enumerable or len(space.enumeration):
        return
    dropped = space.enumeration.dropped.items()
    reasons = "; ".join(f"{count} of {space.raw_size}: {reason}" for reason, count in dropped)
    raise ConfigError(f"search_space: no configuration is left ({reasons})")


def _check_writable(directory: Path) -> None:
    probe = directory / f".autosearch-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"search_output_dir {str(directory)!r}: cannot be written: {error}") from error
