"""The house's order, read from the source: imports go down only, and each outside package has one owner."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. A module may import from lower layers and from its own package, never from above or beside.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("distill", "distill.errors", "distill.writing"),
    ("distill.reading",),
    ("distill.landmarks",),
    ("distill.config", "distill.metrics", "distill.headpose", "distill.submission", "distill.losses"),
    ("distill.experiment_files",),
    ("distill.data", "distill.models", "distill.figures", "distill.tracking", "distill.grid", "distill.stages"),
    (
        "distill.methods",
        "distill.taps",
        "distill.balance",
        "distill.profiling",
        "distill.reporting",
        "distill.inference",
    ),
    ("distill.distiller",),
    ("distill.training",),
    ("distill.jobs",),
    ("distill.cli",),
    (
        "distill.teacher",
        "distill.student",
        "distill.evaluate",
        "distill.export",
        "distill.predict",
        "distill.ablation",
        "distill.average",
        "distill.recipe",
        "distill.report",
        "distill.submission.__main__",
        "distill.handin",
    ),  # fmt: skip
    ("distill.demo",),
    ("search", "search.parameters"),
    ("search.changes", "search.settings", "search.tree"),
    ("search.space",),
    ("search.sampling", "search.summary"),
    ("search.storage", "search.watching", "search.finishing"),
    ("search.queue",),
    ("search.trial",),
    ("search.worker",),
    ("search.running", "search.retraining"),
    ("search.handout",),
    ("search.study", "search.best"),
)

# Outside packages and the one place that may know each. Nothing here: nobody.
OWNERS: dict[str, tuple[str, ...]] = {
    "timm": ("distill.models",),
    "albumentations": ("distill.data.transforms",),
    "mlflow": ("distill.tracking",),
    "matplotlib": ("distill.figures",),
    "optuna": ("search",),
    "sqlalchemy": ("search.storage",),
    "rich": ("search.watching",),
    "onnxruntime": ("distill.jobs.exporting", "distill.inference.runtime"),
    "omegaconf": ("distill.config",),
    "jinja2": ("distill.reporting.html",),
    "reportlab": ("distill.reporting",),
}

DOORS = (
    "teacher",
    "student",
    "evaluate",
    "export",
    "predict",
    "cli",
    "config",
    "demo",
    "ablation",
    "average",
    "recipe",
    "report",
    "submission.__main__",
    "handin",
    "__init__",
    "search.study",
    "search.best",
)
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "albumentations",
    "cv2",
    "matplotlib",
    "scipy",
    "pandas",
    "onnxruntime",
    "reportlab",
    "jinja2",
    "optuna",
    "sqlalchemy",
    "rich",
}


PACKAGES = ("distill", "search")  # `search` stands on `distill`, which does not know it


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(path: Path, at_start_only: bool = False) -> set[str]:
    """Full names of what a file imports: modules, and members where a module is imported from its package."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if for_types_only(node):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else node.module for name in full)
        if at_start_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def layer(name: str) -> tuple[int, str]:
    """Number of the layer, and the entry that the module belongs to: itself, or else its package."""
    places = [(i, entry) for i, entries in enumerate(LAYERS) for entry in entries if inside(name, entry)]
    places = [(i, entry) for i, entry in places if entry not in PACKAGES or name == entry]
    places = [p for p in places if len(p[1]) == max(len(entry) for _, entry in places)]
    assert len(places) == 1, f"'{name}' has no place in LAYERS; give it one"
    return places[0]


def test_the_scan_sees_what_is_there():
    assert len(MODULES) > 30
    assert "timm" in imports(MODULES["distill.models.landmarker"])
    assert "distill.tracking" in imports(MODULES["distill.jobs.references"]), "imports inside functions count"
    assert "onnxruntime" not in imports(MODULES["distill.jobs.exporting"], at_start_only=True)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    number, own = layer(name)
    for imported in imports(MODULES[name]):
        if any(inside(imported, package) for package in PACKAGES):
            other, entry = layer(imported)
            assert entry == own or other < number, f"{name} imports {imported}, which is not below it"


def test_no_circle_between_modules():
    graph = {name: {i for i in imports(path) if i in MODULES and i != name} for name, path in MODULES.items()}
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


@pytest.mark.parametrize("package", OWNERS)
def test_each_outside_package_has_one_owner(package):
    users = {name for name, path in MODULES.items() if any(inside(i, package) for i in imports(path))}
    strangers = {name for name in users if not any(inside(name, owner) for owner in OWNERS[package])}
    assert not strangers, f"{package} belongs to {OWNERS[package] or 'nobody'}"
    assert bool(users) == bool(OWNERS[package]), "the owner uses what it owns"


@pytest.mark.parametrize("door", DOORS)
def test_a_door_brings_in_nothing_heavy_before_its_arguments_are_read(door):
    seen: set[str] = set()
    waiting = [door if door.startswith("search.") else "distill" if door == "__init__" else f"distill.{door}"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        wanted = imports(MODULES[name], at_start_only=True)
        heavy = {i.partition(".")[0] for i in wanted} & HEAVY
        assert not heavy, f"distill.{door} starts with {name}, which imports {heavy}"
        parents = {i.rpartition(".")[0] for i in wanted}
        waiting += [i for i in wanted | parents if i in MODULES]
