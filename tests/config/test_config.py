"""One checked object a run: what is read, what is refused and in which words, and what identifies it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import yaml
from running import EXPERIMENTS, refusal

from distill import config as configs
from distill.config import Config, TrainConfig
from distill.errors import UserError
from distill.files import read_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def read(tmp_path):
    def read_text(text: str, *overrides: str) -> Config:
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return configs.load(tmp_path / "run.yaml", overrides)

    return read_text


def refused(call, *arguments) -> str:
    """The message of the UserError, checked to read as one line."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")) and not text.endswith(("..", "?."))
    return text


# ---------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_in_the_repository_loads(path):
    config = configs.load(path)
    assert configs.from_dict(configs.to_dict(config)) == config


def test_there_are_experiments_to_load():
    assert {"base.yaml", "teacher.yaml", "student.yaml", "distill.yaml"} <= {path.name for path in EXPERIMENTS}


@pytest.mark.parametrize("folder", ["", "cpu", "demo"])
def test_a_distilled_student_differs_from_its_control_by_the_terms_alone(folder):
    control = configs.load(ROOT / "experiments" / folder / "student.yaml")
    distilled = configs.load(ROOT / "experiments" / folder / "distill.yaml")
    assert distilled.distill.terms and not control.distill.terms
    assert replace(distilled, distill=control.distill, name=control.name) == control


def test_an_empty_file_gives_the_defaults(read):
    assert read("") == Config()


def test_values_arrive_typed(read):
    config = read("train: {lr: 1e-4, epochs: 7}\nmodel: {head: {kind: simcc}, pretrained: true}\n")
    assert config.train.lr == 1e-4 and config.train.epochs == 7
    assert config.model.head.kind == "simcc" and config.model.pretrained is True


def test_a_config_cannot_be_changed_after_it_was_checked(read):
    with pytest.raises(FrozenInstanceError):
        read("").train.lr = 5.0


@pytest.mark.parametrize("word", ["off", "bf16", "auto"])
def test_words_that_yaml_takes_for_truth_values_stay_words(read, word):
    assert read(f"train: {{amp: {word}}}").train.amp == word
    assert read("", f"train.amp={word}").train.amp == word


@pytest.mark.parametrize("run_id", ["0123456", "12345678", "12e45678", "1234567e", "00000000"])
def test_a_run_id_of_digits_stays_as_it_is(read, run_id):
    assert read("", f"teacher={run_id}").teacher == run_id
    assert read(f"resume: {run_id}").resume == run_id


@pytest.mark.parametrize("text", ["/data/set #2", "1.10", "2024-05-01", "0x10", "null", "no", "a: b", "[1, 2]"])
def test_a_field_that_takes_text_takes_it_as_it_is_written(read, text):
    assert read("", f"data.root={text}").data.root == text
    assert read(f"data: {{root: '{text}'}}").data.root == text


def test_unquoted_text_of_a_file_stays_text_and_numbers_are_numbers(read):
    config = read(
        "data: {train: 1.10}\ndistill: {terms: {kl: {loss: heatmap_kl, weight: 2, args: {temperature: 1e-1}}}}"
    )
    assert config.data.train == "1.10"
    assert config.distill.terms["kl"].weight == 2.0 and config.distill.terms["kl"].args == {"temperature": 0.1}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases"),
        ("a: &a {b: *a}", "contains itself|aliases"),
        ("seed: " + "9" * 5000, "seed|impossible"),
        ("seed: 1208925819614629174706176", "seed"),
        ("name: " + "[" * 600, "deeply|YAML"),
        ("a" * 1_000_001, "bytes"),
    ],
    ids=["alias bomb", "recursive alias", "5000 digits", "2**80", "nested", "large"],
)
def test_a_file_that_would_cost_the_machine_is_refused(read, text, words):
    assert re.search(words, refused(read, text))


FLOW_BOMB = "{" + BOMB.strip().replace("\n", ", ") + "}"


@pytest.mark.parametrize(
    "text",
    ["{a: &x [*x]}", "&x {a: *x}", FLOW_BOMB, f"{{s: !!str {FLOW_BOMB}}}", "{a: !!str &x [*x]}"]
    + [f"{{a: !!{kind} x}}" for kind in ("timestamp", "bool", "int", "omap", "set")],
    ids=lambda text: text[:20],
)
def test_an_override_or_a_file_of_that_kind_is_refused_alike(read, text):
    assert "model.backbone_args" in refused(read, "", f"model.backbone_args={text}")
    assert "run.yaml" in refused(read, f"model: {{backbone_args: {text}}}")


def test_merges_of_merges_are_refused_before_they_are_made(tmp_path):
    merged = ["a: &a {k0: 0}"] + [
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in itertools.pairwise("abcdefgh")
    ]
    (tmp_path / "x.yaml").write_text("\n".join(merged))
    assert "aliases" in refused(read_yaml, tmp_path / "x.yaml")


# ---------------------------------------------------------------------------------------------------- base


def test_a_file_inherits_from_its_base_key_by_key(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "base.yaml").write_text("name: base\ntrain: {lr: 0.1, epochs: 3}\n")
    (tmp_path / "a" / "middle.yaml").write_text("base: ../base.yaml\ntrain: {epochs: 4}\nseed: 2\n")
    (tmp_path / "a" / "top.yaml").write_text("base: middle.yaml\nname: top\n")
    config = configs.load(tmp_path / "a" / "top.yaml", ["seed=9"])
    assert (config.name, config.train.lr, config.train.epochs, config.seed) == ("top", 0.1, 4, 9)


def test_a_base_that_is_not_there_is_reported_with_the_file_that_names_it(tmp_path):
    (tmp_path / "top.yaml").write_text("base: lost.yaml\n")
    assert "lost.yaml" in refusal(lambda: configs.load(tmp_path / "top.yaml"))


def test_terms_of_a_base_are_added_to_and_can_be_taken_away(tmp_path):
    (tmp_path / "base.yaml").write_text("distill: {terms: {a: {loss: heatmap_kl}, b: {loss: heatmap_mse}}}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ndistill: {terms: {a: {weight: 3}, c: {loss: heatmap_kl}}}\n")
    terms = configs.load(tmp_path / "top.yaml").distill.terms
    assert set(terms) == {"a", "b", "c"} and (terms["a"].loss, terms["a"].weight) == ("heatmap_kl", 3.0)
    assert configs.load(tmp_path / "top.yaml", ["distill.terms={}"]).distill.terms == {}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_bases_that_go_round_in_a_circle_are_refused(tmp_path, length):
    for i in range(length):
        (tmp_path / f"{i}.yaml").write_text(f"base: {(i + 1) % length}.yaml\n")
    assert "leads back to itself" in refused(configs.load, tmp_path / "0.yaml")


def test_one_base_may_be_reached_from_many_files(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 4\n")
    for name in ("x", "y"):
        (tmp_path / f"{name}.yaml").write_text("base: base.yaml\n")
        assert configs.load(tmp_path / f"{name}.yaml").seed == 4


def test_a_missing_file_or_base_is_named(tmp_path):
    assert "none.yaml" in refused(configs.load, tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("base: gone.yaml\n")
    assert "gone.yaml" in refused(configs.load, tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(f"base: {'y' * 3000}\n")
    found = refused(configs.load, tmp_path / "a.yaml")
    assert "is no file; expected one" in found and len(found) < 500
    assert "cannot be read" in refused(configs.load, tmp_path)


# ---------------------------------------------------------------------------------------------------- refusals

WRONG = [
    ("trian: {lr: 1}", "trian", "train"),
    ("train: {learning: 1}", "train.learning", ""),
    ("train: {lrr: 1}", "train.lrr", "did you mean 'lr'?"),
    ("model: {head: {stid: 4}}", "model.head.stid", "stride"),
    ("distill: {terms: {kl: {losss: a}}}", "distill.terms.kl.losss", "loss"),
    ("train: {lr: fast}", "train.lr", "fast"),
    ("train: {epochs: 2.5}", "train.epochs", "2.5"),
    ("train: {epochs: true}", "train.epochs", "True"),
    ("train: {lr: null}", "train.lr", "a number"),
    ("train: {lr: [1]}", "train.lr", ""),
    ("train: 3", "'train'", "expected keys and values"),
    ("train: [1]", "'train'", "expected keys and values"),
    ("model: null", "'model'", "expected keys and values"),
    ("model: {head: heatmap}", "'model.head'", "expected keys and values"),
    ("distill: {terms: [1]}", "'distill.terms'", "expected keys and values"),
    ("distill: {terms: {kl: 3}}", "'distill.terms.kl'", "expected keys and values"),
    ("tracking: {tags: x}", "'tracking.tags'", "expected keys and values"),
    ("model: {head: {kind: heatmp}}", "model.head.kind", "simcc"),
    ("data: {on_bad: ignore}", "data.on_bad", "skip"),
    ("seed: -1", "seed", "0 or more"),
    ("name: a/b", "name", "/"),
    ("name: ''", "name", ""),
    ("train: {lr: .inf}", "train.lr", "finite"),
    ("augment: {rotate: .nan}", "augment.rotate", "finite"),
    ("train: {lr: 0}", "train.lr", "above 0"),
    ("train: {lr: 1.0e-6}", "train.min_lr", "train.lr"),
    ("train: {epochs: 0}", "train.epochs", "1 or more"),
    ("train: {batch_size: 10, accumulate: 3}", "train.accumulate", "divisor"),
    ("train: {ema: 1.0}", "train.ema", "below 1"),
    ("augment: {flip: 1.5}", "augment.flip", "at most 1"),
    ("augment: {photometric: {x: {p: 0.5}}}", "augment.photometric.x.name", "albumentations"),
    ("augment: {photometric: {x: {name: A, p: 2}}}", "augment.photometric.x.p", "at most 1"),
    ("model: {input_size: 8}", "model.input_size", "32"),
    ("model: {head: {stride: 3}}", "model.head.stride", "16"),
    ("model: {head: {sigma: 0}}", "model.head.sigma", "0.002"),
    ("model: {pretrained: true, checkpoint: a.pth}", "model.checkpoint", "model.pretrained"),
    ("loss: {region_weights: {chin: 1}}", "loss.region_weights.chin", "jaw"),
    ("loss: {region_weights: {jaw: -1}}", "loss.region_weights.jaw", "0 or more"),
    ("loss: {region_weights: {jaw: 0, brows: 0, nose: 0, eyes: 0, mouth: 0}}", "loss.region_weights", "above 0"),
    ("distill: {terms: {kl: {weight: 1}}}", "distill.terms.kl.loss", "distillation loss"),
    ("distill: {terms: {kl: {loss: a, weight: -1}}}", "distill.terms.kl.weight", "0 or more"),
    ("distill: {terms: {kl: {loss: a, warmup: 0}}}", "distill.terms.kl.warmup", "above 0"),
    ("distill: {terms: {heatmap: {loss: heatmap_kl}}}", "distill.terms.heatmap", "labels' own"),
    ("distill: {terms: {a.b: {loss: heatmap_kl}}}", "distill.terms.a.b", "letters"),
    ("data: {train: aflw_val}", "data.train", "challenge rules"),
]


@pytest.mark.parametrize(("text", "named", "words"), WRONG, ids=[text for text, _, _ in WRONG])
def test_what_cannot_work_is_refused_with_its_key_and_an_alternative(read, text, named, words):
    message = refused(read, text)
    assert named in message and words in message and "run.yaml" in message


def test_every_number_has_an_upper_end(read):
    """Else a slip of the keyboard ends in the traceback of whatever library meets the number first."""
    text = "distill: {terms: {kl: {loss: heatmap_kl}}}\naugment: {photometric: {gray: {name: ToGray}}}\n"
    numbers = [key for key, value in configs.flatten(read(text)).items() if type(value) in (int, float)]
    assert {"data.size", "train.lr", "distill.terms.kl.weight", "augment.photometric.gray.p"} <= set(numbers)
    for key in numbers:
        for huge in ("1" + "0" * 30, "1e300"):
            assert f"'{key}'" in refused(read, text, f"{key}={huge}"), f"{key}={huge}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b", "list"),
        ("a: b: c", "line 1"),
        ("[1, 2", "YAML"),
        ("? [1]\n: 2", "YAML"),
        ("seed: 1\nseed: 2", "line 2"),
    ],
)
def test_files_that_are_no_keys_and_values(read, text, words):
    message = refused(read, text)
    assert "run.yaml" in message and words in message


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00garbage\x80")
    assert "x.yaml" in refused(configs.load, tmp_path / "x.yaml")


# ---------------------------------------------------------------------------------------------------- overrides


def test_overrides_win_over_the_file_and_the_last_one_wins(read):
    config = read("train: {lr: 0.1, epochs: 2}", "train.lr=1e-3", "train.lr=0.01", "data.root=some dir", "name=a=b")
    assert (config.train.lr, config.train.epochs, config.data.root, config.name) == (0.01, 2, "some dir", "a=b")


def test_overrides_reach_into_terms_steps_and_free_arguments(read):
    config = read(
        "distill: {terms: {kl: {loss: heatmap_kl}}}",
        "distill.terms.kl.args.temperature=2",
        "distill.terms.fit={loss: fitnet, student: 'level:3', teacher: 'level:2'}",
        "augment.photometric.gray.name=ToGray",
        "model.backbone_args.out_indices=[1,2]",
        "tracking.tags.purpose=trial",
        "data.root=",
    )
    assert config.distill.terms["kl"].args == {"temperature": 2}
    assert config.distill.terms["fit"].student == "level:3"
    assert config.augment.photometric["gray"].name == "ToGray"
    assert config.model.backbone_args == {"out_indices": [1, 2]}
    assert config.tracking.tags == {"purpose": "trial"} and config.data.root == ""


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ("train.lr", "train.lr"),
        ("=3", "=3"),
        ("train.lr=", "train.lr"),
        ("train.lr=[1", "train.lr"),
        ("train=3", "train"),
        ("train.lr.x=3", "train.lr"),
        ("nothing.here=3", "nothing"),
        ("train..lr=3", "train"),
        ("train.lrr=3", "lr"),
        ("distill.terms.kl=3", "distill.terms.kl"),
    ],
)
def test_broken_overrides_are_refused(read, item, named):
    assert named in refused(read, "", item)


# ---------------------------------------------------------------------------------------------------- identity


def full(read) -> Config:
    return read(
        "distill: {terms: {kl: {loss: heatmap_kl, args: {temperature: 2}}}}\n"
        "augment: {photometric: {gray: {name: ToGray, p: 0.2}}}\nloss: {region_weights: {jaw: 2}}\n"
    )


def test_a_config_survives_yaml_json_and_dict(read, tmp_path):
    config = full(read)
    assert read(configs.to_yaml(config)) == config
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert configs.model_from_dict(configs.to_dict(config)["model"], "x") == config.model
    assert yaml.safe_load(configs.to_yaml(config)) == configs.to_dict(config)


def test_a_stored_config_is_checked_like_a_written_one():
    assert "train.lr" in refused(configs.from_dict, {"train": {"lr": -1}})
    assert "somewhere" in refused(configs.model_from_dict, {"backbone": 3}, "somewhere")
    assert "somewhere" in refused(configs.model_from_dict, {"colour": "red"}, "somewhere")


def test_flat_names_are_those_of_overrides(read):
    config = full(read)
    flat = configs.flatten(config)
    assert flat["train.lr"] == config.train.lr
    assert flat["distill.terms.kl.args.temperature"] == 2 and flat["loss.region_weights.jaw"] == 2
    assert read("", *(f"{key}={json.dumps(value)}" for key, value in flat.items())) == config


def test_the_digest_is_the_same_wherever_and_however_the_run_is_stored(read):
    config = full(read)
    digest = configs.digest(config)
    assert len(digest) == 16 and int(digest, 16) >= 0
    elsewhere = read(
        configs.to_yaml(config),
        "name=other",
        "data.root=elsewhere",
        "data.cache=fast/disk",
        "data.workers=7",
        "resume=abc",
        "tracking.uri=http://there",
        "tracking.store=other",
        "tracking.experiment=x",
        "tracking.run_name=y",
        "tracking.tags.a=b",
        "train.device=cpu",
        "train.threads=3",
        "train.checkpoint_seconds=1",
    )
    assert configs.digest(elsewhere) == digest and elsewhere != config
    script = "import sys; from distill import config; print(config.digest(config.load(sys.argv[1])))"
    path = ROOT / "experiments" / "distill.yaml"
    other = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, cwd=ROOT)
    assert other.stdout.strip() == configs.digest(configs.load(path)), "another process, another hash seed"


def test_the_digest_of_a_cache_that_changes_pixels_is_another(read):
    cached, bare = read("", "data.cache=here", "data.cache_size=192"), read("", "data.cache_size=192")
    assert configs.digest(cached) != configs.digest(bare) == configs.digest(Config())
    assert configs.digest(read(configs.to_recipe(cached))) == configs.digest(cached)
    assert configs.digest(read("", "data.cache=elsewhere", "data.cache_size=192")) == configs.digest(cached)


def test_the_digest_depends_only_on_what_differs_from_the_defaults(read):
    """So that a field of a later version leaves the digests of older runs as they were."""
    assert configs.digest(read("", "train.lr=0.002", "model.head.kind=heatmap")) == configs.digest(Config())
    assert configs.digest(read("", "teacher=abc")) == configs.digest(Config()), "a control has no teacher"
    terms = "distill.terms.kl={loss: heatmap_kl"
    assert configs.digest(read("", terms + ", weight: 1.0}")) == configs.digest(read("", terms + "}"))
    assert configs.digest(read("", terms + "}", "teacher=abc")) != configs.digest(read("", terms + "}"))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "train.lr=0.02",
        "data.limit=5",
        "distill.terms.kl.weight=2",
        "model.head.stride=8",
        "train.epochs=31",
        "augment.photometric.gray.p=0.3",
        "distill.terms.kl.args.temperature=3",
        "model.backbone=lcnet_050",
    ],
)
def test_the_digest_changes_with_what_is_computed(read, override):
    config = full(read)
    assert configs.digest(read(configs.to_yaml(config), override)) != configs.digest(config)


# ---------------------------------------------------------------------------------------------------- lightness


@pytest.mark.parametrize(
    "body",
    [
        "configs.load('experiments/distill.yaml', ['train.lr=0.1'])",
        "\ntry: configs.load('experiments/cpu/distill.yaml', ['lr=0.1'])\nexcept Exception as e: assert 'lr' in str(e)",
    ],
    ids=["good", "refused"],
)
def test_reading_a_config_imports_nothing_heavy(body):
    script = f"import sys\nfrom distill import config as configs\n{body}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {
        "torch",
        "timm",
        "mlflow",
        "numpy",
        "cv2",
        "scipy",
        "pandas",
        "matplotlib",
        "albumentations",
        "onnxruntime",
    }
    assert not heavy & {name.partition(".")[0] for name in done.stdout.split()}


def test_defaults_pass_their_own_check():
    configs.check(Config())
    assert TrainConfig().accumulate == 1
