import ast
from pathlib import Path

import evaluators


def test_exported_names():
    assert sorted(evaluators.__all__) == [
        "AccuracyEvaluator",
        "ClassificationEvaluator",
        "CombinedEvaluator",
        "CustomEvaluator",
        "DISTANCES",
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
    assert all(hasattr(evaluators, name) for name in evaluators.__all__)


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_evaluators_import_neither_the_quantizer_nor_the_search():
    sources = list(Path(evaluators.__file__).parent.rglob("*.py"))
    assert sources
    for path in sources:
        assert not {"quant", "autosearch", "optuna"} & set(imported_packages(path)), path.name
