"""Search for the best way to quantize an ONNX model after training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "AdvancedFastftParams": "config",
    "AutoSearch": "auto_search",
    "AutoSearchConfig": "config",
    "MetricLimits": "config",
    "MetricSetting": "config",
    "Outcome": "trial",
    "SearchResult": "trial",
    "StopCondition": "config",
    "Trial": "trial",
}


def __getattr__(name: str) -> Any:
    """Imports what is named when it is asked for: a worker process never needs the search, nor Optuna."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
