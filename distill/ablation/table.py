"""The table of an ablation: a cell's mean and spread over seeds, its difference to the control with an interval."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from distill import metrics
from distill.errors import UserError
from distill.metrics import Comparison, RunErrors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIFFERENCE = "difference"  # the column of the table
SHORT_ID = 8  # characters of a run id: enough for every command that takes one


@dataclass(frozen=True)
class Result:
    """One finished training."""

    cell: str
    seed: int
    run_id: str
    errors: RunErrors  # of the validation images
    agreement: float | None = None  # NME between student and teacher
    minutes: float | None = None
    megabytes: float | None = None
    latency_ms: float | None = None  # the least of all runs of its network

    @property
    def nme(self) -> float:
        """Mean over the images at the chosen epoch, percent."""
        return float(self.errors.chosen.mean())

    @property
    def last(self) -> float | None:
        """Mean over the images at the last epoch, percent; None: not recorded."""
        return None if self.errors.last is None else float(self.errors.last.mean())


@dataclass(frozen=True)
class Row:
    """A cell over its seeds."""

    cell: str
    runs: dict[int, str]  # seed -> run id
    nme: dict[int, float]  # seed -> best/val/nme
    difference: Comparison | None  # to the control, by the last epochs, after Holm; None for the control itself
    agreement: float | None  # means over seeds
    minutes: float | None
    megabytes: float | None
    latency_ms: float | None  # the smallest: other work on a machine only adds to it
    last: dict[int, float] = field(default_factory=dict)  # seed -> val/nme_last, of the runs that have recorded it

    @property
    def mean(self) -> float:
        """Mean val/nme over the seeds, percent; nan without one."""
        return statistics.fmean(self.nme.values()) if self.nme else math.nan


@dataclass(frozen=True)
class Table:
    """The rows of an ablation and what they were measured on."""

    name: str
    title: str
    control: str
    seeds: tuple[int, ...]
    images: int  # of the validation set
    data: dict[str, str]  # fingerprints: train, val
    rows: tuple[Row, ...]
    pareto: bool = False

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(cell, seed) of every training that is not there yet."""
        return [(row.cell, seed) for seed in self.seeds for row in self.rows if seed not in row.runs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Table:
        """From `to_dict` by way of JSON, whose keys are text. Raises ValueError for what is no such table."""
        return TypeAdapter(cls).validate_python(values)


def tabulate(
    name: str,
    title: str,
    cells: Iterable[str],
    control: str,
    seeds: Sequence[int],
    data: Mapping[str, str],
    results: Sequence[Result],
    pareto: bool = False,
) -> Table:
    """The table of `cells`, in their order, from whatever results there are.

    Raises UserError where two results were measured on different numbers of images.
    """
    by_cell: dict[str, dict[int, Result]] = {cell: {} for cell in cells}
    for result in sorted(results, key=lambda result: result.seed):
        by_cell[result.cell][result.seed] = result
    counts = {len(result.errors.chosen): f"{result.cell}, seed {result.seed}" for result in results}
    if len(counts) > 1:
        (some, these), (others, those), *_ = counts.items()
        raise UserError(
            f"Ablation '{name}': the validation set had {some} images for {these} and {others} for {those}; expected "
            "one set."
        )
    compared = [None if cell == control else _compare(own, by_cell[control]) for cell, own in by_cell.items()]
    differences = metrics.holm_corrected(compared)
    rows = tuple(_row(cell, own, d) for (cell, own), d in zip(by_cell.items(), differences, strict=True))
    return Table(name, title, control, tuple(seeds), next(iter(counts), 0), dict(data), rows, pareto)


def latencies(measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Run id -> the least `model/latency_ms` of all runs of its network, as other work on a machine only adds to it.

    measured: run id -> its metrics.
    """
    least: dict[tuple, float] = {}
    networks = {run: tuple(own.get(f"model/{key}") for key in ("parameters", "mmacs")) for run, own in measured.items()}
    for run, network in networks.items():
        if found := measured[run].get("model/latency_ms"):
            least[network] = min(found, least.get(network, found))
    return {run: least[network] for run, network in networks.items() if network in least}


def _row(cell: str, own: dict[int, Result], difference: Comparison | None) -> Row:
    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return Row(
        cell=cell,
        runs={seed: result.run_id for seed, result in own.items()},
        nme={seed: result.nme for seed, result in own.items()},
        difference=difference,
        agreement=mean(result.agreement for result in own.values()),
        minutes=mean(result.minutes for result in own.values()),
        megabytes=mean(result.megabytes for result in own.values()),
        latency_ms=min((result.latency_ms for result in own.values() if result.latency_ms is not None), default=None),
        last={seed: result.last for seed, result in own.items() if result.last is not None},
    )


def _compare(own: Mapping[int, Result], control: Mapping[int, Result]) -> Comparison | None:
    """None where one of the two has no finished training."""
    if not own or not control:
        return None
    a, b = ([result.errors for result in results.values()] for results in (own, control))
    return metrics.compare_runs(a, b, list(own), list(control))


# ---------------------------------------------------------------------------------------------------- as pictures


def pictures(table: Table) -> dict[str, Figure]:
    """File name -> figure: the differences; accuracy against cost with `pareto`."""
    from distill import figures

    made = {}
    caption = (
        f"{table.images} validation images, seeds {' '.join(map(str, table.seeds))}; bars: 95 % interval, dots: seeds; "
        "in colour where p < 0.05 after Holm"
    )
    effects = [
        figures.Effect(
            row.cell, d.mean, d.low, d.high, d.clear, list(d.differences), metrics.format_mean(list(row.nme.values()))
        )
        for row in table.rows
        if (d := row.difference)
    ]
    if effects:
        made["ablation.png"] = figures.forest(effects, table.control, table.title, caption)
    candidates = [
        figures.Candidate(row.cell, row.mean, row.megabytes, row.latency_ms)
        for row in table.rows
        if row.nme and row.megabytes is not None and row.latency_ms is not None
    ]
    if table.pareto and candidates:
        made["pareto.png"] = figures.pareto(candidates, table.title)
    return made


# ---------------------------------------------------------------------------------------------------- as text


def lines(table: Table) -> list[list[str]]:
    """The table as words: the names of the columns, then one list a row."""
    rows = [_words(table, row) for row in table.rows]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def notes(table: Table) -> list[str]:
    """How to read it, and what is not in it."""
    found = [
        f"NME of {table.images} validation images (fingerprint {table.data['val']}), trained on {table.data['train']}; "
        "mean ± standard deviation over seeds. val/nme: of the epoch that was chosen on these very images; last epoch: "
        "of the weights at the end, which no image chose. Difference to "
        f"'{table.control}' by the last epochs, negative is better: 95 % interval and p of the difference between "
        "recipes, seeds and images both drawn at random; p is corrected for the number of rows (Holm). Without a p "
        "(one seed) the interval is of these models only. 'better': seeds that beat the control's same seed."
    ]
    if chosen := [row.cell for row in table.rows if row.difference and row.difference.chosen]:
        found.append(
            "By chosen epochs in place of the last, whose errors are not recorded for every run, and so flattered a "
            f"little: {', '.join(chosen)}."
        )
    if table.missing:
        cells = ", ".join(f"{cell} s{seed}" for cell, seed in table.missing)
        found.append(f"Missing, {len(table.missing)} of {len(table.rows) * len(table.seeds)}: {cells}.")
    return found


def to_text(table: Table) -> str:
    """For a terminal."""
    body = lines(table)
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in body]
    return "\n".join([table.title, "", rows[0], "-" * len(rows[0]), *rows[1:], "", *notes(table)])


def to_markdown(table: Table) -> str:
    """For GitHub: the control's row in italics, clear differences in bold."""
    head, *body = lines(table)
    out = [f"### {table.title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row, words in zip(table.rows, body, strict=True):
        words = [word.replace("|", "\\|") for word in words]
        if row.cell == table.control:
            words[0] = f"*{words[0]}*"
        if row.difference and row.difference.clear:
            place = head.index(DIFFERENCE)
            words[place] = f"**{words[place]}**"
        words[-1] = " ".join(f"`{word}`" for word in words[-1].split()) or "-"
        out.append(f"| {' | '.join(words)} |")
    return "\n".join([*out, "", *(f"{note}\n" for note in notes(table))])


def to_csv(table: Table) -> str:
    """All digits, one row a cell; seeds and run ids separated by spaces."""
    numbers = ("mean", "low", "high", "p", "p_holm", "relative")
    rows = []
    for row in table.rows:
        d = row.difference
        rows.append(
            {"cell": row.cell, "seeds": _list(row.runs)}
            | {"nme_mean": row.mean if row.nme else "", "nme_sd": _spread(row)}
            | {"nme_by_seed": _list(row.nme.values()), "nme_last_by_seed": _list(row.last.values())}
            | {f"difference_{name}": getattr(d, name, None) for name in numbers}
            | {"seeds_better": d.better if d else "", "seeds_compared": len(d.differences) if d else ""}
            | {name: getattr(row, name) for name in ("agreement", "minutes", "megabytes", "latency_ms")}
            | {"run_ids": _list(row.runs.values())}
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _words(table: Table, row: Row) -> dict[str, str]:
    """Name of a column -> what it has of a row."""
    d = row.difference
    named = "" if d else "control" if row.cell == table.control else "-"
    return {
        "cell": row.cell,
        "seeds": f"{len(row.runs)} of {len(table.seeds)}",
        "val/nme %": metrics.format_mean(list(row.nme.values())),
        "last epoch": metrics.format_mean(list(row.last.values())),
        DIFFERENCE: f"{d.mean:+.3f}" if d else named,
        "relative": f"{100 * d.relative:+.1f} %" if d and d.relative is not None else "",
        "95 % interval": metrics.format_interval(d.low, d.high) if d else "",
        "p (Holm)": metrics.format_p(d.p_holm) if d else "",
        "better": f"{d.better} of {len(d.differences)}" if d else "",
        "agreement": "" if row.agreement is None else f"{row.agreement:.3f}",
        "minutes": "" if row.minutes is None else f"{row.minutes:.1f}",
        "runs": " ".join(run_id[:SHORT_ID] for run_id in row.runs.values()),
    }


def _spread(row: Row) -> float | str:
    """Sample standard deviation over seeds; empty for fewer than three, of which it means nothing."""
    return statistics.stdev(row.nme.values()) if len(row.nme) > 2 else ""


def _list(values) -> str:
    return " ".join(str(value) for value in values)
