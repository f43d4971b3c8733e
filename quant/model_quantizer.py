"""Quantizing once, without a search."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from quant.cache import StageCache
from quant.calibration.data import CalibrationData, DataReader, Feed
from quant.config import QuantConfig
from quant.graph.load import load_float_model
from quant.mixed_precision.sensitivity import SensitivityTable
from quant.pipeline import Pipeline
from quant.quantized_model import QuantizedModel


class ModelQuantizer:
    """Quantizes a model once, without a search."""

    def __init__(self, config: QuantConfig, cache_dir: str | Path | None = None) -> None:
        """Takes the configuration, and a directory for results that later calls can share."""
        self.config = config
        self.cache = StageCache(None if cache_dir is None else Path(cache_dir))

    def quantize_model(
        self,
        model_input: str | Path,
        model_output: str | Path | None,
        calibration_data_reader: CalibrationData | DataReader | Iterable[Feed],
    ) -> QuantizedModel:
        """Quantizes the model at `model_input` and writes it to `model_output`, if given.

        Raises:
            QuantError: Of the kind that names the culprit, before anything is written.
        """
        quantized = self._pipeline(model_input, calibration_data_reader).quantize(self.config)
        if model_output is not None:
            quantized.save(model_output, external_data=self.config.use_external_data_format)
        return quantized

    def sensitivity(
        self, model_input: str | Path, calibration_data_reader: CalibrationData | DataReader | Iterable[Feed]
    ) -> SensitivityTable:
        """What every tensor, node or block of the model costs when it alone is narrow.

        Raises:
            QuantError: Of the kind that names the culprit.
        """
        return self._pipeline(model_input, calibration_data_reader).sensitivity(self.config)

    def _pipeline(
        self, model_input: str | Path, data: CalibrationData | DataReader | Iterable[Feed]
    ) -> Pipeline:
        return Pipeline(load_float_model(model_input), CalibrationData(data), self.cache)
