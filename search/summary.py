"""What a study's trials came to, in the words that people read: rows, the best one, the front, importances, a CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from distill.figures.parameters import Axis
from distill.figures.search import Trial

if TYPE_CHECKING:
    from search.space import Space

STATES = ("running", "done", "pruned", "refused", "failed", "retried", "waiting")
ENDED = ("done", "pruned", "failed")  # the ones that count as the study's trials
EVALUATOR = "PED-ANOVA"  # https://arxiv.org/abs/2304.10255
FEW = 5  # values more than one, up to which each is marked on an axis
_FORKS = re.compile(r"(?:[^\[\].]+\[[^\]]*\]\.)+")  # `features[fine].` before a key


@dataclass(frozen=True)
class TrialRow:
    """One trial. `values` are its objectives; of a pruned one the last value that it reached."""

    number: int
    state: str  # one of STATES
    epoch: int  # reached
    epochs: int  # planned; 0: not known
    values: tuple[float, ...] | None
    run_id: str
    started: datetime | None
    ended: datetime | None
    note: str  # why it was refused, what it failed of
    params: dict[str, Any]
    seconds: float | None = None  # in training
    curve: tuple[tuple[int, float], ...] = ()  # (epoch from 1, first objective)
    config: dict[str, Any] | None = None  # at full length, as distill.config.to_dict has it

    @property
    def value(self) -> float | None:
        """The first objective."""
        return self.values[0] if self.values else None


def rows(study: optuna.Study, space: Space | None = None) -> list[TrialRow]:
    """Every trial, by number. Without the space the planned epochs are not known."""
    trials = study.get_trials(deepcopy=False)
    last: dict[int, int] = {}  # first number of a trial that was begun anew -> number of its last attempt
    for trial in trials:
        if "retry_of" in trial.user_attrs:
            last[trial.user_attrs["retry_of"]] = trial.number
    return [_row(trial, last, space) for trial in trials]


def best(study: optuna.Study) -> TrialRow | None:
    """The completed trial with the smallest first objective; None where none completed."""
    return best_of(rows(study))


def best_of(found: Iterable[TrialRow]) -> TrialRow | None:
    """`best` of rows that are there already."""
    return min((row for row in found if row.state == "done"), key=lambda row: (row.values, row.number), default=None)


def front(study: optuna.Study) -> list[TrialRow]:
    """The completed trials that no other beats in all objectives, by the first objective."""
    return front_of(rows(study))


def front_of(found: Iterable[TrialRow]) -> list[TrialRow]:
    """`front` of rows that are there already."""
    kept: list[TrialRow] = []
    for row in sorted((row for row in found if row.state == "done"), key=lambda row: (row.values, row.number)):
        # whoever beats this one came before it in this order
        if not any(all(a <= b for a, b in zip(other.values, row.values, strict=True)) for other in kept):
            kept.append(row)
    return kept


def with_params(found: Iterable[TrialRow], params: Mapping[str, Any]) -> TrialRow | None:
    """The completed trial with exactly these parameters; None where there is none."""
    return next((row for row in found if row.state == "done" and row.params == params), None)


def importances(study: optuna.Study) -> dict[str, float]:
    """Parameter -> its share in how the first objective varies, over completed trials, largest first; they add up to 1.

    By PED-ANOVA (https://arxiv.org/abs/2304.10255), which knows conditional parameters. Empty where fewer than two trials
    completed, or all with the same value or the same parameters: then nothing can be said.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.values[0] for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: trial.values[0],
                normalize=True,
            )
        except (ValueError, RuntimeError):  # it has no opinion of so few
            return {}
    found = {name: float(value) for name, value in found.items() if math.isfinite(value)}
    if len({json.dumps(trial.params, sort_keys=True) for trial in done}) < 2:
        return {}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


# ---------------------------------------------------------------------------------------------------- for pictures


def labels(names: Sequence[str]) -> dict[str, str]:
    """Parameter -> a short label that no other has: `distill.terms.kl.weight` -> `kl.weight`, and
    `features[fine].distill.terms.features.weight` -> `features.weight (fine)`."""
    keys = {name: _FORKS.sub("", name, count=1) for name in names}
    short = {key: _shortest(key, set(keys.values())) for key in keys.values()}
    made = {}
    for name, key in keys.items():
        branches = re.findall(r"\[([^\]]*)\]", name.removesuffix(key))
        made[name] = short[key] + (f" ({', '.join(branches)})" if branches else "")
    taken = list(made.values())
    return {name: label if taken.count(label) == 1 else name for name, label in made.items()}


def axes(study: optuna.Study) -> list[Axis]:
    """A picture's axis for each parameter that a trial drew, in the order in which they first appear."""
    drawn: dict[str, Any] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, distribution in trial.distributions.items():
            drawn.setdefault(name, distribution)
    said = labels(list(drawn))
    return [_axis(name, said[name], distribution) for name, distribution in drawn.items()]


def trials(found: Iterable[TrialRow]) -> list[Trial]:
    """What pictures show: trials that were trained to their end or pruned; the refused and the failed are left out."""
    return [
        Trial(row.number, row.values, {name: _drawable(value) for name, value in row.params.items()}, row.state == "pruned",
              row.curve)
        for row in found if row.state in ("done", "pruned") and row.values
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- as text


def to_csv(found: Sequence[TrialRow], objectives: Sequence[str]) -> str:
    """One line a trial, with all digits: number, state, objectives, epochs, seconds, run id, parameters, note."""
    names = list(dict.fromkeys(name for row in found for name in row.params))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "state", *objectives, "epochs", "seconds", "run_id", *names, "note"])
    for row in found:
        values = row.values or [""] * len(objectives)
        params = ["" if row.params.get(name) is None else row.params[name] for name in names]
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        writer.writerow([row.number, row.state, *values, row.epoch, seconds, row.run_id, *params, row.note])
    return out.getvalue()


# ---------------------------------------------------------------------------------------------------- inside


def _row(trial: FrozenTrial, last: dict[int, int], space: Space | None) -> TrialRow:
    about = trial.user_attrs
    state = _state(trial, last)
    curve = tuple(sorted(trial.intermediate_values.items()))
    values = tuple(trial.values) if trial.values else None
    if state == "pruned" and values is None and curve:
        values = (curve[-1][1],)
    return TrialRow(
        number=trial.number,
        state=state,
        epoch=int(about.get("epochs") or (curve[-1][0] if curve else 0)),
        epochs=trial.params.get("train.epochs", space.epochs) if space else 0,
        values=values,
        run_id=str(about.get("run_id") or ""),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        note=_note(trial, state, last),
        params=trial.params,
        seconds=about.get("seconds"),
        curve=curve,
        config=about.get("config"),
    )


def _state(trial: FrozenTrial, last: dict[int, int]) -> str:
    if trial.user_attrs.get("refused"):
        return "refused"
    if trial.state == TrialState.FAIL:
        first = trial.user_attrs.get("retry_of", trial.number)
        return "retried" if last.get(first, trial.number) > trial.number else "failed"
    return {
        TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned",
        TrialState.WAITING: "waiting",
    }[trial.state]  # fmt: skip


def _note(trial: FrozenTrial, state: str, last: dict[int, int]) -> str:
    about = trial.user_attrs
    if state == "retried":
        return f"its worker died; trial {last[about.get('retry_of', trial.number)]} goes on with it"
    said = {
        "refused": about.get("refused"),
        "pruned": about.get("pruned"),
        "failed": about.get("error", "its worker died"),
    }
    return str(said.get(state) or "")


def _shortest(key: str, keys: set[str]) -> str:
    """The last parts of a dotted key that no other key ends in; of a long one at least two, as `weight` alone says little."""
    parts = key.split(".")
    for count in range(1 if len(parts) < 3 else 2, len(parts)):
        end = ".".join(parts[-count:])
        if not any(other != key and f".{other}".endswith(f".{end}") for other in keys):
            return end
    return key


def _axis(name: str, label: str, distribution: Any) -> Axis:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return Axis(name, label, choices=tuple(_drawable(choice) for choice in distribution.choices))
    low, high, step = distribution.low, distribution.high, distribution.step
    few = step and not distribution.log and (high - low) / step < FEW
    marks = tuple(low + i * step for i in range(round((high - low) / step) + 1)) if few else ()
    return Axis(name, label, low, high, distribution.log, marks=marks)


def _drawable(value: Any) -> Any:
    """A parameter's value as pictures have it: a number, or a word."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number or isinstance(value, str) else json.dumps(value)
