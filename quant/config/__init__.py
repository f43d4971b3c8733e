"""What to quantize and how: one frozen, validated value.

The names and levels are those of AMD Quark's ONNX quantizer (level 1: `QuantConfig`, level 2:
`ExtraOptions`, level 3: `FastFinetuneConfig`); defaults are onnxruntime's where it has the option.
Those of cross-layer equalization are the paper's (no bias in the ranges, no threshold), with a second
round, which left less error on every model that was measured.
"""

from quant.config.base import OTHER_NAMES, describe_validation_error
from quant.config.finetuning import FastFinetuneConfig
from quant.config.layers import LayerEntry, LayerTable
from quant.config.mixed_precision import AutoMixprecisionConfig, PrecisionTarget
from quant.config.options import ExtraOptions
from quant.config.overrides import TensorOverride
from quant.config.quantization import QuantConfig, flatten, unflatten

__all__ = [
    "OTHER_NAMES",
    "AutoMixprecisionConfig",
    "ExtraOptions",
    "FastFinetuneConfig",
    "LayerEntry",
    "LayerTable",
    "PrecisionTarget",
    "QuantConfig",
    "TensorOverride",
    "describe_validation_error",
    "flatten",
    "unflatten",
]
