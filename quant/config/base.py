"""What all levels of a configuration share: parsing of names, strictness, errors."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from quant.errors import ConfigError, nearest
from quant.types import (
    CALIBRATE_METHODS,
    ELEMENT_TYPES,
    CalibrateMethod,
    ExtendedQuantType,
    QuantFormat,
    QuantType,
)

OTHER_NAMES = {
    "CalibPercentile": "use Percentile",
    "DefaultTensorType": "types are inferred; float32 and float16 tensors are quantized",
    "SmoothQuant": "use include_sq, beside extra_options",
    "SmoothQuantAlpha": "use SmoothAlpha",
    "SmoothQuantFolding": "SmoothQuant always folds where it can; leave it out",
    "extra.Sigmoid.nnapi": "it is for NNAPI alone; leave it out",
}
"""onnxruntime's options that are called something else here or have no counterpart, with the remedy."""


def _enum_parser(what: str, members: Mapping[str, Enum]) -> BeforeValidator:
    """Accepts a member or its name: ``QuantType.QInt8``, ``"QInt8"``, ``"QuantType.QInt8"``."""
    folded = {name.casefold(): member for name, member in members.items()}

    def parse(value: object) -> Enum:
        if isinstance(value, Enum):
            if value in members.values():
                return value
            value = value.name
        if isinstance(value, str):
            found = folded.get(value.rpartition(".")[2].casefold())
            if found is not None:
                return found
        raise ValueError(f"{value!r} is not a supported {what}{nearest(str(value), members)}")

    return BeforeValidator(parse)


def _tuple(value: object) -> object:
    """A single name stands for a list of one; None for an empty list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


_by_name = PlainSerializer(lambda member: member.name, return_type=str)
_TYPES: dict[str, Enum] = {member.name: member for member in ELEMENT_TYPES}
_FORMATS: dict[str, Enum] = {QuantFormat.QDQ.name: QuantFormat.QDQ}

Method = Annotated[CalibrateMethod, _enum_parser("calibration method", CALIBRATE_METHODS), _by_name]
ElementType = Annotated[QuantType | ExtendedQuantType, _enum_parser("quantized type", _TYPES), _by_name]
Format = Annotated[QuantFormat, _enum_parser("quantization format", _FORMATS), _by_name]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
PercentileValue = Annotated[float, Field(gt=50, le=100)]


class Level(BaseModel):
    """Frozen; unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(describe_validation_error(type(self), error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, nested as written; enumerations by name."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed; those not given stay defaults."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


def describe_validation_error(
    model: type[BaseModel], error: ValidationError, place: tuple[str, ...] = ()
) -> str:
    """Every complaint of a pydantic error on a line: where, what was given, what to do."""
    return "\n".join(_describe(model, dict(item), place) for item in error.errors())


def _describe(model: type[BaseModel], item: dict[str, Any], place: tuple[str, ...]) -> str:
    *parents, key = (*place, *(str(part) for part in item["loc"])) or ("",)
    if item["type"] == "extra_forbidden":
        where = f"{'.'.join(parents)}: " if parents else ""
        if key in OTHER_NAMES:
            return f"{where}unknown key {key!r}: {OTHER_NAMES[key]}"
        return f"{where}unknown key {key!r}{nearest(key, model.model_fields)}"
    where = ".".join((*parents, key))
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # the complaint of a nested configuration names its own place
        joint = ": " if str(cause).startswith("unknown key") else "."
        return f"{where}{joint}{cause}"
    if isinstance(cause, ValueError):
        return f"{where}: {cause}" if where else str(cause)
    return f"{where}: {item['msg']}, got {item['input']!r}"
