from evaluators.accuracy import AccuracyEvaluator
from evaluators.builtin import DistanceEvaluator
from evaluators.classification import ClassificationEvaluator
from evaluators.combined import CombinedEvaluator, as_evaluator, can_report
from evaluators.custom import CustomEvaluator
from evaluators.distance import DISTANCES, distance_metric
from evaluators.errors import EvaluationError, EvaluatorError, EvaluatorInputError
from evaluators.hardware import (
    HardwareEvaluator,
    ModelCost,
    float_cost,
    hardware_metrics,
    is_hardware_metric,
)
from evaluators.metric import Direction, Evaluator, Metric
from evaluators.perplexity import PerplexityEvaluator
from evaluators.sessions import SessionSettings
from evaluators.token_windows import token_windows

__all__ = [
    "DISTANCES",
    "AccuracyEvaluator",
    "ClassificationEvaluator",
    "CombinedEvaluator",
    "CustomEvaluator",
    "Direction",
    "DistanceEvaluator",
    "EvaluationError",
    "Evaluator",
    "EvaluatorError",
    "EvaluatorInputError",
    "HardwareEvaluator",
    "Metric",
    "ModelCost",
    "PerplexityEvaluator",
    "SessionSettings",
    "as_evaluator",
    "can_report",
    "distance_metric",
    "float_cost",
    "hardware_metrics",
    "is_hardware_metric",
    "token_windows",
]
