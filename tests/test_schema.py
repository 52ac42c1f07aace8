"""What pydantic refuses is told in one sentence that names the file and the key."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field

from distill.errors import UserError
from distill.schema import Number, Section, validated


def even(value: int) -> int:
    if value % 2:
        raise ValueError("an even number")
    return value


class Inner(Section):
    kind: Literal["a", "b"] = "a"
    share: Number = Field(0.5, ge=0, lt=1)
    size: Annotated[int, AfterValidator(even)] = 2


class Outer(Section):
    name: str
    low_high: list[Number] = Field([], alias="float")
    inner: Inner = Inner()
    bounds: dict[Literal["bytes", "ms"], Annotated[Number, Field(gt=0)]] = {}


def test_values_stand_as_they_are_and_a_bare_exponent_is_a_number():
    made = validated(Outer, {"name": "x", "inner": {"share": "3e-4"}, "float": [1, "2e1"]}, "file.yaml")
    assert (made.inner.share, made.low_high) == (3e-4, [1.0, 20.0])


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, "name"),
        ({"name": 3}, "name"),
        ({"name": "x", "nome": 3}, "nome"),
        ({"name": "x", "inner": 3}, "inner"),
        ({"name": "x", "inner": {"kinds": "a"}}, "inner.kinds"),
        ({"name": "x", "inner": {"kind": "c"}}, "inner.kind"),
        ({"name": "x", "inner": {"share": 1}}, "inner.share"),
        ({"name": "x", "inner": {"share": float("nan")}}, "inner.share"),
        ({"name": "x", "inner": {"share": True}}, "inner.share"),
        ({"name": "x", "inner": {"share": "0.5"}}, "inner.share"),
        ({"name": "x", "inner": {"size": 3}}, "inner.size"),
        ({"name": "x", "inner": {"size": 2.0}}, "inner.size"),
        ({"name": "x", "float": [1, "two"]}, "float.1"),
        ({"name": "x", "bounds": {"bytes": 0}}, "bounds.bytes"),
        ({"name": "x", "bounds": {"kilos": 1}}, "bounds.kilos"),
    ],
)
def test_a_refusal_is_one_sentence_with_file_and_key(values, key):
    with pytest.raises(UserError) as error:
        validated(Outer, values, "file.yaml", "top")
    text = str(error.value)
    assert text.startswith(f"file.yaml: 'top.{key}'") and text.endswith(".") and "\n" not in text


def test_a_refusal_names_what_is_allowed():
    for values, expected in (
        ({"kind": "c"}, "'inner.kind' is 'c'; expected 'a' or 'b'."),
        ({"share": 1}, "'inner.share' is 1; expected below 1.0."),
        ({"size": 3}, "'inner.size' is 3; expected an even number."),
        ({"sise": 3}, "'inner.sise' is unknown; expected one of kind, share, size."),
        ({"kind": "c" * 9999}, "...; expected 'a' or 'b'."),
    ):
        with pytest.raises(UserError) as error:
            validated(Outer, {"name": "x", "inner": values}, "file.yaml")
        assert str(error.value).endswith(expected) and len(str(error.value)) < 300
