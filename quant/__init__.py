"""A float ONNX model and one configuration -> a quantized ONNX model."""

from quant.cache import StageCache
from quant.calibration.data import CalibrationData
from quant.config import ExtraOptions, FastFinetuneConfig, QuantConfig
from quant.errors import ConfigError, DataError, ModelError, QuantError, QuantizationError
from quant.graph.load import FloatModel, load_float_model
from quant.pipeline import ModelQuantizer, Pipeline, QuantizedModel
from quant.types import CalibrationMethod, LayerWiseMethod, PowerOfTwoMethod, QuantFormat, QuantType

__all__ = [
    "CalibrationData",
    "CalibrationMethod",
    "ConfigError",
    "DataError",
    "ExtraOptions",
    "FastFinetuneConfig",
    "FloatModel",
    "LayerWiseMethod",
    "ModelError",
    "ModelQuantizer",
    "Pipeline",
    "PowerOfTwoMethod",
    "QuantConfig",
    "QuantError",
    "QuantFormat",
    "QuantType",
    "QuantizationError",
    "QuantizedModel",
    "StageCache",
    "load_float_model",
]
