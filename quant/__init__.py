"""A float ONNX model and one configuration -> a quantized ONNX model."""

from quant.cache import StageCache
from quant.calibration.data import CalibrationData
from quant.config import AutoMixprecisionConfig, ExtraOptions, FastFinetuneConfig, QuantConfig
from quant.errors import ConfigError, DataError, ModelError, QuantError, QuantizationError
from quant.graph.load import FloatModel, load_float_model
from quant.layers.cost import LayerCost, ModelCost
from quant.mixed_precision.promotion import Promotion
from quant.mixed_precision.sensitivity import Sensitivity, SensitivityTable
from quant.model_quantizer import ModelQuantizer
from quant.pipeline import Pipeline
from quant.quantized_model import QuantizedModel
from quant.types import CalibrationMethod, LayerWiseMethod, PowerOfTwoMethod, QuantFormat, QuantType

__all__ = [
    "AutoMixprecisionConfig",
    "CalibrationData",
    "CalibrationMethod",
    "ConfigError",
    "DataError",
    "ExtraOptions",
    "FastFinetuneConfig",
    "FloatModel",
    "LayerCost",
    "LayerWiseMethod",
    "ModelCost",
    "ModelError",
    "ModelQuantizer",
    "Pipeline",
    "PowerOfTwoMethod",
    "Promotion",
    "QuantConfig",
    "QuantError",
    "QuantFormat",
    "QuantType",
    "QuantizationError",
    "QuantizedModel",
    "Sensitivity",
    "SensitivityTable",
    "StageCache",
    "load_float_model",
]
