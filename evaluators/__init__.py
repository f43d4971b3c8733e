from evaluators.accuracy import AccuracyEvaluator
from evaluators.builtin import DistanceEvaluator
from evaluators.custom import CustomEvaluator, as_evaluator
from evaluators.distance import DISTANCES, distance_metric
from evaluators.errors import EvaluationError, EvaluatorError, EvaluatorInputError
from evaluators.metric import Direction, Evaluator, Metric
from evaluators.sessions import SessionSettings

__all__ = [
    "DISTANCES",
    "AccuracyEvaluator",
    "CustomEvaluator",
    "Direction",
    "DistanceEvaluator",
    "EvaluationError",
    "Evaluator",
    "EvaluatorError",
    "EvaluatorInputError",
    "Metric",
    "SessionSettings",
    "as_evaluator",
    "distance_metric",
]
