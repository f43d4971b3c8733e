"""What a search is asked to do: one frozen, validated value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from autosearch.stop import Limits
from autosearch.units import Amount, read_amount, read_size
from evaluators import Direction
from quant.cache import DEFAULT_LIMIT_BYTES

SearchSpaceValue = Mapping[str, Any] | Sequence[Mapping[str, Any]]

DEFAULT_SEARCH_SPACE: Mapping[str, Any] = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy", "MinMSE", "NonOverflow"],
    "activation_type": ["QInt8", "QInt16"],
    "weight_type": ["QInt8"],
    "per_channel": [False, True],
    "include_cle": [False, True],
    "extra_options": {"ActivationSymmetric": [False, True], "Percentile": [99.9, 99.99, 99.999]},
}
"""What is searched when nothing is said: every calibration method, 8 and 16 bits."""

PATIENCE_S = 300.0
"""How long a database may be away, unless something else is asked for."""

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def _off(value: object) -> object:
    """-1 switches a condition off, as None does."""
    return None if value == -1 and not isinstance(value, bool) else value


Count = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(_off)]
Seconds = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_off)]
SizeBytes = Annotated[Annotated[int, Field(gt=0), BeforeValidator(read_size)] | None, BeforeValidator(_off)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StopCondition:
    """When to stop; -1 or absent = off. The first condition that holds ends the search.

    Attributes:
        find_n_candidates: Candidates to find.
        find_best_candidate: Trials without a better candidate after the first one.
        iteration_limit: Trials.
        time_limit: Seconds of wall-clock time, quantizing and evaluating included.
    """

    find_n_candidates: Count = None
    find_best_candidate: Count = None
    iteration_limit: Count = None
    time_limit: Seconds = None

    @property
    def limits(self) -> Limits:
        """The same for `autosearch.stop`."""
        return Limits(self.find_n_candidates, self.find_best_candidate, self.iteration_limit, self.time_limit)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MetricSetting:
    """How a metric counts in the search.

    Attributes:
        scale: The objective is scale times the metric; 0 = the metric is recorded and not optimised.
        direction: None = the metric's own.
    """

    scale: float = 1.0
    direction: Direction | None = None


def _names(value: object) -> object:
    """A list of metrics, or one without settings, stands for the default settings."""
    if isinstance(value, Mapping):
        return {name: MetricSetting() if setting is None else setting for name, setting in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(n, str) for n in value):
        return {name: MetricSetting() for name in value}
    return value


MetricSettings = Annotated[Mapping[str, MetricSetting], BeforeValidator(_names)]
Threshold = Annotated[Amount, BeforeValidator(read_amount)] | None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MetricLimits:
    """Between which values a metric must lie, both included.

    Attributes:
        min, max: A number, or a text such as ``0.98x``, times the float model's own value; None = no
            limit.
    """

    min: Threshold = None
    max: Threshold = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdvancedFastftParams:
    """Parameters of the advanced FastFinetune search.

    Attributes:
        sampler_algo: TPE, Random, CmaEs, GPS (Gaussian process), NSGAII, QMC, or another sampler of
            Optuna's by name.
        direction: Of the searched metric, which has one of its own: None = that one, and the other one
            is refused. The difference from the float model is minimized in any case, but for
            similarities (cos, psnr, ssim, sqnr).
        n_trials: How many, of all worker processes together.
    """

    sampler_algo: str = "TPE"
    direction: Direction | None = None
    n_trials: int = Field(default=10, gt=0)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AutoSearchConfig:
    """How to search.

    It may be given as an instance, as a class with attributes of these names, as a dict or as the path
    of a YAML file.

    Attributes:
        search_space: Choices for the keys of `quant.QuantConfig`, nested as there; a list of such
            dicts is their union.
        search_algo: ``grid_search`` (all), ``random``, ``priority`` (cheapest first) or an Optuna
            sampler by name (``TPE``, ``NSGAII``, ``QMC`` ...). The advanced search has its own.
        search_metric: What decides: L1, L2, cos, psnr, ssim, sqnr, max_abs of the built-in
            evaluator, or a metric of the custom one.
        search_metric_tolerance: A configuration is a candidate if its difference is within it: at
            most, or for similarities (cos, psnr, ssim, sqnr) at least. None = every one is.
        metrics: What is optimised instead of `search_metric`, by name, each with a scale and a
            direction: accuracy, loss, perplexity, the built-in evaluator's, the custom one's, and of
            hardware average_bitwidth, memory_density, average_bitwidth_total, model_size, packed_size,
            flops, macs, bitops, weights_above_<n>_bits, latency. Empty = `search_metric` alone.
        sum_scaled_metrics: One objective, the sum of the scaled metrics, each signed by its direction;
            else each metric is an objective and the answer a Pareto front.
        direction: Of that sum.
        constraints: By metric, what a candidate must keep to.
        metric_options: By metric, its options, such as ``{average_bitwidth: {compare_to: 32}}``.
        seed_trials: Trials that begin a search per layer, from the layers' sensitivities. None = as many
            as seem useful; 0 = none.
        search_evaluator: ``callable(model path) -> float``, or an object with ``evaluate`` and
            metrics; None = the built-in evaluator.
        search_cache_dir: Where results of stages are kept between searches.
        search_cache_size: Most bytes that they take there, such as ``10 GB``; the least recently used
            go first. -1 or None = any number.
        search_output_dir: Where models, study and reports go.
        search_log_path: The log to ``tail -f``.
        search_stop_condition: When to stop.
        two_stage_search: First every calibration configuration, then FastFinetune on the best, with
            `search_algo`; of the stop conditions, time_limit alone applies.
        two_stage_best_k: How many of the best calibration configurations are finetuned.
        advanced_fastft_search, advanced_fastft_params: Search of NumIterations and LearningRate of
            FastFinetune between the least and the greatest value that the space gives.
        search_pruner: ``median``, ``percentile`` or ``threshold`` of Optuna: gives up trials that are
            hopeless after 25, 50 or 75 % of the evaluation data. None = every trial sees all of it.
        search_pruner_params: Of that pruner; what counts steps counts percent.
        n_jobs: Worker processes; each gets its share of the cores.
        trial_timeout: Most seconds of a trial, which then has failed. -1 or None = any number.
        isolate_trials: Whether trials run in a process of their own, which they may end without ending
            the search. None = where n_jobs, trial_timeout or an earlier run that ended within a trial
            ask for it.
        search_devices: ``cpu``, ``cuda:0``, or ``cuda:0,1`` for a worker on each of several GPUs.
        search_seed: Of everything random.
        storage: Optuna storage URL, or ``journal:PATH``; several processes, also on several machines, may
            search together in one. None = ``study.db`` (SQLite) in the output directory, for this search
            alone.
        storage_patience: Most seconds that a search waits for a database that is away.
        heartbeat_interval: Seconds between signs of life of the processes that share a storage; the trials
            of one that was silent six times in a row are tried again by the others.
        study_name: Name in that storage; None = one made from what is searched, so that the same
            search resumes and another one does not collide.
        keep_models: ``candidates``, ``all``, or only the ``best`` model.
    """

    search_space: SearchSpaceValue = field(default_factory=lambda: dict(DEFAULT_SEARCH_SPACE))
    search_algo: str = "grid_search"
    search_metric: str | None = None
    search_metric_tolerance: float | None = None
    metrics: MetricSettings = field(default_factory=dict)
    sum_scaled_metrics: bool = False
    direction: Direction | None = None
    constraints: Mapping[str, MetricLimits] = field(default_factory=dict)
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed_trials: Annotated[int, Field(ge=0)] | None = None
    search_evaluator: Any = None
    search_cache_dir: str = "./"
    search_cache_size: SizeBytes = DEFAULT_LIMIT_BYTES
    search_output_dir: str = "./"
    search_log_path: str = "./auto_search.log"
    search_stop_condition: StopCondition = StopCondition()
    two_stage_search: bool = False
    two_stage_best_k: int = Field(default=1, gt=0)
    advanced_fastft_search: bool = False
    advanced_fastft_params: AdvancedFastftParams = AdvancedFastftParams()
    search_pruner: str | None = None
    search_pruner_params: Mapping[str, Any] = field(default_factory=dict)
    n_jobs: int = Field(default=1, gt=0)
    trial_timeout: Seconds = None
    isolate_trials: bool | None = None
    search_devices: str = "cpu"
    search_seed: int = Field(default=0, ge=0)
    storage: str | None = None
    storage_patience: float = Field(default=PATIENCE_S, ge=0)
    heartbeat_interval: float = Field(default=20.0, gt=0)
    study_name: str | None = None
    keep_models: Literal["candidates", "all", "best"] = "candidates"
