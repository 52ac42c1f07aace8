"""An ablation file becomes cells that differ in the keys under study; what is wrong with it is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import refusal

from distill import config as configs
from distill.ablation import file as grid

BASE = """
name: base
model: {backbone: lcnet_050, input_size: 64, head: {stride: 8, width: 16}}
data: {root: somewhere}
train: {epochs: 3}
"""
TERMS = """
base: base.yaml
ablation:
  title: Which terms help
  seeds: [0, 2]
  control: control
  set: {train.epochs: 16, train.amp: bf16}
  teachers:
    small: {set: {model.backbone: lcnet_075, train.lr: 1e-3}}
  cells:
    control: {distill.terms: {}}
    heatmap: {teacher: "@small", distill.terms.kl: {loss: heatmap_kl, weight: 2}}
    both:
      teacher: "@small"
      distill.terms: {kl: {loss: heatmap_kl, weight: 2}, f: {loss: fitnet, student: "level:2", teacher: "level:2"}}
"""
GRID = """
base: base.yaml
ablation:
  control: control
  cells:
    control: {}
    kl: {distill.terms.kl: {loss: heatmap_kl}}
  grid:
    distill.terms.kl.weight: [0.5, 2, 8]
    distill.terms.kl.args.temperature: [1, 2]
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def read(text: str, *overrides: str, name: str = "terms.yaml") -> grid.Grid:
        (tmp_path / name).write_text(text)
        return grid.load(tmp_path / name, overrides)

    return read


def test_named_cells_are_the_base_plus_their_own(read):
    found = read(TERMS)
    assert (found.name, found.title, found.control, found.seeds) == ("terms", "Which terms help", "control", (0, 2))
    assert list(found.cells) == ["control", "heatmap", "both"]
    control, heatmap, both = found.cells.values()
    assert {c.train.epochs for c in found.cells.values()} == {16} and control.model.backbone == "lcnet_050"
    assert control.distill.terms == {} and list(both.distill.terms) == ["kl", "f"]
    assert heatmap.distill.terms["kl"].weight == 2.0 and heatmap.teacher == "@small"
    assert found.teachers["small"].model.backbone == "lcnet_075"
    assert (found.teachers["small"].train.lr, found.teachers["small"].train.epochs) == (0.001, 3)  # `set` is the cells'


def test_all_cells_of_a_seed_come_before_the_next_seed(read):
    order = [(planned.seed, planned.cell, planned.config.seed) for planned in read(TERMS).trainings]
    assert order == [(seed, cell, seed) for seed in (0, 2) for cell in ("control", "heatmap", "both")]


def test_a_grid_is_the_product_of_its_values_and_leaves_the_control_alone(read):
    found = read(GRID)
    names = [f"weight={weight} temperature={t}" for weight in (0.5, 2, 8) for t in (1, 2)]
    assert list(found.cells) == ["control", *names]
    term = found.cells["weight=8 temperature=2"].distill.terms["kl"]
    assert (term.loss, term.weight, term.args) == ("heatmap_kl", 8.0, {"temperature": 2})


def test_a_grid_crosses_every_cell_but_the_control(read):
    more = GRID.replace("  grid:", "    mse: {distill.terms.kl: {loss: heatmap_mse}}\n  grid:")
    assert len(read(more).cells) == 1 + 2 * 6
    assert "mse weight=2 temperature=1" in read(more).cells


def test_a_grid_without_cells_may_have_a_control_inside(read):
    found = read("base: base.yaml\nablation: {control: lr=0.001, grid: {train.lr: [0.001, 0.002]}}")
    assert list(found.cells) == ["lr=0.001", "lr=0.002"]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["train.lr", "train.epochs"], ["lr", "epochs"]),
        (["distill.terms.a.weight", "distill.terms.b.weight"], ["a.weight", "b.weight"]),
        (["a.x.weight", "b.x.weight", "c"], ["a.x.weight", "b.x.weight", "c"]),
        ([], []),
    ],
)
def test_axes_have_the_shortest_names_that_tell_them_apart(keys, names):
    assert list(grid.short_names(keys).values()) == names


def test_cells_are_light_and_unregistered_unless_set_in_the_file(read):
    quiet, loud = (
        read(TERMS),
        read(TERMS.replace("amp: bf16", "amp: bf16, tracking.outputs: full, tracking.register: true")),
    )
    assert {(c.tracking.outputs, c.tracking.register) for c in quiet.cells.values()} == {("light", False)}
    assert {(c.tracking.outputs, c.tracking.register) for c in loud.cells.values()} == {("full", True)}


def test_overrides_are_for_all_cells_and_where_and_how_for_the_teachers_too(read):
    found = read(TERMS, "train.epochs=2", "data.root=else", "train.device=cpu", "teachers.small.train.epochs=5")
    assert {(c.train.epochs, c.data.root, c.train.device) for c in found.cells.values()} == {(2, "else", "cpu")}
    teacher = found.teachers["small"]
    assert (teacher.train.epochs, teacher.data.root, teacher.train.device) == (5, "else", "cpu")


def test_a_cell_computes_what_the_same_experiment_file_would(read, tmp_path):
    """So that runs of the command line and of other ablations are found."""
    (tmp_path / "alone.yaml").write_text(
        "base: base.yaml\nseed: 2\ntrain: {epochs: 16, amp: bf16}\nteacher: '@small'\n"
        "distill: {terms: {kl: {loss: heatmap_kl, weight: 2.0}}}"
    )
    planned = next(p for p in read(TERMS).trainings if (p.cell, p.seed) == ("heatmap", 2))
    assert configs.digest(planned.config) == configs.digest(configs.load(tmp_path / "alone.yaml"))


def test_the_digest_is_of_what_is_computed_and_not_how_often(read):
    digest = read(TERMS).digest
    assert digest == read(TERMS.replace("[0, 2]", "[0, 1, 2]"), "tracking.store=x", "data.root=y").digest
    for was, now in (
        ("epochs: 16", "epochs: 17"),
        ("lcnet_075", "lcnet_100"),
        ("heatmap:", "hm:"),
        ("weight: 2}}", "weight: 3}}"),
    ):
        assert read(TERMS.replace(was, now)).digest != digest, now


CONTROL = "control: {distill.terms: {}}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ablation: {control: a, cells: {a: {}}}", "'base'"),
        ("base: absent.yaml\nablation: {control: a, cells: {a: {}}}", "absent.yaml"),
        (TERMS.replace("seeds", "sedes"), "'ablation.sedes'"),
        (TERMS + "model: {}", "'model'"),
        (TERMS.replace("[0, 2]", "[0, 0]"), "'ablation.seeds'"),
        (TERMS.replace("[0, 2]", "[]"), "'ablation.seeds'"),
        (TERMS.replace("[0, 2]", "[-1]"), "'ablation.seeds.0'"),
        (TERMS.replace("control: control", "control: contrl"), "'contrl'"),
        (TERMS.replace("  control: control\n", ""), "'ablation.control'"),
        (TERMS.replace(CONTROL, "control: {train.lrr: 1}"), "lrr"),
        (TERMS.replace(CONTROL, "control: {train.lr: -1}"), "cell 'control'"),
        (TERMS.replace(CONTROL, "control: 3"), "'ablation.cells.control'"),
        (TERMS.replace(CONTROL, "control: {seed: 3}"), "'ablation.cells.control.seed'"),
        (TERMS.replace('heatmap: {teacher: "@small"', 'heatmap: {teacher: "@smal"'), "'@smal'"),
        (TERMS.replace("small: {set", "small: {sett"), "'ablation.teachers.small.sett'"),
        (TERMS.replace("train.lr: 1e-3", "train.lr: none"), "teacher 'small'"),
        (TERMS.replace("train.lr: 1e-3", "distill.terms.a.loss: heatmap_kl"), "'distill.terms'"),
        (TERMS.replace("train.amp: bf16", "train.amp: fp4"), "'fp4'"),
        (GRID.replace("[1, 2]", "[]"), "'ablation.grid.distill.terms.kl.args.temperature'"),
        (GRID.replace("[1, 2]", "1"), "'ablation.grid.distill.terms.kl.args.temperature'"),
        (GRID.replace("[0.5, 2, 8]", "[0.5, -2]"), "cell 'weight=-2 temperature=1'"),
        (GRID.replace("[1, 2]", "[1, 1]"), "cell 'weight=0.5 temperature=1'"),
        (GRID.replace("[0.5, 2, 8]", "[2, 2.0]"), "'weight=2 temperature=1' and 'weight=2.0 temperature=1'"),
        (GRID[: GRID.index("  grid:")] + "  grid: {}", "'ablation.grid'"),
        ("base: base.yaml\nablation: {control: a}", "'ablation'"),
        (TERMS.replace("  cells:\n", "  cells:\n    same: {}\n"), "'same' and 'control'"),
        (TERMS.replace(CONTROL, "control: {tracking.store: other}"), "'tracking.store'"),
        (TERMS.replace("title: Which terms help", "title: [1]"), "'ablation.title'"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_the_place(read, text, place):
    message = refusal(lambda: read(text))
    assert place in message and "terms.yaml" in message


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("seed=3", "'seed'"),
        ("resume=last", "'resume'"),
        ("teachers.big.train.lr=1", "'big'"),
        ("train.lr=-1", "cell 'control'"),
        ("nonsense", "'nonsense'"),
    ],
)
def test_a_wrong_override_too(read, override, place):
    assert place in refusal(lambda: read(TERMS, override))


def test_names_become_file_names():
    assert grid.file_name("kl weight=0.5 [a/b]") == "kl_weight=0.5_a_b_"


FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "ablations"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_the_shipped_files_are_right(name):
    found = grid.load(FOLDER / name)
    assert len(found.cells) > 1 and found.title != found.name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_shipped_cell_can_be_built_within_the_budget(name):
    from distill.distillation.distiller import Distiller
    from distill.models.files import check_budget
    from distill.models.landmarker import skeleton
    from distill.models.teacher import FrozenTeacher

    teacher = FrozenTeacher(skeleton(configs.load(FOLDER.parent / "cpu" / "teacher.yaml").model))
    found = grid.load(FOLDER / name)
    different = {repr((config.model, config.distill.terms)): config for config in found.cells.values()}
    for config in different.values():
        model = skeleton(config.model)
        check_budget(model)
        if config.distill.terms:
            Distiller(config.distill.terms, model, teacher)
    for config in found.teachers.values():
        assert config.model.head.kind == "heatmap" and skeleton(config.model)
