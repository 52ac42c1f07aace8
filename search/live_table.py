"""What a study shows while it runs: a live table on a terminal, a line for each trial that ended elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search import summary
from search.space import Space
from search.summary import ENDED, TrialRow

SHOWN = 15  # trials in the table
COLOURS = {
    "running": "cyan",
    "done": "green",
    "pruned": "bright_black",
    "refused": "yellow",
    "failed": "red",
    "interrupted": "magenta",
    "retried": "magenta",
    "waiting": "bright_black",
}


class LiveTable:
    """A context manager; `show` is given all rows each time. total: the trials that the study is to have."""

    def __init__(self, space: Space, total: int, console: Console | None = None):
        self.space, self.total = space, total
        self.console = console or Console()
        self.started = time.monotonic()
        self.before: int | None = None  # trials that had ended when we began to watch
        self.printed: set[int] = set()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, rows: Sequence[TrialRow]) -> None:
        """Show the trials as they are: the table, or a line for each that has ended since."""
        over = [row for row in rows if row.state not in ("running", "waiting", "interrupted")]
        if self.before is None:
            self.before = summary.tally(rows).ended
            self.printed = {row.number for row in over}
        left = time_left(rows, self.total, self.before, time.monotonic() - self.started)
        if self.live:
            self.live.update(self._table(rows, left), refresh=True)
            return
        for row in over:
            if row.number not in self.printed:
                self.printed.add(row.number)
                self.console.print(self._line(row, rows, left), soft_wrap=True, highlight=False, markup=False)

    def _table(self, rows: Sequence[TrialRow], left: float | None) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("trial", "state", "epoch", *self.space.search.objectives, "took"):
            table.add_column(name, justify="left" if name == "state" else "right")
        table.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
        best = {row.number for row in self._ahead(rows)}
        names = summary.labels(dict.fromkeys(name for row in rows for name in row.params))
        for row in [row for row in rows if row.state != "waiting"][-SHOWN:]:
            point = ", ".join(f"{names[name]}={_word(value)}" for name, value in row.params.items())
            style = "bold" if row.number in best else "dim" if row.state in ("pruned", "retried") else ""
            cells: list[Any] = [
                f"★ {row.number}" if row.number in best else str(row.number),
                Text(row.state, style=COLOURS[row.state]),
                _epochs(row),
                *self._values(row),
                _clock(row.seconds),
            ]
            table.add_row(*cells, Text(row.note or point, style="dim"), style=style)
        counts = ", ".join(f"{n} {state}" for state in COLOURS if (n := sum(row.state == state for row in rows)))
        ended = summary.tally(rows).ended
        bar = Table.grid(padding=(0, 2, 0, 0))
        drawn = ProgressBar(total=max(self.total, 1), completed=min(ended, self.total), width=32)
        bar.add_row(drawn, f"{ended} of {self.total}", _left(left), Text(self._best(rows), style="bold"))
        return Group(Text(f"{self.space.search.title}: {counts}", style="bold"), table, Text(), bar)

    def _line(self, row: TrialRow, rows: Sequence[TrialRow], left: float | None) -> str:
        named = zip(self.space.search.objectives, row.values, strict=False)
        values = "  ".join(f"{name} {_number(value)}" for name, value in named)
        mark = "  ★ best so far" if row.number in {best.number for best in self._ahead(rows)} else ""
        tail = ", ".join(part for part in (self._best(rows), _left(left)) if part)
        parts = [
            f"trial {row.number:3d}  {row.state:7}",
            f"epoch {_epochs(row)}",
            values + mark,
            _clock(row.seconds),
            row.note,
            f"({summary.tally(rows).ended} of {self.total}; {tail})",
        ]
        return "  ".join(part for part in parts if part)

    def _values(self, row: TrialRow) -> list[str]:
        """A cell an objective; of a trial under way the last report."""
        reports = row.trial.intermediate_values
        shown = row.values or ([reports[max(reports)]] if reports else [])
        return [*map(_number, shown), *[""] * (len(self.space.search.objectives) - len(shown))]

    def _ahead(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        return summary.front(rows)[: None if len(self.space.search.objectives) > 1 else 1]

    def _best(self, rows: Sequence[TrialRow]) -> str:
        ahead = self._ahead(rows)
        if not ahead:
            return ""
        value = f"best {self.space.search.objectives[0]} {_number(ahead[0].value)}"
        if len(self.space.search.objectives) > 1:
            return f"{len(ahead)} on the front, {value}"
        return f"{value} (trial {ahead[0].number})"


def time_left(rows: Sequence[TrialRow], total: int, before: int, elapsed: float) -> float | None:
    """Seconds until `total` trials have ended, at the pace since `before` of them had; None while that is not known.

    A running trial counts by the fraction of its epochs that it has trained.
    """
    ended = sum(row.state in ENDED for row in rows)
    under_way = sum(min(row.epoch / row.epochs, 1.0) for row in rows if row.state == "running" and row.epochs)
    if ended >= total:
        return 0.0
    if ended <= before or elapsed <= 0:
        return None
    return max(total - ended - under_way, 0.0) * elapsed / (ended - before + under_way)


def _epochs(row: TrialRow) -> str:
    return f"{row.epoch} of {row.epochs}" if row.epochs else str(row.epoch)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _word(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _left(seconds: float | None) -> str:
    return f"{_clock(seconds)} left" if seconds else ""


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, rest = divmod(max(round(seconds), 0), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
