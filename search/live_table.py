"""What a study shows while it runs: a live table on a terminal, a line for each trial that ended elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.space import Space
from search.summary import ENDED, TrialRow, best_of, front_of, labels

SHOWN = 15  # trials in the table
COLOURS = {
    "running": "cyan", "done": "green", "pruned": "bright_black", "refused": "yellow", "failed": "red",
    "retried": "magenta", "waiting": "bright_black",
}  # fmt: skip


class LiveTable:
    """A context manager; `show` is given all rows each time. total: the trials that the study is to have."""

    def __init__(self, space: Space, total: int, console: Console | None = None):
        self.space, self.total = space, total
        self.console = console or Console()
        self.started = time.monotonic()
        self.before: int | None = None  # trials that had ended when we began to watch
        self.told: set[int] = set()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, rows: Sequence[TrialRow]) -> None:
        ended = sum(row.state in ENDED for row in rows)
        if self.before is None:
            self.before = ended
            self.told = {row.number for row in rows if row.state not in ("running", "waiting")}
        left = time_left(rows, self.total, self.before, time.monotonic() - self.started)
        if self.live:
            self.live.update(self._table(rows, ended, left), refresh=True)
            return
        for row in rows:
            if row.state not in ("running", "waiting") and row.number not in self.told:
                self.told.add(row.number)
                self.console.print(self._line(row, rows, ended, left), soft_wrap=True, highlight=False, markup=False)

    def _table(self, rows: Sequence[TrialRow], ended: int, left: float | None) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("trial", justify="right")
        for name in ("state", "epoch", *self.space.objectives, "took"):
            table.add_column(name, justify="left" if name == "state" else "right")
        table.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
        best = {row.number for row in self._ahead(rows)}
        names = labels(list(dict.fromkeys(name for row in rows for name in row.params)))
        for row in [row for row in rows if row.state != "waiting"][-SHOWN:]:
            mark = "★" if row.number in best else ""
            about = row.note or ", ".join(f"{names[name]}={_word(value)}" for name, value in row.params.items())
            style = "bold" if mark else "dim" if row.state in ("pruned", "retried") else ""
            table.add_row(
                f"{mark} {row.number}".strip(), Text(row.state, style=COLOURS[row.state]), _epochs(row),
                *_values(row, len(self.space.objectives)), _took(row), Text(about, style="dim"), style=style,
            )  # fmt: skip
        counts = ", ".join(f"{count} {state}" for state, count in _counts(rows).items())
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(
            ProgressBar(total=max(self.total, 1), completed=min(ended, self.total), width=32),
            f"{ended} of {self.total}", _left(left, ended >= self.total), Text(self._best(rows), style="bold"),
        )  # fmt: skip
        return Group(Text(f"{self.space.title}: {counts}", style="bold"), table, Text(), bar)

    def _line(self, row: TrialRow, rows: Sequence[TrialRow], ended: int, left: float | None) -> str:
        named = zip(self.space.objectives, row.values or (), strict=False)
        values = "  ".join(f"{name} {_number(value)}" for name, value in named)
        mark = "  ★ best so far" if row.number in {best.number for best in self._ahead(rows)} else ""
        parts = [f"trial {row.number:3d}  {row.state:7}", f"epoch {_epochs(row)}", values + mark, _took(row), row.note]
        return "  ".join(
            part for part in [*parts, f"({ended} of {self.total}; {self._tail(rows, ended, left)})"] if part
        )

    def _tail(self, rows: Sequence[TrialRow], ended: int, left: float | None) -> str:
        return ", ".join(part for part in (self._best(rows), _left(left, ended >= self.total)) if part)

    def _ahead(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        if len(self.space.objectives) > 1:
            return front_of(rows)
        return [best] if (best := best_of(rows)) else []

    def _best(self, rows: Sequence[TrialRow]) -> str:
        ahead = self._ahead(rows)
        if not ahead:
            return ""
        if len(self.space.objectives) > 1:
            return f"{len(ahead)} on the front, best {self.space.objectives[0]} {_number(ahead[0].value)}"
        return f"best {self.space.objectives[0]} {_number(ahead[0].value)} (trial {ahead[0].number})"


def time_left(rows: Sequence[TrialRow], total: int, before: int, elapsed: float) -> float | None:
    """Seconds until `total` trials have ended, at the pace since `before` of them had; None while that is not known.

    A running trial counts by the part of its epochs that is behind it.
    """
    ended = sum(row.state in ENDED for row in rows)
    under_way = sum(min(row.epoch / row.epochs, 1.0) for row in rows if row.state == "running" and row.epochs)
    if ended >= total:
        return 0.0
    if ended <= before or elapsed <= 0:
        return None
    return max(total - ended - under_way, 0.0) * elapsed / (ended - before + under_way)


def _counts(rows: Sequence[TrialRow]) -> dict[str, int]:
    return {state: count for state in COLOURS if (count := sum(row.state == state for row in rows))}


def _epochs(row: TrialRow) -> str:
    return f"{row.epoch} of {row.epochs}" if row.epochs else str(row.epoch)


def _values(row: TrialRow, count: int) -> list[str]:
    if row.values is None and row.curve:  # on its way
        return [_number(row.curve[-1][1]), *[""] * (count - 1)]
    return [*(_number(value) for value in row.values or ()), *[""] * (count - len(row.values or ()))]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _word(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _took(row: TrialRow) -> str:
    if row.started is None:
        return ""
    return _clock(((row.ended or datetime.now()) - row.started).total_seconds())


def _left(seconds: float | None, done: bool) -> str:
    return "" if seconds is None or done else f"{_clock(seconds)} left"


def _clock(seconds: float) -> str:
    hours, rest = divmod(max(round(seconds), 0), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
