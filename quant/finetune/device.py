"""Where the arrays of finetuning live: NumPy's memory, or a GPU through CuPy or PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.errors import ConfigError
from quant.finetune.grid import Array
from quant.graph.session import Provider

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """How arrays get to a device and back.

    Attributes:
        name: As in `OptimDevice`: "cpu", "cuda", "cuda:1".
        put: A NumPy array -> one on the device.
        get: The inverse.
    """

    name: str
    put: Callable[[NDArray[Any]], Array]
    get: Callable[[Array], NDArray[Any]]


def open_device(name: str) -> Device:
    """The device of a name.

    Raises:
        ConfigError: If it is not known, or no array library here can use it.
    """
    if name == CPU:
        return Device(name, np.asarray, np.asarray)
    index = _cuda_index("OptimDevice", name)
    for attempt in (_cupy, _torch):
        device = attempt(name, index)
        if device is not None:
            return device
    raise ConfigError(
        f"OptimDevice: no array library here can use {name!r}; install CuPy (pip install cupy-cuda12x) or"
        " PyTorch with CUDA (pip install torch), or use 'cpu'"
    )


def inference_providers(device: str, providers: tuple[str, ...]) -> tuple[Provider, ...]:
    """Onnxruntime's execution providers for `InferDevice`: those of the configuration for "cpu".

    Raises:
        ConfigError: If the name is not one of a device.
    """
    if device == CPU:
        return providers
    index = _cuda_index("InferDevice", device)
    return (("CUDAExecutionProvider", {"device_id": str(index)}), "CPUExecutionProvider")


def _cuda_index(option: str, name: str) -> int:
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ConfigError(f"{option}: {name!r} is not a device; give 'cpu', 'cuda' or 'cuda:<number>'")
    return int(index or 0)


def _cupy(name: str, index: int) -> Device | None:
    try:
        cupy = importlib.import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() <= index:
            return None
    except Exception:  # noqa: BLE001 - absent, or without a driver, for which it has errors of its own
        return None

    def put(array: NDArray[Any]) -> Array:
        with cupy.cuda.Device(index):
            return cupy.asarray(array)

    return Device(name, put, cupy.asnumpy)


def _torch(name: str, index: int) -> Device | None:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    if not torch.cuda.is_available() or torch.cuda.device_count() <= index:
        return None
    return Device(
        name,
        lambda array: torch.asarray(np.ascontiguousarray(array), device=f"cuda:{index}"),
        lambda array: array.cpu().numpy(),
    )
