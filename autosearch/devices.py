"""`search_devices`: where workers calibrate, finetune and evaluate.

Each worker process of a GPU sees that GPU alone, through CUDA_VISIBLE_DEVICES. So onnxruntime, CuPy,
PyTorch and whatever a custom evaluator uses all find it as the first one, and results of stages, whose
keys name the kind of device, are shared by all workers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import onnxruntime as ort

from autosearch.errors import ConfigError
from evaluators.sessions import Provider
from quant import QuantConfig

CPU = "cpu"
_CUDA = re.compile(r"cuda(?::(\d+(?:,(?:cuda:)?\d+)*))?")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_FIRST = "cuda:0"
"""As a worker sees its GPU."""
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""The second one for operators that the first one lacks."""
_ARRAY_LIBRARIES = ("cupy", "torch")
_REMEDY = "install it with: pip install 'autosearch[gpu]'"


@dataclass(frozen=True)
class Devices:
    """Where workers compute.

    Attributes:
        gpus: Their numbers, a worker for each; empty = on the CPU.
    """

    gpus: tuple[int, ...] = ()

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Execution providers of a worker's sessions."""
        return _PROVIDERS if self.gpus else ("CPUExecutionProvider",)

    def environments(self, own: Mapping[str, str]) -> tuple[Mapping[str, str], ...]:
        """What each worker's environment has beside this process's own; empty = nothing, for any worker.

        Args:
            own: This process's environment: where it sees only some GPUs, numbers count among those.

        Raises:
            ConfigError: If it does not see as many.
        """
        given = own.get(_VISIBLE)
        if given is None:
            return tuple({_VISIBLE: str(gpu)} for gpu in self.gpus)
        visible = [name.strip() for name in given.split(",") if name.strip()]
        for gpu in self.gpus:
            if gpu >= len(visible):
                raise ConfigError(
                    f"search_devices: no GPU {gpu} among the {len(visible)} of {_VISIBLE}={given!r}, which"
                    " are numbered from 0"
                )
        return tuple({_VISIBLE: visible[gpu]} for gpu in self.gpus)

    def jobs(self, n_jobs: int) -> tuple[int, str | None]:
        """How many workers there are, and a note if that is not what was asked for."""
        if not self.gpus or n_jobs == len(self.gpus):
            return n_jobs, None
        count = len(self.gpus)
        return count, f"n_jobs: {count} instead of {n_jobs}, a worker for each of search_devices"

    def apply(self, base: QuantConfig) -> QuantConfig:
        """The configuration that calibrates and finetunes there, but for devices that it names itself."""
        if not self.gpus:
            return base
        options = base.extra_options
        finetuning = options.FastFinetune
        named = finetuning.model_fields_set if "FastFinetune" in options.model_fields_set else frozenset()
        own = {key: _FIRST for key in ("OptimDevice", "InferDevice") if key not in named}
        providers = _PROVIDERS if "execution_providers" not in base.model_fields_set else None
        return base.replace(
            execution_providers=providers or base.execution_providers,
            extra_options=options.replace(FastFinetune=finetuning.replace(**own)),
        )


def read_devices(text: str) -> Devices:
    """The devices of ``cpu``, ``cuda``, ``cuda:1`` or ``cuda:0,1``.

    Raises:
        ConfigError: If it is none of these, or names a GPU twice.
    """
    compact = text.replace(" ", "").casefold()
    if compact == CPU:
        return Devices()
    match = _CUDA.fullmatch(compact)
    if match is None:
        raise ConfigError(f"search_devices: unknown device {text!r}; give 'cpu', 'cuda:0' or 'cuda:0,1'")
    gpus = tuple(int(number) for number in re.findall(r"\d+", match[1] or "0"))
    if len(set(gpus)) < len(gpus):
        raise ConfigError(f"search_devices: {text!r} names a GPU twice; each has one worker")
    return Devices(gpus)


def check_devices(
    devices: Devices,
    *,
    finetunes_on: Sequence[str] = (),
    infers_on: Sequence[str] = (),
    providers: Sequence[str] = (),
) -> None:
    """Refuses devices that nothing here can use, rather than searching on the CPU or failing in every trial.

    Args:
        devices: From `read_devices`.
        finetunes_on: Every `OptimDevice` with which some configuration finetunes.
        infers_on: Every `InferDevice` of these.
        providers: Every execution provider of some configuration.

    Raises:
        ConfigError: With what has to be installed.
    """
    asked = [("search_devices", _PROVIDERS[0])] if devices.gpus else []
    asked += [("execution_providers", provider) for provider in providers]
    if any(device != CPU for device in infers_on):
        asked.append(("extra_options.FastFinetune.InferDevice", _PROVIDERS[0]))
    available = ort.get_available_providers()
    for place, provider in asked:
        if provider not in available:
            remedy = f"; {_REMEDY}, in place of the package onnxruntime" if provider == _PROVIDERS[0] else ""
            raise ConfigError(
                f"{place}: onnxruntime here has no {provider} (it has {', '.join(available)}){remedy}"
            )
    wanted = [device for device in finetunes_on if device != CPU]
    if wanted and not any(find_spec(library) for library in _ARRAY_LIBRARIES):
        place = "search_devices" if devices.gpus else "extra_options.FastFinetune.OptimDevice"
        raise ConfigError(
            f"{place}: FastFinetune on {wanted[0]!r} needs CuPy or PyTorch; {_REMEDY}, or set"
            " extra_options.FastFinetune.OptimDevice to cpu"
        )
