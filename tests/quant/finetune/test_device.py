"""Which array library serves a device; the libraries and their GPU are stand-ins."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quant import ConfigError
from quant.finetune.device import inference_providers, open_device


class OnGpu:
    """An array that says where it is."""

    def __init__(self, values: np.ndarray, place: str) -> None:
        self.values, self.place = values, place

    def cpu(self) -> SimpleNamespace:
        return SimpleNamespace(numpy=lambda: self.values)


def torch(gpus: int) -> Any:
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus)
    return SimpleNamespace(cuda=cuda, asarray=lambda values, device: OnGpu(values, device))


def cupy(gpus: int) -> Any:
    current: list[int] = []

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: gpus), Device=Device)
    return SimpleNamespace(
        cuda=cuda,
        asarray=lambda values: OnGpu(values, f"cupy:{current[-1]}"),
        asnumpy=lambda array: array.values,
    )


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def import_module(name: str) -> Any:
        if name not in found:
            raise ImportError(name)
        return found[name]

    monkeypatch.setattr(importlib, "import_module", import_module)
    return found


def test_numpy_serves_the_cpu() -> None:
    device, values = open_device("cpu"), np.arange(3.0)
    assert device.put(values) is values and device.get(values) is values


@pytest.mark.parametrize(
    ("installed", "name", "place"),
    [
        ({"torch": torch(2)}, "cuda:1", "cuda:1"),
        ({"torch": torch(1)}, "cuda", "cuda:0"),
        ({"cupy": cupy(2), "torch": torch(2)}, "cuda:1", "cupy:1"),
        ({"cupy": cupy(1), "torch": torch(2)}, "cuda:1", "cuda:1"),
    ],
)
def test_arrays_get_to_the_device_and_back(
    libraries: dict[str, Any], installed: dict[str, Any], name: str, place: str
) -> None:
    libraries.update(installed)
    device, values = open_device(name), np.arange(6.0).reshape(2, 3)
    there = device.put(values)
    assert there.place == place and device.name == name
    np.testing.assert_array_equal(device.get(there), values)


@pytest.mark.parametrize(
    "installed",
    [{}, {"torch": torch(0)}, {"torch": torch(1), "cupy": cupy(1)}],
    ids=["none", "without a GPU", "with one GPU"],
)
def test_a_device_that_nothing_can_use_is_refused_with_the_remedy(
    libraries: dict[str, Any], installed: dict[str, Any]
) -> None:
    libraries.update(installed)
    with pytest.raises(ConfigError, match=r"can use 'cuda:1'; install CuPy .* or PyTorch with CUDA"):
        open_device("cuda:1")


def test_where_models_run() -> None:
    assert inference_providers("cpu", ("CPUExecutionProvider",)) == ("CPUExecutionProvider",)
    first, second = inference_providers("cuda:3", ("CPUExecutionProvider",))
    assert first == ("CUDAExecutionProvider", {"device_id": "3"}) and second == "CPUExecutionProvider"
    with pytest.raises(ConfigError, match="InferDevice: 'cuda:x' is not a device"):
        inference_providers("cuda:x", ())
