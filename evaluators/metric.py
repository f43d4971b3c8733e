"""A metric as a value: what it is called, what it is measured in, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from evaluators.errors import EvaluatorInputError

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators.sessions import SessionConfig

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Metric:
    """The name, unit and direction of one number that an evaluator returns.

    Attributes:
        name: Unique within an evaluator.
        unit: "dB", "ms", ...; empty for a plain number.
        direction: Whether lower ("minimize") or higher ("maximize") values are better.
        against_float: The value already compares the candidate with the float model, as the
            built-in distances do; otherwise the float model has a value of its own.

    Raises:
        EvaluatorInputError: If the name is empty or the direction is unknown.
    """

    name: str
    unit: str = ""
    direction: Direction = "maximize"
    against_float: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise EvaluatorInputError(f"metric: a name must be a word, not {self.name!r}")
        if self.direction not in get_args(Direction):
            raise EvaluatorInputError(
                f"metric {self.name!r}: direction must be 'minimize' or 'maximize', not {self.direction!r}"
            )

    @property
    def is_similarity(self) -> bool:
        """Whether the value says how much alike, not how far apart, the two models are."""
        return self.against_float and self.direction == "maximize"

    def difference(self, value: float, float_value: float) -> float:
        """How far a candidate is from the float model, in the metric's own unit.

        The value itself where it compares the two already (`float_value` is not read). Otherwise
        what was lost: float_value - value when higher is better, value - float_value when lower
        is better, hence negative where the candidate is better than the float model. Equal values,
        infinite ones too, differ by 0.
        """
        if self.against_float:
            return value
        if value == float_value:
            return 0.0
        return float_value - value if self.direction == "maximize" else value - float_value

    def within(self, difference: float, tolerance: float | None) -> bool:
        """Whether a difference is good enough: a similarity at least, all others at most.

        A tolerance of None is no limit. NaN is never within.
        """
        if math.isnan(difference):
            return False
        if tolerance is None:
            return True
        return difference >= tolerance if self.is_similarity else difference <= tolerance

    def loss(self, difference: float) -> float:
        """The difference with the sign that makes lower better, to sort by; NaN stays NaN."""
        return -difference if self.is_similarity else difference


class Evaluator(Protocol):
    """Gives numbers to a model: the one contract that every evaluator keeps."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that `evaluate` returns; the first is the one that is searched."""
        ...

    def evaluate(self, model_path: Path, session_config: SessionConfig = ()) -> dict[str, float]:
        """Value of each metric for one model, in the order of `metrics`; never NaN.

        Args:
            model_path: An ONNX file, quantized or float.
            session_config: Session config entries that this model needs, beside the evaluator's own
                settings.

        Raises:
            EvaluationError: If the model does not run or a value cannot be computed.
        """
        ...


def hint(name: str, known: Iterable[str]) -> str:
    """What to do about a misspelt name: the known name that is nearest, or all of them."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_lower_case, n=1)
    if matches:
        return f"did you mean {by_lower_case[matches[0]]!r}?"
    return f"known are {', '.join(by_lower_case.values())}"
