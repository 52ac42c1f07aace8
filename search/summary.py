"""A study's trials as rows: one a trial with its state in a word, the best one, the front, a CSV.

What counts is read from the database each time, so a process may die anywhere. A trial is one of the study's N once it
has ended: done, pruned, or failed by an error. A refused one is not. One that was stopped, or whose worker died, goes
on as a copy that keeps its values, reports and run; of such a chain only the last trial counts.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    import optuna

    from search.space import Space

# attributes of a trial: its run, what it failed of, why it was refused or pruned, the number under which it was stopped
RUN, ERROR, REFUSED, PRUNED, STOPPED = "run_id", "error", "refused", "pruned", "stopped"
STATES = ("running", "done", "pruned", "refused", "failed", "interrupted", "retried", "waiting")
ENDED = ("done", "pruned", "failed")  # the ones that count as the study's trials


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    trial: FrozenTrial
    state: str  # one of STATES
    note: str = ""  # why it was refused, what it failed of, which trial goes on with it
    best: bool = False  # no other trial is better; of several objectives: better in all
    epochs: int = 0  # planned; 0: not known

    @property
    def number(self) -> int:
        """Of the trial, from 0."""
        return self.trial.number

    @property
    def params(self) -> dict[str, Any]:
        """Parameter -> value."""
        return self.trial.params

    @property
    def values(self) -> list[float]:
        """The objectives; of a pruned trial the last value that it reached."""
        return self.trial.values or []

    @property
    def value(self) -> float | None:
        """The first objective."""
        return self.values[0] if self.values else None

    @property
    def run_id(self) -> str:
        """Of its MLflow run; empty where there is none."""
        return str(self.trial.user_attrs.get(RUN) or "")

    @property
    def config(self) -> dict[str, Any] | None:
        """At full length, as distill.config.to_dict has it; None for a trial that was not begun."""
        return self.trial.user_attrs.get("config")

    @property
    def epoch(self) -> int:
        """The last one that was trained, from 1."""
        return int(self.trial.user_attrs.get("epochs") or self.trial.last_step or 0)

    @property
    def seconds(self) -> float | None:
        """From its start to its end, or to now."""
        if self.trial.datetime_start is None:
            return None
        return ((self.trial.datetime_complete or datetime.now()) - self.trial.datetime_start).total_seconds()


@dataclass(frozen=True)
class Tally:
    """How many of a study's trials are what."""

    ended: int
    running: int


def rows(study: optuna.Study, space: Space | None = None) -> list[TrialRow]:
    """Every trial, by number. Without the space the planned epochs are not known."""
    trials = study.get_trials(deepcopy=False)
    chains: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        chains.setdefault(first_number(trial), []).append(trial)
    best = {trial.number for trial in study.best_trials}
    epochs, retries = (space.epochs, space.search.retries) if space else (0, 2)
    return [
        TrialRow(trial, *_state(trial, chains[first_number(trial)], retries), trial.number in best, epochs)
        for trial in trials
    ]


def tally(found: Iterable[TrialRow]) -> Tally:
    """Count the trials that have ended and that are running."""
    states = [row.state for row in found]
    return Tally(sum(state in ENDED for state in states), states.count("running"))


def first_number(trial: FrozenTrial) -> int:
    """Of the chain of copies that a trial is in."""
    history = trial.system_attrs.get("retry_history") or [
        trial.number
    ]  # Optuna's, see RetryHeartbeatStaleTrialCallback
    return trial.user_attrs.get("retry_of", history[0])


def front(found: Iterable[TrialRow]) -> list[TrialRow]:
    """The done trials that no other beats in all objectives, by the first objective."""
    return sorted((row for row in found if row.best), key=lambda row: (row.values, row.number))


def best(found: Iterable[TrialRow]) -> TrialRow | None:
    """The done trial with the smallest first objective; None where none is done."""
    return next(iter(front(found)), None)


def with_params(found: Iterable[TrialRow], params: Mapping[str, Any]) -> TrialRow | None:
    """The done trial with exactly these parameters; None where there is none."""
    return next((row for row in found if row.state == "done" and row.params == params), None)


def counted(found: Sequence[TrialRow]) -> str:
    """`30 trials: 12 done, 17 pruned, 1 failed`; refused and retried ones are listed, but do not count."""
    counts = {state: sum(row.state == state for row in found) for state in STATES}
    listed = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    return f"{tally(found).ended} trials: {listed or 'none'}"


def line(row: TrialRow, found: Sequence[TrialRow], space: Space) -> str:
    """A trial that has ended, for a log: its state, epochs, objectives and seconds, and whether it is the best."""
    named = zip(space.search.objectives, row.values, strict=False)
    leading = row.best if len(space.search.objectives) > 1 else row == best(found)
    parts = [
        f"trial {row.number:3d}  {row.state:7}",
        f"epoch {row.epoch} of {row.epochs}",
        *(f"{name} {value:,.6g}" for name, value in named),
        "★ best so far" if leading else "",
        clock(row.seconds),
        row.note,
    ]
    return "  ".join(part for part in parts if part)


def clock(seconds: float | None) -> str:
    """`1:02:03` hours, minutes and seconds; empty for None."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def labels(names: Iterable[str]) -> dict[str, str]:
    """Parameter -> a short label that no other has: `distill.terms.kl.weight` -> `kl.weight`, and
    `features[fine].distill.terms.features.weight` -> `features.weight (fine)`."""
    short = {}
    for name in names:
        inside, key = re.fullmatch(r"((?:[^\[\].]+\[[^\]]*\]\.)*)(.*)", name).groups()
        parts, branches = key.split("."), re.findall(r"\[([^\]]*)\]", inside)
        short[name] = ".".join(parts[-2:] if len(parts) > 2 else parts[-1:])
        short[name] += f" ({', '.join(branches)})" if branches else ""
    taken = list(short.values())
    return {name: label if taken.count(label) == 1 else name for name, label in short.items()}


def to_csv(found: Sequence[TrialRow], objectives: Sequence[str]) -> str:
    """One line a trial, with all digits: number, state, objectives, epochs, seconds, run id, parameters, note."""
    names = list(dict.fromkeys(name for row in found for name in row.params))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "state", *objectives, "epochs", "seconds", "run_id", *names, "note"])
    for row in found:
        values: list[Any] = row.values or [""] * len(objectives)
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        params = [row.params.get(name, "") for name in names]
        writer.writerow([row.number, row.state, *values, row.epoch, seconds, row.run_id, *params, row.note])
    return out.getvalue()


# ---------------------------------------------------------------------------------------------------- inside


def _state(trial: FrozenTrial, chain: list[FrozenTrial], retries: int) -> tuple[str, str]:
    """A trial's state and note. chain: it and its copies."""
    about = trial.user_attrs
    if REFUSED in about:
        return "refused", str(about[REFUSED])
    if trial.state != TrialState.FAIL:
        states = {TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.WAITING: "waiting"}
        return states.get(trial.state, "pruned"), str(about.get(PRUNED, "")) if trial.state == TrialState.PRUNED else ""
    stopped = about.get(STOPPED) == trial.number
    why = "stopped" if stopped else "its worker died"
    if trial is not chain[-1]:
        return "retried", f"{why}; trial {chain[-1].number} goes on with it"
    if ERROR in about:
        return "failed", str(about[ERROR])
    deaths = sum(one.user_attrs.get(STOPPED) != one.number for one in chain)
    if stopped or deaths <= retries:
        return "interrupted", f"{why}; the next worker goes on with it"
    return "failed", why
