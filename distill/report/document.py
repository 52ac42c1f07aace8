"""The report as one self-contained HTML page and as a PDF, both from page.html.j2: its figures, tables and files."""

from __future__ import annotations

import base64
import html
import importlib.util
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distill import config as configs
from distill import figures, metrics
from distill.config import Config
from distill.distillation import methods
from distill.errors import UserError
from distill.files import atomic, write_text
from distill.report.compare import Cast
from distill.report.facts import Ablation, Findings, Pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
MAX_PAGES = 4
WIDE, HALF, THIRD = 7.8, 3.8, 2.55  # inches: one, two and three charts beside each other; a page shows them at 0.9
# What the PDF may leave out for want of room, the most important first, and after it further ablations: part -> what it
# is called, and a figure of it, without which a report has no such part
OPTIONAL = {
    "pictures": ("images with predictions", "pictures"),
    "pose": ("error by region and pose", "pose"),
    "points": ("error of each landmark", "face-1"),
    "curves": ("cumulative error and learning curves", "ced"),
    "ablation-1": ("first ablation", "ablation-1"),
    "cost": ("accuracy against cost", "cost"),
    "heatmaps": ("heatmaps", "heatmaps"),
    "attention": ("attention maps", "attention"),
    "terms": ("loss terms", "terms"),
    "others": ("other runs", ""),
}
SHORTEST = 0.3  # of a page: a last page with less on it is avoided by setting everything a little smaller
SCALES = (0.97, 0.94, 0.91, 0.88)
RASTER = ("pictures", "heatmaps", "attention")  # figures made of pixels
# not hyper-parameters: names, places, and what does not change a result
HOUSEKEEPING = tuple(
    "name seed resume tracking. data.root data.cache data.workers train.threads train.device train.checkpoint_seconds "
    "train.snapshots model.checkpoint teacher data.test".split()
)
ENVIRONMENT = (
    {"Python": "python"}
    | {name: name for name in ("torch", "timm", "mlflow", "albumentations", "numpy")}
    | {"processor": "cpu", "memory, GiB": "memory_gib", "graphics": "gpu", "system": "platform"}
)


class Line(NamedTuple):
    """A row of a table whose cells are compared with each other."""

    name: str
    cells: list[str]

    @property
    def differ(self) -> bool:
        """Whether the models differ in it."""
        return len(set(self.cells)) > 1


class Pdf(NamedTuple):
    """A PDF that was written."""

    path: Path
    pages: int
    left_out: tuple[str, ...]  # what had no room


@dataclass(frozen=True, eq=False)
class Document:
    """The report of some findings, as a page and as a PDF."""

    findings: Findings
    cast: Cast
    title: str = ""
    made: str = ""  # when and by which version

    @property
    def headline(self) -> str:
        """The answer, in one or two sentences."""
        text = self._template.make_module(self._values(False, ())).headline()
        return " ".join(html.unescape(str(text)).split())

    def html(self, paper: bool = False, left_out: Collection[str] = (), scale: float = 1.0) -> str:
        """paper: as it goes into the PDF, without the parts `left_out`, its type at `scale` of the usual size."""
        return self._template.render(self._values(paper, left_out), scale=scale)

    def write_html(self, path: Path) -> Path:
        """Raises OSError where the folder cannot be written."""
        return write_text(path, self.html())

    def write_pdf(self, path: Path) -> Pdf | None:
        """At most MAX_PAGES pages: what has no room is left out and named. None: there is no PlutoPrint on this
        platform.

        Raises UserError where even what must be in it takes more pages.
        """
        if importlib.util.find_spec("plutoprint") is None:
            return None
        left_out: list[str] = []
        book = self._book(left_out)
        for part in reversed(self.parts):
            if book.get_page_count() <= MAX_PAGES:
                break
            left_out.insert(0, part)
            book = self._book(left_out)
        if book.get_page_count() > MAX_PAGES:
            raise UserError(
                f"The PDF would have {book.get_page_count()} pages; expected at most {MAX_PAGES}. Report fewer runs."
            )
        for part in left_out[1:]:  # a smaller one may fit where a larger one did not
            fewer = [other for other in left_out if other != part]
            again = self._book(fewer)
            if again.get_page_count() <= MAX_PAGES:
                left_out, book = fewer, again
        pages = book.get_page_count()
        if pages > 1 and _filled(book, pages - 1) < SHORTEST:
            smaller = (self._book(left_out, scale) for scale in SCALES)
            book = next((other for other in smaller if other.get_page_count() < pages), book)
        with atomic(path) as temporary:
            book.write_to_pdf(str(temporary))
        return Pdf(path, book.get_page_count(), tuple(self.parts[part] for part in left_out))

    # ------------------------------------------------------------------------------------------------ inside

    @cached_property
    def figures(self) -> dict[str, str]:
        """Markup by key: an <svg> whose colours are the page's, or an <img>."""
        return {key: _markup(key, figure) for key, figure in _figures(self.findings, self.cast)}

    @cached_property
    def parts(self) -> dict[str, str]:
        """What this report has of the parts that a PDF may leave out, in that order: name -> title."""
        there = {part: title for part, (title, key) in OPTIONAL.items() if not key or key in self.figures}
        if not self.findings.others:
            del there["others"]
        titles = {key: f"ablation '{ablation.table.title}'" for key, ablation in self._ablations.items()}
        return there | titles

    @property
    def _ablations(self) -> dict[str, Ablation]:
        return numbered(self.findings.ablations, self.cast.main.ids)

    @cached_property
    def _template(self) -> Any:
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            extensions=["jinja2.ext.do"],
        )
        environment.filters |= {
            "num": number,
            "method": methods.title,
            "plain": plain,
            "listed": listed,
            "spread": metrics.format_mean,
            "p": metrics.format_p,
            "short": lambda ids: ", ".join(run_id[:8] for run_id in ids),
        }
        return environment.get_template("page.html.j2")

    def _values(self, paper: bool, left_out: Collection[str]) -> dict[str, Any]:
        """The variables of the template."""
        from markupsafe import Markup

        cast = self.cast
        return {
            "document": self,
            "findings": self.findings,
            "cast": cast,
            "main": cast.main.lead,
            "config": cast.main.lead.config,
            "figures": {key: Markup(figure) for key, figure in self.figures.items()},
            "ablations": self._ablations,
            "paper": paper,
            "left_out": [self.parts[part] for part in left_out],
            "show": lambda part: part in self.parts and part not in left_out,
            "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
            "scale": 1.0,
            "hyperparameters": _hyperparameters(cast),
            "data_sets": _data_sets(cast),
            "environment": _environment(cast),
            "failure": metrics.FAILURE,
            "interval": metrics.format_interval,
            "revision": _revision,
            "data_uri": data_uri,
        }

    def _book(self, left_out: Collection[str], scale: float = 1.0) -> Any:
        """The document laid out on pages."""
        import plutoprint

        faces = figures.typefaces()

        class Offline(plutoprint.ResourceFetcher):
            """Nothing is fetched but what the page itself holds, and typefaces."""

            def fetch_url(self, url: str) -> Any:
                if url.startswith("data:") or url in {path.as_uri() for path in faces.values()}:
                    return plutoprint.default_resource_fetcher.fetch_url(url)
                raise ValueError(f"'{url}' is outside the page")

        rules = [":root { --serif: report-serif; --sans: report-serif; --mono: report-mono; }"]
        for name, path in faces.items():
            family, _, weight = f"report-{name}".replace("-bold", "|bold").replace("-italic", "|italic").partition("|")
            kind = {"bold": "font-weight: bold;", "italic": "font-style: italic;"}.get(weight, "")
            rules.append(f"@font-face {{ font-family: {family}; {kind} src: url({path.as_uri()}); }}")
        book = plutoprint.Book(plutoprint.PAGE_SIZE_A4, plutoprint.PAGE_MARGINS_NONE)  # page.css has the margins
        book.custom_resource_fetcher = Offline()
        book.load_html(self.html(True, left_out, scale), user_style="\n".join(rules))
        return book


def _filled(book: Any, page: int) -> float:
    """How far down a page there is something, as a fraction of its height; its foot does not count."""
    import plutoprint

    size = book.get_page_size_at(page)
    width, height = int(size[0]), int(size[1])
    with plutoprint.ImageCanvas(width, height) as canvas:
        canvas.clear_surface(1, 1, 1, 1)
        book.render_page(canvas, page)
        canvas.flush()
        pixels = np.frombuffer(canvas.get_data(), np.uint8).reshape(height, -1)
        inked = np.flatnonzero((pixels[: int(0.94 * height)] < 200).any(axis=1))
    return float(inked[-1] / height) if inked.size else 0.0


# ---------------------------------------------------------------------------------------------------- figures


def _figures(findings: Findings, cast: Cast) -> Iterable[tuple[str, Figure]]:
    shown = [m for m in cast.shown if m.reports]
    if shown:
        errors = {m.label: m.pooled() for m in shown}
        yield "ced", figures.ced(errors, title="", size=(HALF, 2.5), summary=False)
        reports = {m.label: m.reports for m in shown}
        yield "pose", figures.error_by_region_and_pose(reports, title="", size=(WIDE, 2.6))
    courses = {m.label: m.lead.history["val/nme"] for m in cast.shown if m.lead.history.get("val/nme")}
    if courses:
        yield "validation", figures.curves(courses, "NME (%)", size=(HALF, 2.5), mark_lowest=True)
    weighted = "train/weighted/"
    terms = {k.removeprefix(weighted): v for k, v in cast.main.lead.history.items() if k.startswith(weighted) and v}
    if terms:
        yield "terms", figures.curves(terms, "weighted loss", size=(HALF, 2.5))
    yield from _by_point(cast)
    top = 1.25 * max(m.nme for m in cast.models)
    models = [(m.label, m.nme, m.lead.megabytes, findings.latency([m.lead.id])) for m in cast.models]
    models += [
        (r.name, r.nme, r.megabytes, findings.latency([r.id]))
        for r in findings.others
        if r.validated_on == cast.main.lead.validated_on and r.nme <= top
    ]
    yield from _cost("cost", models)
    for key, ablation in numbered(findings.ablations, cast.main.ids).items():
        table = ablation.table
        if effects := [
            figures.Effect(row.cell, d.mean, d.low, d.high, d.clear, d.differences)
            for row in table.rows
            if (d := row.difference)
        ]:
            yield key, figures.forest(effects, table.control, width=WIDE)
        if table.pareto:
            rows = [(r.cell, r.mean, r.megabytes, findings.latency(r.runs.values())) for r in table.rows if r.nme]
            yield from _cost(f"{key}-cost", rows)
    if findings.pictures:
        yield from _pictures(findings.pictures, cast)


def _markup(key: str, figure: Figure) -> str:
    if key not in RASTER:
        return figures.to_svg(figure, key)
    share = 100 * figure.get_size_inches()[0] / WIDE
    return f'<img src="{data_uri(figures.to_jpeg(figure), "jpeg")}" alt="{key}" style="width: {share:.0f}%">'


def numbered(ablations: Sequence[Ablation], shown: Collection[str]) -> dict[str, Ablation]:
    """ablation-1, ablation-2, ...: first those that hold one of the `shown` run ids, then those of more seeds, then by
    title.
    """

    def order(ablation: Ablation) -> tuple[bool, int, str]:
        table = ablation.table
        ids = {run_id for row in table.rows if row.cell != table.control for run_id in row.runs.values()}
        return ids.isdisjoint(shown), -len(table.seeds), table.title

    return {f"ablation-{i}": ablation for i, ablation in enumerate(sorted(ablations, key=order), 1)}


def _by_point(cast: Cast) -> Iterable[tuple[str, Figure]]:
    """Errors of the points on the mean face: control, student, and the difference."""
    markup = cast.main.lead.markup
    pair = [m for m in (cast.control, cast.student) if m and m.reports and m.lead.markup.fits(markup)]
    pair = pair or [m for m in [cast.main] if m.reports]
    if not pair:
        return
    values = [m.per_point() for m in pair]
    drawn: dict[str, Any] = {"title": "", "markup": markup, "layout": pair[0].reports[0].layout, "size": (THIRD, 2.7)}
    top = float(np.ceil(2 * np.max(values)) / 2)
    for index, found in enumerate(values, 1):
        yield f"face-{index}", figures.error_by_point(found, top=top, **drawn)
    if len(pair) == 2:
        change = values[1] - values[0]
        reach = max(0.1, float(np.ceil(10 * np.abs(change).max()) / 10))
        yield "face-3", figures.error_by_point(change, top=reach, signed=True, **drawn)


def _cost(key: str, models: Iterable[tuple[str, float, float | None, float | None]]) -> Iterable[tuple[str, Figure]]:
    """models: label, NME in percent, megabytes, milliseconds."""
    known = [figures.Candidate(*model) for model in models if model[2] and model[3] and np.isfinite(model[2])]
    if len(known) > 1:
        yield key, figures.pareto(known, size=(WIDE, 2.6))


def _pictures(found: Pictures, cast: Cast) -> Iterable[tuple[str, Figure]]:
    """A column an image, a row a model."""
    models = [m for m in cast.trio if all(m.lead.id in picture.looks for picture in found.shown)]
    looks = {m.label: [(picture, picture.looks[m.lead.id]) for picture in found.shown] for m in models}
    sheets: dict[str, dict[str, list[figures.Cell]]] = {key: {} for key in RASTER}
    for label, own in looks.items():
        sheets["pictures"][label] = [figures.Cell(p.image, k.points, p.truth, f"{k.nme:.2f} %") for p, k in own]
        if all(look.heat is not None for _, look in own):
            sheets["heatmaps"][label] = [figures.Cell(figures.heat_over(p.image, k.heat, k.extent)) for p, k in own]
        for place, (tap, _) in enumerate(own[0][1].attention):
            maps = [(p.image, k.attention[place][1]) for p, k in own]
            sheets["attention"][f"{label} {tap}"] = [
                figures.Cell(figures.heat_over(image, strength - strength.min(), None, 0.75))
                for image, strength in maps
            ]
    for key, rows in sheets.items():
        if rows:
            columns = [picture.rank for picture in found.shown]
            yield (
                key,
                figures.sheet(
                    list(rows.values()), row_labels=list(rows), column_labels=columns, width=WIDE, markup=found.markup
                ),
            )


# ---------------------------------------------------------------------------------------------------- tables


def _hyperparameters(cast: Cast) -> list[tuple[str, Line]]:
    """(default, values by model) of the keys in which one of the trio differs from the defaults."""
    default = _settings(Config())
    each = [_settings(model.lead.config) for model in cast.trio]
    found = []
    for key in dict.fromkeys(key for values in (*each, default) for key in values):
        cells = [values.get(key, "-") for values in each]
        if not key.startswith(HOUSEKEEPING) and any(cell != default.get(key, "-") for cell in cells):
            found.append((default.get(key, "-"), Line(key, cells)))
    return found


def _settings(config: Config) -> dict[str, str]:
    """Flat, but a colour step or a distillation term is one entry."""
    flat = {
        key: plain(value)
        for key, value in configs.flatten(config).items()
        if not key.startswith(("augment.photometric", "distill.terms"))
    }
    for name, step in config.augment.photometric.items():
        flat[f"augment.photometric.{name}"] = ", ".join(
            filter(None, (step.name, f"p {plain(step.p)}", plain(step.args, "")))
        )
    for name, term in config.distill.terms.items():
        taps = f"{term.student} ← {term.teacher}" if term.student else ""
        schedule = "" if term.schedule == "constant" else term.schedule
        parts = (f"{plain(term.weight)} × {term.loss}", taps, plain(term.args, ""), schedule)
        flat[f"distill.terms.{name}"] = ", ".join(filter(None, parts))
    return flat


def _data_sets(cast: Cast) -> list[dict[str, str]]:
    counts = {"training": "data/train_images", "validation": "data/val_images"}
    found: dict[tuple[str, ...], list[str]] = {}
    for model in cast.models:
        for data in model.lead.datasets:
            count = model.lead.metrics.get(counts.get(data.use, ""))
            key = (data.name, data.use, f"{int(count):,}" if count else "-", data.fingerprint)
            found.setdefault(key, []).append(model.label)
    names = ("name", "use", "images", "fingerprint")
    return [dict(zip(names, key, strict=True)) | {"models": ", ".join(labels)} for key, labels in found.items()]


def _environment(cast: Cast) -> list[Line]:
    tags = [model.lead.tags for model in cast.models]
    lines = [Line("code revision", [_revision(own) for own in tags])]
    lines.append(Line("command", [_command(own.get("command") or own.get("mlflow.source.name", "-")) for own in tags]))
    return lines + [Line(name, [own.get(f"env.{key}", "-") for own in tags]) for name, key in ENVIRONMENT.items()]


def _revision(tags: dict[str, str]) -> str:
    changed = " (changed)" if tags.get("code.dirty") == "true" else ""
    return tags.get("mlflow.source.git.commit", "unknown")[:12] + changed


def _command(text: str) -> str:
    """Without the folders of the machine that it ran on."""
    return " ".join(word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in text.split())


# ---------------------------------------------------------------------------------------------------- text


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Fixed digits, a dash where there is no value."""
    return "-" if value is None or not np.isfinite(value) else f"{value:{'+' if sign else ''}.{digits}f}"


def plain(value: Any, nothing: str = "-") -> str:
    """A config value: no needless digits, words for yes, no and nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or nothing
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or nothing
    return str(value) if value not in ("", None) else nothing


def listed(words: Iterable[str]) -> str:
    """a, b and c; or a; b; and c where a word holds a comma itself."""
    words = [str(word) for word in words]
    if len(words) < 2:
        return "".join(words)
    comma, end = ("; ", ";") if any("," in word for word in words) else (", ", "")
    return f"{comma.join(words[:-1])}{end} and {words[-1]}"


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a `data:` URI; kind: png, jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
