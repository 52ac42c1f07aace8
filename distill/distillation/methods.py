"""Distillation methods: what `distill.terms.NAME.loss` may name, and what each method is given of student and teacher.

A method is a pure loss function and, where student and teacher differ in channels, an adapter: a module that trains
with the student, stands between its tap and the loss, and is no part of the student. Both stand in one file of
`distill/distillation/losses/`, where the kind of method defines what the loss is given:

    @FeatureMethod.register("fitnet", "FitNets regression", adapter=Projection)
    def fitnet(student, teacher): ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field, create_model
from torch import Tensor, nn

from distill.distillation.taps import Tap
from distill.errors import UserError, unknown
from distill.models.landmarker import Landmarker, Prediction
from distill.schema import Number, Section, validated

Loss = TypeVar("Loss", bound=Callable[..., Tensor])

# ------------------------------------------------------------------------------------------------- arguments

Positive = Annotated[Number, Field(gt=0)]
Weight = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


@functools.cache
def _arguments(part: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of `part` that have a default: those that `distill.terms.NAME.args` may set."""
    parameters = inspect.signature(part, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def own(part: Callable, args: dict[str, Any]) -> dict[str, Any]:
    """Those of a term's args that `part` takes."""
    return {name: args[name] for name in _arguments(part) if name in args}


# ------------------------------------------------------------------------------------------------- the methods


class Outputs(NamedTuple):
    """What one model gives for a batch."""

    model: Landmarker
    prediction: Prediction
    maps: dict[str, Tensor]  # tap -> (B, C, h, w)

    def at(self, taps: Iterable[Tap]) -> Outputs:
        """The same with the maps of these taps alone, in their order, as float32."""
        return self._replace(maps={tap.name: self.maps[tap.name].float() for tap in taps})


@dataclass(frozen=True)
class Method:
    """A named loss between student and teacher. Each kind of method is a subclass: it defines what the loss is
    given."""

    name: str
    title: str  # what reports call it
    loss: Callable[..., Tensor]  # (*inputs, **arguments) -> scalar
    adapter: Callable[..., nn.Module] | None = None  # (student's channels, teacher's channels, **arguments) -> module

    most_taps: ClassVar[int] = 0  # that a term names on each side; 0: it compares the heads' outputs
    needs_logits: ClassVar[bool] = False  # of them the heatmaps, and not only points and confidences

    @classmethod
    def register(cls, name: str, title: str, adapter: Callable[..., nn.Module] | None = None) -> Callable[[Loss], Loss]:
        """A decorator that enters a loss function as the method `name`."""

        def enter(loss: Loss) -> Loss:
            if name in METHODS or name in ALIASES:
                raise ValueError(f"there is a method '{name}' already")
            METHODS[name] = cls(name, title, loss, adapter)
            return loss

        return enter

    def __call__(self, student: Outputs, teacher: Outputs, adapter: nn.Module, args: dict[str, Any]) -> Tensor:
        """The loss of one batch, a scalar. `args`: the term's; each part takes its own."""
        inputs = self.inputs(student, teacher, adapter, **own(self.inputs, args))
        return self.loss(*inputs, **own(self.loss, args))

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Any, ...]:
        """What the loss is given, positionally: the student's part (with its graph) first. Maps are those of the
        term."""
        raise NotImplementedError

    def build_adapter(self, student: list[int], teacher: list[int], args: dict[str, Any]) -> nn.Module | None:
        """The module for maps of these channels, tap by tap; None: the maps are compared as they are."""
        return self.adapter(student[0], teacher[0], **own(self.adapter, args)) if self.adapter else None

    def check(self, field: str, student: Landmarker, teacher: Landmarker) -> None:
        """Raises UserError, beginning with `field`, for a pair of models that this method cannot compare."""

    def checked_args(self, field: str, args: dict[str, Any]) -> dict[str, Any]:
        """A term's args as numbers. Raises UserError for one that the method does not take, or that is out of its
        range."""
        fields: dict[str, Any] = {name: (_type_of(p), p.default) for name, p in self._parameters().items()}
        if not fields and args:
            raise UserError(f"{field}.{next(iter(args))} is unknown; {self.name} takes no arguments.")
        section = validated(create_model(self.name, __base__=Section, **fields), args, "config", field)
        return {name: getattr(section, name) for name in args}

    def arguments(self) -> dict[str, Any]:
        """What `distill.terms.NAME.args` may set: name -> default."""
        return {name: parameter.default for name, parameter in self._parameters().items()}

    def _parameters(self) -> dict[str, inspect.Parameter]:
        parts = (self.loss, self.adapter, self.inputs)
        return {name: p for part in parts if part is not None for name, p in _arguments(part).items()}


def _type_of(parameter: inspect.Parameter) -> Any:
    """The annotation of an argument, ranges included; without one the type of its default."""
    if parameter.annotation is not inspect.Parameter.empty:
        return parameter.annotation
    return Number if type(parameter.default) is float else type(parameter.default)


METHODS: dict[str, Method] = {}  # filled by distill/distillation/losses/, which this package imports
ALIASES = {"attention": "at", "channel": "cwd", "heatmap_channel": "heatmap_cwd"}  # names in configs of older runs


def find(field: str, name: str) -> Method:
    """The method of that name. Raises UserError, beginning with `field`, that names those there are."""
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise unknown(field, name, METHODS)
    return METHODS[name]


def title(name: str) -> str:
    """What reports call a method; its name where no method of this version has it."""
    method = METHODS.get(ALIASES.get(name, name))
    return method.title if method else name.replace("_", " ")
