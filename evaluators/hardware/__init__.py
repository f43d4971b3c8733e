from evaluators.hardware.cost import LayerCost, ModelCost, float_cost
from evaluators.hardware.evaluator import HardwareEvaluator, hardware_metrics
from evaluators.hardware.families import HARDWARE_METRICS, is_hardware_metric

__all__ = [
    "HARDWARE_METRICS",
    "HardwareEvaluator",
    "LayerCost",
    "ModelCost",
    "float_cost",
    "hardware_metrics",
    "is_hardware_metric",
]
