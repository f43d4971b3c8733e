"""Makes an evaluator of whatever the user has: a function, an object or a class."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import Direction, Metric, hint
from evaluators.sessions import SessionConfig

_DIRECTIONS: Mapping[str, Direction] = {"minimize": "minimize", "maximize": "maximize"}


class CustomEvaluator:
    """Calls the user's evaluator with the path of a model, as a string.

    What is called is the object's `evaluate`, else the object itself. It returns one number, or a
    mapping from metric to number, the first of which is searched. The object may say more:

    - `metrics`: names or `Metric`s, in their order. Without it the metrics are those of a mapping
      `direction`, else one, called as the function or "metric"; if the first evaluation then
      returns a mapping, the metrics are its keys from there on.
    - `direction`: "maximize" (the default) or "minimize", for all metrics or as a mapping by name.

    The user's code makes its own sessions. Models of 2-bit and float8 types need session config entries
    for that: a parameter called `session_config` is given them, a sequence of (key, value) for
    `onnxruntime.SessionOptions.add_session_config_entry`; they are in the model's metadata, too.

    Args:
        user: The function, the object, or a class that can be instantiated without arguments.

    Raises:
        EvaluatorInputError: If it cannot be called or instantiated, or its `metrics` or `direction`
            make no sense.
    """

    def __init__(self, user: Any) -> None:
        instance = _instance(user)
        self._label = _label(instance)
        self._call = _call(instance, self._label)
        self._direction = _direction(instance, self._label)
        declared = _declared_names(instance, self._direction, self._label)
        self._learns_names = declared is None
        names = [_default_name(instance)] if declared is None else declared
        self._metrics = self._metrics_of(names)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The declared metrics; undeclared ones are certain after the first evaluation only."""
        return self._metrics

    def evaluate(self, model_path: Path, session_config: SessionConfig = ()) -> dict[str, float]:
        """The user's numbers for one model; infinite ones are allowed.

        Raises:
            EvaluationError: If the user's code raises, returns something else than numbers, or
                other metrics than declared.
        """
        try:
            returned = self._call(str(model_path), **self._settings(session_config))
        except Exception as error:
            raise EvaluationError(f"{self._label} raised {type(error).__name__}: {error}") from error
        if not isinstance(returned, Mapping):
            return self._values({self._metrics[0].name: returned})
        if self._learns_names and returned:
            self._metrics = self._metrics_of(returned)
        return self._values(returned)

    def _settings(self, session_config: SessionConfig) -> dict[str, SessionConfig]:
        """The entries, for those who ask for them."""
        try:
            asked = "session_config" in inspect.signature(self._call).parameters
        except (TypeError, ValueError):  # what is not written in Python may have no signature
            asked = False
        return {"session_config": session_config} if asked else {}

    def _values(self, returned: Mapping[str, Any]) -> dict[str, float]:
        names = [metric.name for metric in self._metrics]
        if set(returned) != set(names):
            raise EvaluationError(
                f"{self._label} returned {', '.join(map(repr, returned)) or 'no metric'}; "
                f"its metrics are {', '.join(map(repr, names))}"
            )
        values = {name: self._number(name, returned[name]) for name in names}
        self._learns_names = False
        return values

    def _number(self, name: str, value: Any) -> float:
        number = _as_float(value)
        if number is None:
            shown = f"an array of shape {value.shape}" if getattr(value, "shape", ()) else repr(value)
            raise EvaluationError(f"{self._label} returned {shown} for {name!r}; it must be one number")
        if math.isnan(number):
            raise EvaluationError(f"{self._label} returned nan for {name!r}")
        return number

    def _metrics_of(self, names: Iterable[str | Metric]) -> tuple[Metric, ...]:
        metrics = tuple(n if isinstance(n, Metric) else self._metric(n) for n in names)
        known = [metric.name for metric in metrics]
        if not known or len(set(known)) < len(known):
            raise EvaluatorInputError(f"{self._label}: metrics must be different names, not {known!r}")
        if isinstance(self._direction, Mapping):
            for name in self._direction:
                if name not in known:
                    raise EvaluatorInputError(
                        f"{self._label}: direction of an unknown metric {name!r}; {hint(name, known)}"
                    )
        return metrics

    def _metric(self, name: str) -> Metric:
        if isinstance(self._direction, Mapping):
            return Metric(name, direction=self._direction.get(name, "maximize"))
        return Metric(name, direction=self._direction)


def _instance(user: Any) -> Any:
    if not isinstance(user, type):
        return user
    try:
        inspect.signature(user).bind()
    except (TypeError, ValueError) as error:  # ValueError: a class in C without a signature
        raise EvaluatorInputError(
            f"evaluator: the class {user.__name__} needs arguments ({error}); give an instance of it"
        ) from error
    try:
        return user()
    except Exception as error:
        raise EvaluatorInputError(
            f"evaluator: {user.__name__}() raised {type(error).__name__}: {error}"
        ) from error


def _label(instance: Any) -> str:
    """How errors call the user's evaluator."""
    return f"evaluator {getattr(instance, '__name__', type(instance).__name__)!r}"


def _default_name(instance: Any) -> str:
    name = getattr(instance, "__name__", "")
    return name if isinstance(name, str) and name.isidentifier() else "metric"


def _call(instance: Any, label: str) -> Callable[..., Any]:
    for call in (getattr(instance, "evaluate", None), instance):
        if callable(call):
            return call  # type: ignore[no-any-return]
    raise EvaluatorInputError(
        f"{label}: {instance!r} is neither callable nor has it an evaluate(model_path); "
        "give a function from a model's path to a number"
    )


def _direction(instance: Any, label: str) -> Direction | Mapping[str, Direction]:
    direction = getattr(instance, "direction", "maximize")
    if isinstance(direction, Mapping):
        return {name: _known_direction(value, label) for name, value in direction.items()}
    return _known_direction(direction, label)


def _known_direction(direction: Any, label: str) -> Direction:
    if not isinstance(direction, str) or direction not in _DIRECTIONS:
        raise EvaluatorInputError(
            f"{label}: unknown direction {direction!r}; {hint(str(direction), _DIRECTIONS)}"
        )
    return _DIRECTIONS[direction]


def _declared_names(
    instance: Any, direction: Direction | Mapping[str, Direction], label: str
) -> list[str | Metric] | None:
    """The metrics that the user's evaluator declares, or None."""
    declared = getattr(instance, "metrics", None)
    if declared is None:
        return list(direction) if isinstance(direction, Mapping) else None
    names = [declared] if isinstance(declared, str | Metric) else declared
    if not isinstance(names, Iterable) or not all(isinstance(n, str | Metric) for n in names):
        raise EvaluatorInputError(f"{label}: metrics must be names or Metrics, not {declared!r}")
    return list(names)


def _as_float(value: Any) -> float | None:
    """A Python or NumPy number, or what holds exactly one, as a float; None if it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(()).item()
    if isinstance(value, bool | np.bool | np.ndarray) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several elements, for instance
        return None
