"""Search for the best way to quantize an ONNX model after training."""

from autosearch.auto_search import AutoSearch
from autosearch.config import (
    AdvancedFastftParams,
    AutoSearchConfig,
    MetricLimits,
    MetricSetting,
    StopCondition,
)
from autosearch.trial import Outcome, SearchResult, Trial

__version__ = "0.1.0"

__all__ = [
    "AdvancedFastftParams",
    "AutoSearch",
    "AutoSearchConfig",
    "MetricLimits",
    "MetricSetting",
    "Outcome",
    "SearchResult",
    "StopCondition",
    "Trial",
    "__version__",
]
