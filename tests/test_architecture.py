"""What the packages may import, and what `quant` exports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quant

ROOT = Path(__file__).parents[1]
PACKAGES = ("autosearch", "evaluators", "quant")
ALLOWED = {"quant": {"quant"}, "evaluators": {"evaluators"}, "autosearch": set(PACKAGES)}


def imported(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add((node.module or "").partition(".")[0])
    return modules


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported(path) & set(PACKAGES) - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"
        assert "tests" not in imported(path)


def test_exported_names_of_quant() -> None:
    assert sorted(quant.__all__) == [
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
    assert all(hasattr(quant, name) for name in quant.__all__)
