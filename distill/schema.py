"""Sections of YAML files as pydantic models: ranges stand at the field, unknown keys are refused, errors are one
sentence.

class Pruner(Section):
    kind: Literal["hyperband", "median"] = "hyperband"
    factor: int = Field(3, ge=2)

pruner = validated(Pruner, {"factor": 1}, "tiny.yaml", "search.pruner")
# UserError: tiny.yaml: 'search.pruner.factor' is 1; expected 2 or more.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from distill.errors import UserError

S = TypeVar("S", bound=BaseModel)

# pydantic's type of an error -> what was expected; {} takes values from the error's context
EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "keys and values",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "too_short": "{min_length} or more entries",
    "value_error": "{error}",
}
LONGEST = 160  # characters of a value that a message shows
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Section(BaseModel):
    """Keys and values of a file. Values are not converted (`true` is no number), except 3e-4 by `Number`.

    A validator of a subclass raises ValueError with what was expected: "two numbers, the lower one first".
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, values: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise PydanticCustomError("unknown_key", "unknown", {"key": str(key), "known": ", ".join(known)})
        return values


def as_number(value: Any) -> Any:
    """3e-4, which YAML reads as text, as the number it is; anything else as it stands."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _as_section(value: Any) -> Any:
    return {} if value is None else {str(k): v for k, v in value.items()} if isinstance(value, dict) else value


Number = Annotated[float, BeforeValidator(as_number)]
Keys = BeforeValidator(_as_section)  # of a dict: names as text; a key without a value has none


def validated(model: type[S], values: Any, source: object, prefix: str = "") -> S:
    """The values as a model. Raises UserError naming `source` and the dotted key, which begins with `prefix`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise user_error_from(error, source, prefix) from None


def shown(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def user_error_from(error: ValidationError, source: object, prefix: str = "") -> UserError:
    """The first fault that pydantic found, as the sentence `SOURCE: 'dotted.key' is VALUE; expected WHAT.`

    source: the file, or what else the values came from; prefix: the key of the model itself. Parts of a place that
    are in square brackets are not shown: pydantic's "[key]", and the tags of a union if they are written so.
    """
    fault = error.errors(include_url=False)[0]
    kind, found, context = fault["type"], fault["input"], fault.get("ctx", {})
    parts = [str(part) for part in fault["loc"] if not re.fullmatch(r"\[.*\]", str(part))]
    if kind == "unknown_key":
        parts.append(context["key"])
    key = ".".join([prefix, *parts] if prefix else parts)
    if kind == "unknown_key":
        return UserError(f"{source}: '{key}' is unknown; expected one of {context['known']}.")
    if kind == "missing":
        return UserError(f"{source}: '{key}' is missing.")
    expected = EXPECTED[kind].format(**context) if kind in EXPECTED else fault["msg"]
    if isinstance(found, dict):
        return UserError(f"{source}: '{key}': expected {expected}.")
    return UserError(f"{source}: '{key}' is {shown(found)}; expected {expected}.")
