"""A search file becomes a space around its recipe; whatever is wrong with it is one sentence, before any trial."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import refusal

from distill import config as configs
from distill.ablation import file as ablation_file
from search import space as spaces
from search.space import Choice, FloatRange, IntRange

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "search"
BASE = """
name: base
model: {backbone: lcnet_050, input_size: 64, head: {stride: 8, width: 16}}
data: {root: somewhere}
train: {epochs: 9, lr: 0.002, batch_size: 4}
distill:
  terms:
    kl: {loss: heatmap_kl, weight: 2}
    hint: {loss: fitnet, weight: 0.5, student: "level:2", teacher: "level:2"}
"""
# parts of it are replaced, to see what is refused
SPACE = """
base: base.yaml
search:
  title: A test
  set: {train.amp: "off"}
  trial: {train.epochs: 3, data.limit: 10}
  space:
    train.lr: {float: [3e-4, 6e-3], log: true}
    model.head.width: {int: [8, 32], step: 8}
    distill.terms.kl.args.temperature: {choice: [1, 2], unset: 1}
    hints:
      recipe: coarse
      branches:
        none: {}
        coarse:
          set: {distill.terms.hint: {loss: fitnet, weight: 0.5, student: "level:2", teacher: "level:2"}}
          space: {distill.terms.hint.weight: {float: [0.1, 8], log: true}}
        fine:
          set: {distill.terms.hint: {loss: fitnet, weight: 3, student: "level:1", teacher: "level:1"}}
          space:
            distill.terms.hint.weight: {float: [0.1, 8]}
            fading: {recipe: no fade, branches: {no fade: {}, fade: {set: {distill.terms.hint.schedule: linear}}}}
"""
RECIPE = {
    "train.lr": 0.002,
    "model.head.width": 16,
    "distill.terms.kl.args.temperature": 1,
    "hints": "coarse",
    "hints[coarse].distill.terms.hint.weight": 0.5,
}
FINE = {
    **{name: RECIPE[name] for name in list(RECIPE)[:3]},
    "hints": "fine",
    "hints[fine].distill.terms.hint.weight": 3.0,
    "hints[fine].fading": "no fade",
}


@pytest.fixture
def read(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def read(*changes: tuple[str, str], overrides: tuple[str, ...] = (), text: str = SPACE) -> spaces.Space:
        for old, new in changes:
            assert text.count(old) == 1, f"'{old}' is {text.count(old)} times in the file"
            text = text.replace(old, new)
        (tmp_path / "wide.yaml").write_text(text)
        return spaces.load(tmp_path / "wide.yaml", overrides)

    return read


# ---------------------------------------------------------------------------------------------------- what it means


def test_the_recipe_is_the_first_point_and_computes_what_the_base_does(read):
    space = read()
    assert space.enqueue == (RECIPE,) and list(space.enqueue[0]) == list(RECIPE)
    assert configs.digest(space.config(RECIPE, full=True)) == configs.digest(space.base)
    assert (space.path.stem, space.search.title, space.search.objectives) == ("wide", "A test", ["val/nme"])


def test_settings_hold_in_all_trainings_and_those_of_trials_in_trials_only(read):
    space = read()
    trial, full = space.config(RECIPE), space.config(RECIPE, full=True)
    assert (full.train.epochs, full.data.limit, trial.train.epochs, trial.data.limit) == (9, 0, 3, 10)
    assert (full.train.amp, trial.train.amp) == ("off", "off")
    assert {(config.tracking.outputs, config.tracking.register) for config in (trial, full)} == {("light", False)}
    assert space.epochs == 3


def test_overrides_are_for_the_recipe_and_marked_ones_for_trials(read):
    space = read(overrides=("train.epochs=20", "train.lr=0.001", "trial.data.limit=7", "trial.train.patience=2"))
    trial, full = space.config(space.enqueue[0]), space.config(space.enqueue[0], full=True)
    assert (full.train.epochs, trial.train.epochs) == (20, 3), "what `trial` sets stays in trials"
    assert space.enqueue[0]["train.lr"] == trial.train.lr == 0.001
    assert (trial.data.limit, trial.train.patience, full.train.patience) == (7, 2, 0)


def test_without_a_pruner_named_one_objective_is_pruned_and_two_are_not(read):
    assert read().search.pruner.kind == "hyperband"
    assert read(("  title: A test", "  objectives: [val/nme, model/mmacs]")).search.pruner.kind == "none"


def test_a_point_becomes_a_config(read):
    point = {**FINE, "train.lr": 0.004, "model.head.width": 24, "hints[fine].distill.terms.hint.weight": 7.0}
    config = read().config(point)
    hint = config.distill.terms["hint"]
    assert (config.train.lr, config.model.head.width, hint.weight, hint.student) == (0.004, 24, 7.0, "level:1")
    assert list(config.distill.terms) == ["kl", "hint"], "a term stays in its place"


def test_entries_that_a_branch_does_not_set_are_absent_on_it(read):
    space = read()
    point = {name: RECIPE[name] for name in list(RECIPE)[:3]} | {"hints": "none"}
    assert list(space.config(point).distill.terms) == ["kl"]
    assert list(space.config(RECIPE).distill.terms) == ["kl", "hint"], "and nothing of it stays for the next point"


def test_fields_that_a_branch_does_not_set_are_as_in_the_base(read):
    fork = "    loss: {recipe: a, branches: {a: {}, b: {set: {model.head.sigma: 0.05}}}}\n    hints:"
    space = read(("    hints:", fork))
    assert space.config({**RECIPE, "loss": "b"}).model.head.sigma == 0.05
    assert space.config({**RECIPE, "loss": "a"}).model.head.sigma == space.base.model.head.sigma


def test_branches_nest(read):
    space = read()
    plain, fading = (space.config({**FINE, "hints[fine].fading": branch}) for branch in ("no fade", "fade"))
    assert [config.distill.terms["hint"].schedule for config in (plain, fading)] == ["constant", "linear"]


def test_the_value_that_a_missing_key_means_leaves_it_out(read):
    space, key = read(), "distill.terms.kl.args.temperature"
    assert space.config(RECIPE).distill.terms["kl"].args == {}
    assert space.config({**RECIPE, key: 2}).distill.terms["kl"].args == {"temperature": 2}


@pytest.mark.parametrize("changes", [{"hints": "fine"}, {"train.momentum": 0.9}, {"hints": "deep"}])
def test_a_point_of_another_space_is_refused(read, changes):
    (name,) = changes
    assert name in refusal(lambda: read().config({**RECIPE, **changes}))


def test_enqueued_points_are_completed_as_the_recipe_or_as_their_branch_sets_it(read):
    more = "[{train.lr: 5e-3}, {hints: fine}, {hints: fine, distill.terms.hint.weight: 2}, {train.lr: 2e-3}]"
    space = read(("  space:\n    train", f"  enqueue: {more}\n  space:\n    train"))
    assert space.enqueue == (
        RECIPE,
        {**RECIPE, "train.lr": 0.005},
        FINE,
        {**FINE, "hints[fine].distill.terms.hint.weight": 2.0},
    ), "the recipe named again is not tried again"


def test_numbers_may_be_written_with_a_bare_exponent_everywhere(read):
    more = "train.ema: {choice: [9e-1, 0.999]}\n    loss.coordinate_weight: {float: [0, 1e1], step: 5e-1}"
    space = read(
        ("[8, 32], step: 8}", f"[8, 32], step: 8}}\n    {more}"),
        ("  title", "  constraints: {model/file_bytes: 15e6}\n  title"),
    )
    nodes = space.search.space
    assert (nodes["train.lr"].bounds, nodes["train.ema"].choices) == ([3e-4, 6e-3], [0.9, 0.999])
    assert (nodes["loss.coordinate_weight"].bounds, nodes["loss.coordinate_weight"].step) == ([0, 10], 0.5)
    assert space.search.constraints == {"model/file_bytes": 15e6}


def test_a_range_holds_its_ends_and_steps_and_nothing_else():
    steps = FloatRange.model_validate({"float": [0.1, 0.7], "step": 0.2})
    assert [steps.match(value) for value in (0.1, 0.1 + 0.2, 0.7)] == [0.1, 0.1 + 0.2, 0.7]
    for wrong in (0.2, 0.9, 0.0, True, "x", None):
        with pytest.raises(ValueError):
            steps.match(wrong)
    whole = IntRange.model_validate({"int": [1, 4]})
    assert whole.match(4.0) == 4 and isinstance(whole.match(4.0), int)
    choice = Choice.model_validate({"choice": [1, False, "x"]})
    assert [choice.match(value) for value in (1, False, "x")] == [1, False, "x"] and choice.match(False) is False
    with pytest.raises(ValueError):
        choice.match(True)


def test_what_a_study_stores_of_its_space_survives_json(read):
    found = read().described()
    assert json.loads(json.dumps(found)) == found
    assert found["base"]["train.batch_size"] == 4 and "train.lr" not in found["base"], "defaults are left out"
    assert found["space"]["train.lr"] == {"float": [3e-4, 6e-3], "log": True}
    assert found["space"]["hints"]["branches"]["fine"]["space"]["fading"]["recipe"] == "no fade"


# ---------------------------------------------------------------------------------------------------- refusals

WIDTH, RATE, TEMPERATURE = "search.space.model.head.width", "search.space.train.lr", "distill.terms.kl.args.temperature"

NODE = "model.head.width: {int: [8, 32], step: 8}"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("train.lr:", "train.lrr:", "search.space.train.lrr"),
        ("train.lr:", "train.lr.x:", "train.lr.x"),
        (NODE, "train.batch_size: {float: [2, 8]}", "search.space.train.batch_size"),
        (NODE, 'train.batch_size: {choice: [4, "8"]}', "search.space.train.batch_size"),
        (NODE, "model.backbone: {choice: [lcnet_050, 7]}", "search.space.model.backbone"),
        (NODE, "train.channels_last: {int: [0, 1]}", "search.space.train.channels_last"),
        ("[3e-4, 6e-3]", "[3e-4, 60]", RATE),
        ("[3e-4, 6e-3]", "[6e-3, 3e-4]", f"{RATE}.float"),
        ("[3e-4, 6e-3]", "[3e-4, .inf]", f"{RATE}.float.1"),
        ("[3e-4, 6e-3]", "[3e-4]", f"{RATE}.float"),
        ("[3e-4, 6e-3]", "0.1", f"{RATE}.float"),
        ("[3e-4, 6e-3]", "[true, 6]", f"{RATE}.float.0"),
        ("[3e-4, 6e-3]", "[0, 6e-3]", RATE),
        ("log: true}\n    model", "log: true, step: 0.1}\n    model", RATE),
        ("log: true}\n    model", "log: 10}\n    model", f"{RATE}.log"),
        ("[8, 32]", "[8.5, 32]", f"{WIDTH}.int.0"),
        ("step: 8", "step: 7", WIDTH),
        ("step: 8", "step: 0", f"{WIDTH}.step"),
        ("step: 8", "steps: 8", f"{WIDTH}.steps"),
        ("{int: [8, 32], step: 8}", "{ints: [8, 32]}", WIDTH),
        ("{int: [8, 32], step: 8}", "{int: [8, 32], choice: [8, 16]}", f"{WIDTH}.choice"),
        ("{int: [8, 32], step: 8}", "[8, 32]", WIDTH),
        ("choice: [1, 2], unset: 1", "choice: [1], unset: 1", f"{TEMPERATURE}.choice"),
        ("choice: [1, 2], unset: 1", "choice: [1, [2]], unset: 1", f"{TEMPERATURE}.choice"),
        ("choice: [1, 2], unset: 1", "choice: [1, 1], unset: 1", f"{TEMPERATURE}.choice"),
        ("choice: [1, 2], unset: 1", "choice: [1, 2], unset: 3", TEMPERATURE),
        ("choice: [1, 2], unset: 1", "choice: [1, 2]", TEMPERATURE),
        ("step: 8}", "step: 8, unset: 16}", f"{WIDTH}.unset"),
        ("[3e-4, 6e-3]", "[3e-3, 6e-3]", "train.lr"),
        ("[8, 32], step: 8", "[12, 32], step: 10", "model.head.width"),
        ("recipe: coarse", "recipe: deep", "search.space.hints"),
        ("recipe: coarse", "titel: coarse", "search.space.hints.titel"),
        ("      recipe: coarse\n", "", "search.space.hints.recipe"),
        ("recipe: coarse", "recipe: none", "distill.terms.hint.loss"),
        ("weight: 0.5, student", "weight: 0.5, schedule: cosine, student", "distill.terms.hint.schedule"),
        ("        none: {}", "        none: 3", "search.space.hints.branches.none"),
        ("        none: {}", "        1st: {}", "search.space.hints.branches.1st"),
        ("    hints:", "    hints.all:", "hints.all"),
        ("        none: {}", "        none: {sets: {}}", "search.space.hints.branches.none.sets"),
        ("        none: {}", "        none: {set: {train.lrr: 1}}", "train.lrr"),
        ("        none: {}", "        none: {set: {train.lr: 1}}", "train.lr"),
        ("    hints:", "    distill.terms.hint.final: {float: [0, 1]}\n    hints:", "distill.terms.hint.final"),
        ("train.lr:", "seed:", "search.space.seed"),
        ("train.lr:", "train.epochs:", "search.space.train.epochs"),
        ("train.lr: {float: [3e-4, 6e-3], log: true}", "train.threads: {int: [0, 4]}", "search.space.train.threads"),
        ("trial: {train", "trial: {train.lr: 1e-3, train", "train.lr"),
        ("data.limit: 10", "data.limits: 10", "data.limits"),
        ("data.limit: 10", "train.batch_size: 0", "train.batch_size"),
        ('train.amp: "off"', "train.amb: x", "train.amb"),
        ('train.amp: "off"', "resume: last", "resume"),
        ("  title: A test", "  titel: A test", "search.titel"),
        ("  title: A test", "  title: [a]", "search.title"),
        ("base: base.yaml", "base: [a]", "base"),
        ("search:", "ablation:", "ablation"),
    ],
)
def test_a_file_that_cannot_be_searched_is_refused_by_file_and_key(read, old, new, key):
    message = refusal(lambda: read((old, new)))
    assert "wide.yaml" in message and f"{key}'" in message


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("objectives: [model/file_bytes]", "search"),
        ("objectives: val/nme", "search.objectives"),
        ("objectives: [val/nme, val/nme]", "search"),
        ("objectives: [val/nme, model/latency_ms]\n  pruner: {kind: median}", "pruner.kind"),
        ("sampler: {kind: cmaes}", "search.sampler.kind"),
        ("sampler: {seed: -1}", "search.sampler.seed"),
        ("pruner: {kind: asha}", "search.pruner.kind"),
        ("pruner: {factor: 1}", "search.pruner.factor"),
        ("pruner: {min_epochs: 3}", "search.pruner.min_epochs"),
        ("constraints: {model/size: 3}", "search.constraints.model/size"),
        ("constraints: {model/file_bytes: small}", "search.constraints.model/file_bytes"),
        ("retries: -1", "search.retries"),
        ("heartbeat: 0.5", "search.heartbeat"),
        ("enqueue: {train.lr: 1e-3}", "search.enqueue"),
        ("enqueue: [3]", "search.enqueue.0"),
        ("enqueue: [{train.lr: 1}]", "train.lr"),
        ("enqueue: [{train.momentum: 1}]", "train.momentum"),
        ("enqueue: [{hints: none, distill.terms.hint.weight: 1}]", "distill.terms.hint.weight"),
        ("enqueue: [{hints: deep}]", "hints"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_file_and_key(read, line, key):
    message = refusal(lambda: read(("  title: A test", f"  {line}")))
    assert "wide.yaml" in message and f"{key}'" in message


def test_a_refusal_names_what_is_allowed(read):
    assert "'tpe', 'gp' or 'random'" in refusal(lambda: read(("  title: A test", "  sampler: {kind: cmaes}")))
    assert "0.003 to 0.006" in refusal(lambda: read(("[3e-4, 6e-3]", "[3e-3, 6e-3]")))
    assert "none, coarse, fine" in refusal(lambda: read(("recipe: coarse", "recipe: deep")))


def test_a_recipe_that_sets_what_leaving_out_means_is_refused_since_its_run_would_not_be_found_again(read):
    given = ("  set: {train.amp", "  set: {distill.terms.kl.args: {temperature: 1}, train.amp")
    assert "'distill.terms.kl.args.temperature'" in refusal(lambda: read(given))


def test_a_file_without_a_space_or_a_base_that_is_there_is_refused(read):
    assert "search.space" in refusal(lambda: read(text="base: base.yaml\nsearch: {title: x}"))
    assert "none.yaml" in refusal(lambda: read(("base: base.yaml", "base: none.yaml")))


def test_a_value_that_only_the_full_length_refuses_is_found_before_any_trial(read):
    given = ("[8, 32], step: 8}", "[8, 32], step: 8}\n    train.snapshots: {int: [0, 6]}")
    message = refusal(lambda: read(given, ("train.epochs: 3", "train.epochs: 7"), overrides=("train.epochs=5",)))
    assert "'search.space.train.snapshots' at 6" in message


# ------------------------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_searches_in_the_repository_load(name):
    assert spaces.load(FOLDER / name).enqueue


def test_the_terms_search_begins_with_a_training_of_the_ablation():
    cell = ablation_file.load(ROOT / "experiments/ablations/terms.yaml").cells["both"]
    space = spaces.load(FOLDER / "terms.yaml")
    assert configs.digest(space.config(space.enqueue[0], full=True)) == configs.digest(cell)


def test_reading_a_search_file_needs_neither_torch_nor_optuna():
    code = (
        f"import sys; from search import space; space.load({str(FOLDER / 'tiny.yaml')!r}); "
        "print(sorted({'torch', 'optuna', 'mlflow', 'timm', 'sqlalchemy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
