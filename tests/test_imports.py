"""The house's order, read from the source: imports go down only, and each outside package has one owner."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Rooms from the ground up; a room imports from rooms before it. The rest are entry points (and `search` after all of
# `distill`).
ROOMS = """
    distill distill.errors distill.cores distill.files distill.schema distill.landmarks distill.config distill.metrics
    distill.headpose distill.data distill.figures distill.tracking distill.models distill.profiling
    distill.distillation distill.evaluate distill.submission.file distill.predict distill.export distill.synthesis
    distill.training distill.average distill.runs distill.recipe distill.ablation distill.report distill.submission
    distill.handin distill.profile distill.cli
""".split()
ENTRY_POINTS = (
    "teacher student demo evaluate export predict ablation average recipe report submission handin synthesis profile"
).split()

# Outside packages and the one place that may know each.
OWNERS: dict[str, tuple[str, ...]] = {
    "timm": ("distill.models",),
    "PIL": ("distill.data.images",),
    "albumentations": ("distill.data.albumentations_step",),
    "mlflow": ("distill.tracking", "distill.export.mlflow_model"),
    "matplotlib": ("distill.figures",),
    "scipy": ("distill.metrics.comparison",),
    "numba": ("distill.synthesis",),
    "optuna": ("search",),
    "sqlalchemy": ("search.storage",),
    "onnx": ("distill.export",),
    "onnxruntime": ("distill.predict.runtime",),
    "jinja2": ("distill.files", "distill.report"),
    "av": ("distill.predict.video",),
    "plutoprint": ("distill.report.document",),
}
HEAVY = {*OWNERS, "torch", "torchvision", "cv2", "pandas"}


def modules() -> dict[str, Path]:
    paths = sorted(path for package in ("distill", "search") for path in (ROOT / package).rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


MODULES = modules()


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@functools.cache
def imports(path: Path, at_start_only: bool = False) -> frozenset[str]:
    """Full names of what a file imports, at run time: modules, and members where a module is imported from its
    package."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
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
    return frozenset(found)


def height(name: str) -> int:
    """Where a module's room stands: its place in ROOMS, above them all for an entry point and for `search`."""
    if inside(name, "search"):
        return len(ROOMS) + 1
    rooms = [room for room in ROOMS if inside(name, room) and (room != "distill" or name == "distill")]
    if name.endswith(".__main__") or (not rooms and name.removeprefix("distill.") in ENTRY_POINTS):
        return len(ROOMS)
    assert rooms, f"'{name}' has no place in ROOMS; give it one"
    return ROOMS.index(max(rooms, key=len))


def test_the_scan_finds_known_imports():
    assert len(MODULES) > 30
    assert "timm" in imports(MODULES["distill.models.landmarker"])
    assert "distill.tracking" in imports(MODULES["distill.models.references"]), "imports inside functions count"
    assert "onnxruntime" not in imports(MODULES["distill.predict.runtime"], at_start_only=True)


def test_a_training_without_outputs_needs_no_onnx():
    """A GPU machine of few packages, for instance (experiments/gpu/wheels.txt)."""
    assert not any(inside(name, "onnx") for name in imports(MODULES["distill.export.job"], at_start_only=True))


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    for imported in imports(MODULES[name]) & MODULES.keys():
        assert height(imported) <= height(name), f"{name} imports {imported}, which is not below it"


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
    assert users and not strangers, f"{package} belongs to {OWNERS[package]}"


@pytest.mark.parametrize("name", [*ENTRY_POINTS, "cli", "config", "", "search.study", "search.best"])
def test_an_entry_point_brings_in_nothing_heavy_before_its_arguments_are_read(name):
    first = name if name.startswith("search.") else f"distill.{name}".strip(".")
    seen: set[str] = set()
    waiting = [f"{first}.__main__" if f"{first}.__main__" in MODULES else first]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        wanted = imports(MODULES[name], at_start_only=True)
        heavy = {i.partition(".")[0] for i in wanted} & HEAVY
        assert not heavy, f"{first} starts with {name}, which imports {heavy}"
        parents = {i.rpartition(".")[0] for i in wanted}
        waiting += [i for i in wanted | parents if i in MODULES]


def test_a_script_imports_distill_before_what_would_report_its_use():
    """`import distill` sets the switches, which these read when they are imported (timm brings in huggingface_hub)."""
    reporting = {"albumentations", "huggingface_hub", "mlflow", "onnxruntime", "timm"}
    for path in (path for folder in ("benchmarks", "docs", "examples") for path in (ROOT / folder).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            if "distill" in roots:
                break
            assert not roots & reporting, f"{path.name} imports {roots & reporting} before distill"
