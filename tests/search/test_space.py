"""A search file becomes a space around its recipe; whatever is wrong with it is told in one sentence, before any trial."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill import config as configs
from distill.ablation import file as grid
from distill.errors import UserError
from search import space as spaces
from search.parameters import Parameter

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
# how a line of the space looks can be replaced in it, to see what is said to that
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


@pytest.fixture
def refusal(read):
    def refusal(*changes: tuple[str, str], **given) -> str:
        """The one sentence that is said to the file."""
        with pytest.raises(UserError) as error:
            read(*changes, **given)
        text = str(error.value)
        assert "\n" not in text and text.endswith((".", "?")) and "wide.yaml" in text
        return text

    return refusal


# ---------------------------------------------------------------------------------------------------- what it means


def test_the_recipe_is_the_first_point_and_computes_what_the_base_does(read):
    space = read()
    assert space.enqueue == (RECIPE,)
    assert list(space.enqueue[0]) == list(RECIPE)
    assert configs.digest(space.config(RECIPE, full=True)) == configs.digest(space.base)
    assert (space.name, space.title, space.objectives) == ("wide", "A test", ("val/nme",))


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


def test_overrides_of_sampler_and_pruner_go_into_what_the_file_says_of_them(read):
    about = ("  title: A test", "  sampler: {startup: 4}\n  pruner: {kind: median, startup: 7}")
    space = read(about, overrides=("sampler.seed=5", "pruner.min_epochs=2"))
    assert (space.sampler.kind, space.sampler.startup, space.sampler.seed) == ("tpe", 4, 5)
    assert (space.pruner.kind, space.pruner.startup, space.pruner.min_epochs) == ("median", 7, 2)
    assert read(about, overrides=("sampler.kind=random", "pruner.kind=none")).pruner.kind == "none"


def test_a_point_becomes_a_config(read):
    values = {**FINE, "train.lr": 0.004, "model.head.width": 24, "hints[fine].distill.terms.hint.weight": 7.0}
    config = read().config(values)
    hint = config.distill.terms["hint"]
    assert (config.train.lr, config.model.head.width, hint.weight, hint.student) == (0.004, 24, 7.0, "level:1")
    assert list(config.distill.terms) == ["kl", "hint"], "a term stays in its place"


def test_entries_that_a_branch_does_not_set_are_absent_on_it(read):
    space = read()
    values = {name: RECIPE[name] for name in list(RECIPE)[:3]} | {"hints": "none"}
    assert list(space.config(values).distill.terms) == ["kl"]
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
    space = read()
    assert space.config(RECIPE).distill.terms["kl"].args == {}
    assert space.config({**RECIPE, "distill.terms.kl.args.temperature": 2}).distill.terms["kl"].args == {
        "temperature": 2
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hints": "fine"}, "lacks 'hints[fine].distill.terms.hint.weight'"),
        ({"train.momentum": 0.9}, "has a value of 'train.momentum'"),
        ({"hints": "deep"}, "'hints' is 'deep'; expected one of none, coarse, fine"),
    ],
)
def test_a_point_of_another_space_is_refused(read, changes, said):
    with pytest.raises(UserError) as error:
        read().config({**RECIPE, **changes})
    assert said in str(error.value)


def test_enqueued_points_are_completed_as_the_recipe_or_as_their_branch_sets_it(read):
    more = "  enqueue: [{train.lr: 5e-3}, {hints: fine}, {hints: fine, distill.terms.hint.weight: 2}, {train.lr: 2e-3}]\n  space:"
    space = read(("  space:\n    train", more + "\n    train"))
    assert space.enqueue == (
        RECIPE,
        {**RECIPE, "train.lr": 0.005},
        FINE,
        {**FINE, "hints[fine].distill.terms.hint.weight": 2.0},
    ), "the recipe said again is not tried again"


def test_numbers_may_be_written_with_a_bare_exponent_everywhere(read):
    space = read(
        ("[8, 32], step: 8}", "[8, 32], step: 8}\n    train.ema: {choice: [9e-1, 0.999]}\n    loss.coordinate_weight: {float: [0, 1e1], step: 5e-1}"),
        ("  title", "  constraints: {model/file_bytes: 15e6}\n  title"),
    )  # fmt: skip
    by_key = {node.name: node for node in space.parameters}
    assert (by_key["train.lr"].low, by_key["train.ema"].choices) == (3e-4, (0.9, 0.999))
    assert (by_key["loss.coordinate_weight"].high, by_key["loss.coordinate_weight"].step) == (10.0, 0.5)
    assert space.constraints == {"model/file_bytes": 15e6}


def test_a_whole_range_will_do_for_a_field_of_fractions(read):
    space = read(("{float: [3e-4, 6e-3], log: true}", "{float: [3e-4, 6e-3]}\n    train.weight_decay: {int: [0, 2]}"),
                 ("  set: {train.amp", "  set: {train.weight_decay: 1, train.amp"))  # fmt: skip
    assert space.enqueue[0]["train.weight_decay"] == 1
    config = space.config({**RECIPE, "train.weight_decay": 2})
    assert config.train.weight_decay == 2.0 and isinstance(config.train.weight_decay, float)


# ------------------------------------------------------------------------------------------------- what is the same


def test_the_digest_changes_with_what_makes_trials_comparable_and_with_nothing_else(read):
    before = read()
    around = "  title: B\n  sampler: {kind: random, seed: 9}\n  pruner: {kind: median}\n  heartbeat: 5\n  retries: 0\n" \
             "  enqueue: [{train.lr: 5e-3}]"  # fmt: skip
    place = ("data.root=elsewhere", "tracking.store=there", "train.threads=1")
    assert read(("  title: A test", around), overrides=place).digest == before.digest
    others = [
        read(("6e-3", "7e-3")),
        read(("weight: 3,", "weight: 4,")),
        dataclasses.replace(before, trial={**before.trial, "data.limit": 11}),
        dataclasses.replace(before, base=dataclasses.replace(before.base, seed=1)),
        dataclasses.replace(before, constraints={"model/mmacs": 100}),
        dataclasses.replace(before, objectives=("val/nme", "model/latency_ms")),
    ]
    assert len({space.digest for space in [before, *others]}) == 1 + len(others)


def test_what_is_described_survives_json(read):
    told = read().described()
    assert json.loads(json.dumps(told)) == told
    assert told["base"]["train.batch_size"] == 4 and "train.lr" not in told["base"], "defaults are left out"
    assert told["space"]["hints"]["branches"]["fine"]["space"]["fading"]["recipe"] == "no fade"


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("train.lr:", "train.lrr:", "'search.space.train.lrr' at 0.0003: 'train.lrr' is unknown"),
        ("train.lr:", "train.lr.x:", "'train.lr.x' does not name a config field"),
        ("model.head.width: {int: [8, 32], step: 8}", "train.batch_size: {float: [2, 8]}", "'search.space.train.batch_size' has 2.0; expected a whole number"),
        ("model.head.width: {int: [8, 32], step: 8}", "train.batch_size: {choice: [4, eight]}", "has 'eight'; expected a whole number"),
        ("model.head.width: {int: [8, 32], step: 8}", 'train.batch_size: {choice: [4, "8"]}', "has '8'; expected a whole number"),
        ("model.head.width: {int: [8, 32], step: 8}", "model.backbone: {choice: [lcnet_050, 7]}", "has 7; expected a word"),
        ("model.head.width: {int: [8, 32], step: 8}", "train.channels_last: {choice: [true, 0]}", "has 0; expected true or false"),
        ("model.head.width: {int: [8, 32], step: 8}", "train.channels_last: {int: [0, 1]}", "has 0; expected true or false"),
        ("model.head.width: {int: [8, 32], step: 8}", "train.optimizer: {choice: [adamw, adam]}", "'adam'"),
        ("[3e-4, 6e-3]", "[3e-4, 60]", "'search.space.train.lr' at 60.0: 'train.lr' is 60.0; expected at most 10"),
        ("[3e-4, 6e-3]", "[6e-3, 3e-4]", "expected two finite numbers, the lower one first"),
        ("[3e-4, 6e-3]", "[2e-3, 2e-3]", "expected two finite numbers, the lower one first"),
        ("[3e-4, 6e-3]", "[3e-4, .inf]", "expected two finite numbers"),
        ("[3e-4, 6e-3]", "[3e-4]", "expected two finite numbers"),
        ("[3e-4, 6e-3]", "0.1", "'search.space.train.lr.float' is 0.1; expected two finite numbers"),
        ("[3e-4, 6e-3]", "[true, 6]", "expected two finite numbers"),
        ("[8, 32]", "[8.5, 32]", "'search.space.model.head.width.int' is [8.5, 32]; expected two whole numbers"),
        ("[3e-4, 6e-3]", "[0, 6e-3]", "begins at 0; expected more than 0 for a logarithmic range"),
        ("log: true}\n    model", "log: true, step: 0.1}\n    model", "has both 'log' and 'step'"),
        ("log: true}\n    model", "log: 10}\n    model", "'search.space.train.lr.log' is 10; expected true or false"),
        ("step: 8", "step: 7", "'search.space.model.head.width.step' is 7; expected a whole number above 0 that leads from 8"),
        ("step: 8", "step: 0", "expected a whole number above 0"),
        ("step: 8", "steps: 8", "'search.space.model.head.width.steps' is unknown; expected one of int, log, step, unset"),
        ("{int: [8, 32], step: 8}", "{ints: [8, 32]}", "expected one of float: [LOW, HIGH], int: [LOW, HIGH], choice"),
        ("{int: [8, 32], step: 8}", "{int: [8, 32], choice: [8, 16]}", "expected one of float"),
        ("{int: [8, 32], step: 8}", "[8, 32]", "'search.space.model.head.width' is [8, 32]; expected one of float"),
        ("choice: [1, 2], unset: 1", "choice: [1], unset: 1", "expected a list of two or more words"),
        ("choice: [1, 2], unset: 1", "choice: [1, [2]], unset: 1", "for sections and lists, branches"),
        ("choice: [1, 2], unset: 1", "choice: [1, 1], unset: 1", "expected different values"),
        ("choice: [1, 2], unset: 1", "choice: [1, 2], unset: 3", "unset' is 3; expected one of 1, 2"),
        ("choice: [1, 2], unset: 1", "choice: [1, 2]", "expected 'unset' with the value that it means by that"),
        ("step: 8}", "step: 8, unset: 16}", "expected it only for a key that a config may lack"),
        ("[3e-4, 6e-3]", "[3e-3, 6e-3]", "the recipe has 0.002 as 'train.lr'; expected a number from 0.003 to 0.006"),
        ("[8, 32], step: 8", "[12, 32], step: 10", "the recipe has 16 as 'model.head.width'; expected a whole number from 12"),
        ("recipe: coarse", "recipe: deep", "'search.space.hints.recipe' is 'deep'; expected the branch"),
        ("recipe: coarse", "titel: coarse", "'search.space.hints.titel' is unknown"),
        ("      recipe: coarse\n", "", "'search.space.hints.recipe' is missing; expected the branch"),
        ("recipe: coarse", "recipe: none", "'distill.terms.hint.loss' is missing, in the base it is 'fitnet'"),
        ("weight: 0.5, student", "weight: 0.5, schedule: cosine, student", "'distill.terms.hint.schedule' is 'cosine', in the base"),
        ("        none: {}", "        none: 3", "'search.space.hints.branches.none' is 3; expected keys and values"),
        ("        none: {}", "        1st: {}", "'search.space.hints.branches.1st' has the name '1st'; expected letters"),
        ("    hints:", "    hints.all:", "expected a plain name instead of 'hints.all'"),
        ("        none: {}", "        none: {sets: {}}", "'search.space.hints.branches.none.sets' is unknown"),
        ("        none: {}", "        none: {space: {distill.terms.hint.weight: {float: [1, 2]}}}", "'distill.terms.hint.loss' is ''"),
        ("        none: {}", "        none: {set: {train.lrr: 1}}", "branches.none': 'train.lrr'"),
        ("        none: {}", "        none: {set: {train.lr: 1}}", "'train.lr' and 'hints' of 'search.space' both change 'train.lr'"),
        ("    hints:", "    distill.terms.hint.final: {float: [0, 1]}\n    hints:", "both change 'distill.terms.hint.final'"),
        ("train.lr:", "seed:", "'search.space.seed' varies 'seed'"),
        ("train.lr:", "resume:", "varies 'resume'"),
        ("train.lr:", "train.epochs:", "varies 'train.epochs'"),
        ("train.lr: {float: [3e-4, 6e-3], log: true}", "data.val: {choice: [a, b]}", "varies 'data.val'"),
        ("train.lr: {float: [3e-4, 6e-3], log: true}", "train.threads: {int: [0, 4]}", "does not change what is computed"),
        ("trial: {train", "trial: {train.lr: 1e-3, train", "'train.lr' is searched, in 'train.lr'"),
        ("data.limit: 10", "data.limits: 10", "'search.objective': 'data.limits' is unknown"),
        ("data.limit: 10", "train.batch_size: 0", "'search.objective': 'train.batch_size' is 0; expected 1 or more"),
        ('train.amp: "off"', "train.amb: x", "'train.amb'"),
        ('train.amp: "off"', "resume: last", "'resume' is 'last'; expected none"),
        ("  title: A test", "  titel: A test", "'search.titel' is unknown; expected one of title"),
        ("  title: A test", "  title: [a]", "'search.title' is ['a']; expected words"),
        ("base: base.yaml", "base: none.yaml", "none.yaml' cannot be read"),
        ("base: base.yaml", "base: [a]", "'base' is ['a']; expected the experiment file"),
        ("search:", "ablation:", "'ablation' is unknown; expected one of base, search"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_searched_is_refused_by_file_and_key(refusal, old, new, said):
    assert said in refusal((old, new))


def test_a_recipe_that_says_what_is_said_by_leaving_out_is_refused_since_its_run_would_not_be_found_again(refusal):
    said = refusal(("  set: {train.amp", "  set: {distill.terms.kl.args: {temperature: 1}, train.amp"))
    assert "'distill.terms.kl.args.temperature' is missing, in the base it is 1; expected the same" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("objectives: [model/file_bytes]", "'search.objectives' is ['model/file_bytes']; expected [val/nme]"),
        ("objectives: val/nme", "'search.objectives' is 'val/nme'; expected [val/nme]"),
        ("objectives: [val/nme, val/nme]", "expected [val/nme], or that and one of model/parameters"),
        ("objectives: [val/nme, model/latency_ms]\n  pruner: {kind: median}", "expected none, as there are several objectives"),
        ("sampler: {kind: cmaes}", "'search.sampler.kind' is 'cmaes'; expected one of tpe, gp, random"),
        ("sampler: {kind: random, startup: 3}", "'search.sampler.startup' is unknown; expected one of kind, seed"),
        ("sampler: {seed: -1}", "'search.sampler.seed' is -1; expected a whole number, 0 or more"),
        ("pruner: {kind: asha}", "'search.pruner.kind' is 'asha'; expected one of hyperband, median, none"),
        ("pruner: {kind: median, factor: 3}", "'search.pruner.factor' is unknown"),
        ("pruner: {factor: 1}", "'search.pruner.factor' is 1; expected a whole number, 2 or more"),
        ("pruner: {min_epochs: 3}", "'search.pruner.min_epochs' is 3; expected fewer than a trial's epochs, 3"),
        ("constraints: {model/size: 3}", "'search.constraints.model/size' is unknown; expected one of model/parameters"),
        ("constraints: {model/file_bytes: small}", "'search.constraints.model/file_bytes' is 'small'; expected an upper bound"),
        ("retries: -1", "'search.retries' is -1; expected a whole number, 0 or more"),
        ("heartbeat: 0.5", "'search.heartbeat' is 0.5; expected a whole number, 1 or more"),
        ("enqueue: {train.lr: 1e-3}", "expected a list of points"),
        ("enqueue: [3]", "point 1 of 'search.enqueue' is 3; expected keys of the space"),
        ("enqueue: [{train.lr: 1}]", "point 1 of 'search.enqueue' has 1 as 'train.lr'; expected a number from 0.0003 to 0.006"),
        ("enqueue: [{train.momentum: 1}]", "has 'train.momentum'; expected one of train.lr"),
        ("enqueue: [{hints: none, distill.terms.hint.weight: 1}]", "has 'distill.terms.hint.weight'; expected one of"),
        ("enqueue: [{hints: deep}]", "has 'deep' as 'hints'; expected one of none, coarse, fine"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(refusal, line, said):
    assert said in refusal(("  title: A test", f"  {line}"))


def test_a_space_of_nothing_is_refused(refusal):
    assert "'search.space' is empty" in refusal(text="base: base.yaml\nsearch: {title: x}")


def test_a_value_that_only_the_full_length_refuses_is_found_before_any_trial(refusal):
    said = refusal(("[8, 32], step: 8}", "[8, 32], step: 8}\n    train.snapshots: {int: [0, 6]}"),
                   ("train.epochs: 3", "train.epochs: 7"), overrides=("train.epochs=5",))  # fmt: skip
    assert "'search.space.train.snapshots' at 6: 'train.snapshots' is 6; expected at most train.epochs, 5" in said


def test_a_range_holds_its_ends_and_steps_and_nothing_else():
    steps = Parameter("a", "a", "float", 0.1, 0.7, step=0.2)
    assert [steps.match(value) for value in (0.1, 0.1 + 0.2, 0.7)] == [0.1, 0.1 + 0.2, 0.7]
    for wrong in (0.2, 0.9, 0.0, True, "x", None):
        with pytest.raises(ValueError):
            steps.match(wrong)
    whole = Parameter("a", "a", "int", 1, 4)
    assert whole.match(4.0) == 4 and isinstance(whole.match(4.0), int)
    choice = Parameter("a", "a", "choice", choices=(1, False, "1"))
    assert [choice.match(value) for value in (1, False, "1")] == [1, False, "1"] and choice.match(False) is False
    with pytest.raises(ValueError):
        choice.match(True)


# ------------------------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_searches_in_the_repository_load(name):
    space = spaces.load(FOLDER / name)
    assert space.enqueue and dataclasses.replace(space).digest == space.digest


def test_the_terms_search_begins_with_a_training_that_the_ablation_knows():
    cell = grid.load(ROOT / "experiments/ablations/terms.yaml").cells["both"]
    space = spaces.load(FOLDER / "terms.yaml")
    assert configs.digest(space.config(space.enqueue[0], full=True)) == configs.digest(cell)


def test_reading_a_search_file_needs_neither_torch_nor_optuna():
    code = f"import sys; from search import space; space.load({str(FOLDER / 'tiny.yaml')!r}); " \
           "print(sorted({'torch', 'optuna', 'mlflow', 'timm', 'sqlalchemy'} & sys.modules.keys()))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
