from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quant import (
    CalibrationData,
    DataError,
    ModelError,
    ModelQuantizer,
    Pipeline,
    QuantConfig,
    StageCache,
    load_float_model,
)
from tests.parity.models import CASES, EXAMPLE
from tests.quant.graphs import (
    build,
    floats,
    initializers,
    node,
    pipeline,
    quantize,
    quantized_activations,
    relative_error,
    run,
)

METHODS = ["MinMSE", "NonOverflow", "MinMax", "Entropy", "Percentile"]
GRID = [
    QuantConfig(
        calibrate_method=method,
        activation_type=element,
        include_cle=equalized,
        extra_options={"ActivationSymmetric": symmetric, "Percentile": 99.99},
    )
    for method, element, equalized, symmetric in product(
        METHODS, ["QUInt8", "QInt16"], [True, False], [True, False]
    )
]


def digest(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


@pytest.fixture(scope="module")
def cnn() -> Pipeline:
    return _example(None, histograms=True)


def _example(directory: Path | None, *, histograms: bool = False) -> Pipeline:
    with np.load(EXAMPLE / "calibration.npz") as archive:
        images = next(archive[name] for name in archive.files if archive[name].ndim == 4)
    model = load_float_model(EXAMPLE / "digits_cnn.onnx")
    name = model.inputs[0].name
    feeds = [{name: images[i : i + 32]} for i in range(0, 64, 32)]
    return Pipeline(model, CalibrationData(feeds), StageCache(directory), histograms=histograms, threads=1)


def test_a_grid_collects_statistics_once_for_each_transformed_model(cnn: Pipeline) -> None:
    feed = cnn.data.feeds[0]
    wanted = run(onnx.load(cnn.float_model.path), feed)[0]
    digests = set()
    for config in GRID:
        model = cnn.quantize(config).model
        digests.add(digest(model))
        # one scale for weights whose channels are deliberately uneven costs much without equalization
        assert relative_error(wanted, run(model, feed)[0]) < (0.05 if config.include_cle else 0.95)
    counts = cnn.cache.counts
    assert counts["statistics"].computed == counts["transform"].computed + 1 == 2
    assert counts["prepare"].computed == 1
    assert counts["statistics"].memory_hits == len(GRID) - 2
    assert len(digests) == len(GRID)


def test_extremes_are_collected_again_only_where_histograms_were_not(cnn: Pipeline) -> None:
    fresh = Pipeline(cnn.float_model, cnn.data)
    for method in ("MinMax", "NonOverflow", "Entropy", "Percentile", "MinMax"):
        fresh.quantize(QuantConfig(calibrate_method=method))
    assert fresh.cache.counts["statistics"].computed == 2


def test_stages_are_shared_in_any_order(cnn: Pipeline) -> None:
    reverse = Pipeline(cnn.float_model, cnn.data, histograms=True)
    for config in GRID[::-7]:
        assert digest(reverse.quantize(config).model) == digest(cnn.quantize(config).model)


@pytest.mark.parametrize("config", GRID[::13], ids=range(len(GRID[::13])))
def test_the_same_configuration_gives_the_same_bytes(config: QuantConfig, cnn: Pipeline) -> None:
    alone = Pipeline(cnn.float_model, cnn.data).quantize(config)
    assert digest(alone.model) == digest(cnn.quantize(config).model)


SCRIPT = """
import sys
from pathlib import Path
from tests.quant.test_pipeline import GRID, _example, digest
example = _example(Path(sys.argv[1]))
for config in GRID[::13]:
    options = config.extra_options.replace(DedicatedQDQPair=True)
    print(digest(example.quantize(config.replace(extra_options=options)).model))
print(example.cache.counts["statistics"].computed)
"""


@pytest.fixture(scope="module")
def other_processes(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    directory = tmp_path_factory.mktemp("cache")
    root = Path(__file__).parents[2]
    lines = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", SCRIPT, str(directory)]
        result = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        lines.append(result.stdout.split())
    return lines


def test_another_process_gives_the_same_bytes_from_the_disk_cache(other_processes: list[list[str]]) -> None:
    first, second = other_processes
    assert first[:-1] == second[:-1] and len(set(first[:-1])) == 4
    assert (int(first[-1]) > 0, int(second[-1])) == (True, 0)


def test_only_the_first_samples_are_read() -> None:
    model, feeds = CASES["mlp"]()
    limited = quantize(model, feeds, extra_options={"CalibDataSize": 40}).model
    wanted = quantize(model, [feeds[0], {"x": feeds[1]["x"][:8]}]).model
    assert digest(limited) == digest(wanted) != digest(quantize(model, feeds).model)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [*METHODS, "LayerWisePercentile", "MSE", "Distribution"])
def test_every_method_on_every_model(case: str, method: str) -> None:
    model, feeds = CASES[case]()
    shared = pipeline(model, feeds)
    for arguments in (
        {"activation_type": "QUInt8", "per_channel": True, "include_cle": True},
        {
            "activation_type": "QInt16",
            "weight_type": "QInt16",
            "extra_options": {"ActivationSymmetric": True},
        },
    ):
        result = shared.quantize(QuantConfig(calibrate_method=method, **arguments)).model
        onnx.checker.check_model(result, full_check=True)
        for got, wanted in zip(run(result, feeds[0]), run(model, feeds[0]), strict=True):
            assert relative_error(wanted, got) < 0.3
        scales = [value for name, value in initializers(result).items() if name.endswith("_scale")]
        powers = all((np.frexp(scale)[0] == 0.5).all() for scale in scales)
        assert powers is (method in ("MinMSE", "NonOverflow"))


def test_wider_types_come_nearer() -> None:
    for case in ("residual_cnn", "attention"):
        model, feeds = CASES[case]()
        wanted = run(model, feeds[0])[0]
        errors = []
        for bits in (8, 16):
            result = quantize(model, feeds, activation_type=f"QInt{bits}", weight_type=f"QInt{bits}").model
            errors.append(relative_error(wanted, run(result, feeds[0])[0]))
        assert errors[1] < errors[0] / 50


def test_tensors_beyond_the_usual_ones_cost_another_pass() -> None:
    nodes = [node("MaxPool", "x", "p", kernel_shape=[2]), node("Relu", "p", "r"), node("MatMul", "r w", "y")]
    model = build(nodes, {"x": (2, 3, 9)}, {"w": floats(8, 4)}, "y")
    shared = pipeline(model, {"x": floats(2, 3, 9)})
    assert set(quantized_activations(shared.quantize(QuantConfig()).model)) == {"r", "y"}
    forced = shared.quantize(QuantConfig(extra_options={"ForceQuantizeNoInputCheck": True})).model
    assert set(quantized_activations(forced)) == {"x", "r", "y"}
    assert shared.cache.counts["statistics"].computed == 2


def test_model_quantizer_writes_what_it_returns(tmp_path: Path) -> None:
    model, feeds = CASES["mlp"]()
    onnx.save(model, tmp_path / "float.onnx")
    quantizer = ModelQuantizer(QuantConfig(per_channel=True), cache_dir=tmp_path / "cache")
    result = quantizer.quantize_model(tmp_path / "float.onnx", tmp_path / "q.onnx", iter(feeds))
    assert onnx.load(tmp_path / "q.onnx") == result.model
    assert quantizer.quantize_model(str(tmp_path / "float.onnx"), None, feeds).model == result.model
    external = ModelQuantizer(QuantConfig(use_external_data_format=True))
    external.quantize_model(tmp_path / "float.onnx", tmp_path / "e.onnx", feeds)
    assert (tmp_path / "e.onnx").is_file()


def test_model_quantizer_refuses_before_it_writes(tmp_path: Path) -> None:
    model, feeds = CASES["mlp"]()
    source, target = tmp_path / "float.onnx", tmp_path / "q.onnx"
    onnx.save(model, source)
    quantizer = ModelQuantizer(QuantConfig())
    attempts: list[tuple[Path, Any, type[Exception]]] = [
        (tmp_path / "none.onnx", feeds, ModelError),
        (source, [], DataError),
        (source, [{"y": feeds[0]["x"]}], DataError),
        (source, [{"x": feeds[0]["x"] * np.inf}], DataError),
    ]
    for path, data, kind in attempts:
        with pytest.raises(kind):
            quantizer.quantize_model(path, target, data)
    assert not target.exists()


def test_values_that_overflow_inside_the_model_are_refused() -> None:
    nodes = [node("Exp", "x", "e"), node("MatMul", "e w", "y")]
    model = build(nodes, {"x": (2, 4)}, {"w": floats(4, 3)}, "y")
    with pytest.raises(DataError, match="tensor 'e': NaN or infinite"):
        quantize(model, {"x": np.full((2, 4), 1000, np.float32)})


def test_skipped_nodes_are_reported() -> None:
    model, feeds = CASES["residual_cnn"]()
    skips = {skip.node: skip.reason for skip in quantize(model, feeds, include_cle=True).skipped}
    assert skips["Conv_c1"] == "weight 'b' is shared"
