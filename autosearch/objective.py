"""One configuration -> one outcome: quantize, evaluate, or the reason of the failure."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autosearch.digest import model_digest
from autosearch.errors import OutputError
from autosearch.pruning import REPORT_AT, Judge, Pruned
from autosearch.trial import Outcome
from evaluators import DistanceEvaluator, Evaluator
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
        evaluator: Evaluator,
        *,
        cache_dir: Path | None,
        cache_bytes: int | None = DEFAULT_LIMIT_BYTES,
        histograms: bool,
        threads: int,
    ) -> None:
        """Takes what all trials share.

        Args:
            float_model: What to quantize.
            data: What to calibrate with.
            evaluator: What gives the metrics.
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
        self.evaluator = evaluator
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
        seconds: dict[str, float] = {}
        intermediate: dict[int, float] = {}
        written = None

        def report(percentage: int, values: Mapping[str, float]) -> None:
            assert judge is not None
            intermediate[percentage] = values[judge.metric]
            if judge.judge(percentage, values[judge.metric]):
                raise Pruned(percentage)

        try:
            start = time.perf_counter()
            quantized = self.pipeline.quantize(config)
            quantized.save(path, external_data=config.use_external_data_format)
            written = str(path)
            promotion = None if quantized.promotion is None else str(quantized.promotion)
            seconds["quantize"] = time.perf_counter() - start
            start = time.perf_counter()
            if judge is None:
                metrics = self.evaluator.evaluate(path, quantized.session_config)
            else:
                assert isinstance(self.evaluator, DistanceEvaluator)
                metrics = self.evaluator.evaluate(
                    path, quantized.session_config, report=report, report_at=REPORT_AT
                )
            seconds["evaluate"] = time.perf_counter() - start
            digest = model_digest(path)
            return Outcome(metrics, seconds, written, digest, intermediate=intermediate, promotion=promotion)
        except Pruned as pruned:
            seconds["evaluate"] = time.perf_counter() - start
            return Outcome({}, seconds, written, intermediate=intermediate, pruned_at=pruned.percentage)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise OutputError(
                    f"{path.parent}: {error}; free some space and start the same search again"
                ) from error
            return _failed(error, seconds, written)
        except Exception as error:  # noqa: BLE001 - whatever a model, a runtime or a user's evaluator raises
            return _failed(error, seconds, written)


def _failed(error: Exception, seconds: Mapping[str, float], written: str | None) -> Outcome:
    described = f"{type(error).__name__}: {error}"
    return Outcome({}, seconds, written, None, described, traceback.format_exc())
