"""One configuration -> one outcome: quantize, evaluate, or the reason of the failure."""

from __future__ import annotations

import errno
import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autosearch.digest import model_digest
from autosearch.errors import OutputError
from autosearch.evaluation import Evaluation
from autosearch.objectives import Objectives
from autosearch.pruning import REPORT_AT, Judge, Pruned
from autosearch.trial import Outcome
from evaluators import CombinedEvaluator, DistanceEvaluator, EvaluationError, can_report
from evaluators.sessions import SessionConfig
from quant import CalibrationData, FloatModel, Pipeline, QuantConfig, StageCache
from quant.cache import DEFAULT_LIMIT_BYTES, StageCount
from quant.graph.mapped_model import open_mapped

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Objective:
    """What every trial does. It can be sent to another process, which opens the model for itself."""

    def __init__(
        self,
        float_model: FloatModel,
        data: CalibrationData,
        evaluation: Evaluation,
        objectives: Objectives,
        *,
        skips_infeasible: bool = True,
        cache_dir: Path | None,
        cache_bytes: int | None = DEFAULT_LIMIT_BYTES,
        histograms: bool,
        threads: int,
    ) -> None:
        """Takes what all trials share.

        Args:
            float_model: What to quantize.
            data: What to calibrate with.
            evaluation: What gives the metrics.
            objectives: With the limits that they keep to, resolved.
            skips_infeasible: Whether a model that breaks a constraint by what is known before it runs is
                not evaluated.
            cache_dir: Of stage results; None = in memory alone.
            cache_bytes: Most that they take there; None = any number.
            histograms: Whether some configuration of the search needs them.
            threads: Of one worker; 0 = all cores.

        Raises:
            DataError: If the data does not fit the model.
        """
        self.model_path = float_model.path
        self.model_digest = float_model.digest
        self.data = data
        self.evaluation = evaluation
        self.objectives = objectives
        self.skips_infeasible = skips_infeasible
        self.cache_dir = cache_dir
        self.cache_bytes = cache_bytes
        self.histograms = histograms
        self.threads = threads
        self._pipeline: Pipeline | None = self._open(float_model)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pipeline": None}

    @property
    def pipeline(self) -> Pipeline:
        """The stages, with this process's cache."""
        if self._pipeline is None:
            self._pipeline = self._open(None)
        return self._pipeline

    def prepare(self) -> None:
        """Computes what every process would need and can be sent: the float model's outputs.

        Raises:
            EvaluatorInputError: If the float model does not run on the data.
        """
        if isinstance(self.evaluation.software, DistanceEvaluator | CombinedEvaluator):
            self.evaluation.software.prepare()

    @property
    def stages(self) -> Mapping[str, StageCount]:
        """What this process's stage cache computed and found, by stage."""
        return {} if self._pipeline is None else self._pipeline.cache.counts

    def _open(self, float_model: FloatModel | None) -> Pipeline:
        cache = StageCache(self.cache_dir, self.cache_bytes)
        float_model = float_model or open_mapped(self.model_path, self.model_digest, cache)
        return Pipeline(float_model, self.data, cache, histograms=self.histograms, threads=self.threads)

    def __call__(self, config: QuantConfig, path: Path, judge: Judge | None = None) -> Outcome:
        """Quantizes to `path` and evaluates that file; a failure is an outcome, too.

        Args:
            config: What to make.
            path: Of the model.
            judge: Asked after parts of the evaluation; the evaluator reports them.

        Raises:
            OutputError: If the disk is full, which no other configuration would change.
        """
        steps = _Steps()
        try:
            return self._execute(config, path, judge, steps)
        except Pruned as pruned:
            steps.end()
            return steps.outcome(pruned_at=pruned.percentage)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                reason = f"{path.parent}: {error}; free some space and start the same search again"
                raise OutputError(reason) from error
            described = f"{type(error).__name__}: {error}"
            return steps.outcome(error=described, traceback=traceback.format_exc())

    def _execute(self, config: QuantConfig, path: Path, judge: Judge | None, steps: _Steps) -> Outcome:
        steps.begin("quantize")
        quantized = self.pipeline.quantize(config)
        quantized.save(path, external_data=config.use_external_data_format)
        steps.model_path = str(path)
        steps.promotion = None if quantized.promotion is None else str(quantized.promotion)
        steps.end()
        entries, cost = quantized.session_config, quantized.cost
        del quantized  # the file is evaluated: two copies of the weights would be in memory
        steps.hardware |= self.evaluation.before_running(cost, path, entries)
        violations = self.objectives.violations(steps.hardware)
        if self.skips_infeasible and any(beyond > 0 for beyond in violations.values()):
            return steps.outcome(infeasible=True)
        steps.begin("evaluate")
        metrics = self._evaluate(path, entries, judge, steps)
        steps.hardware |= self.evaluation.by_running(cost, path, entries)
        steps.notes = self.evaluation.notes(cost)
        steps.end()
        values = self.objectives.values({**metrics, **steps.hardware})
        if values is None or any(map(math.isnan, values)):
            raise EvaluationError(
                f"objectives: {', '.join(self.objectives.names)} cannot be found: {metrics}"
            )
        return steps.outcome(metrics=metrics, model_digest=model_digest(path))

    def _evaluate(
        self, path: Path, entries: SessionConfig, judge: Judge | None, steps: _Steps
    ) -> dict[str, float]:
        evaluator = self.evaluation.software
        if judge is None:
            return evaluator.evaluate(path, entries)

        def report(percentage: int, values: Mapping[str, float]) -> None:
            steps.intermediate[percentage] = values[judge.metric]
            if judge.judge(percentage, values[judge.metric]):
                raise Pruned(percentage)

        if isinstance(evaluator, CombinedEvaluator):
            return evaluator.evaluate(
                path, entries, report=report, report_at=REPORT_AT, reported=judge.metric
            )
        assert can_report(evaluator)
        return evaluator.evaluate(path, entries, report=report, report_at=REPORT_AT)


@dataclass
class _Steps:
    """What an execution has come to so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    hardware: dict[str, float] = field(default_factory=dict)
    intermediate: dict[int, float] = field(default_factory=dict)
    model_path: str | None = None
    promotion: str | None = None
    notes: tuple[str, ...] = ()
    _step: str = ""
    _start: float = 0.0

    def begin(self, step: str) -> None:
        self._step, self._start = step, time.perf_counter()

    def end(self) -> None:
        self.seconds[self._step] = time.perf_counter() - self._start

    def outcome(self, **others: Any) -> Outcome:
        return Outcome(
            seconds=self.seconds,
            model_path=self.model_path,
            intermediate=self.intermediate,
            promotion=self.promotion,
            hardware=self.hardware,
            notes=self.notes,
            **others,
        )
