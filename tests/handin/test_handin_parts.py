"""Of what a hand-in is made: the code of a revision, pinned requirements, the way to the model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.handin import pins, sources, steps
from distill.tracking import RunInfo

# ---------------------------------------------------------------------------------------------------- code


def git(folder: Path, *args: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *names, *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path) -> Path:
    """A small project with code, litter, and data in places where people have it."""
    root = tmp_path / "project"
    for name in (
        "distill/__init__.py",
        "distill/__pycache__/config.pyc",
        "search/study.py",
        "experiments/base.yaml",
        "run",
        "distill/data/sample/synthetics_val/annot.pkl",
        "distill/data/sample/synthetics_val/0.jpg",
        "mlruns/README.md",
        "mlruns/mlflow.db",
        "outputs/solution.zip",
        "docs/picture.png",
        "faces/mine/annot.pkl",
        "faces/mine/0.jpg",
        "aflw_test/image00002.jpg",
        "private/plans.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first")
    (root / "run").chmod(0o755)
    return root


@pytest.fixture
def checkout(project) -> tuple[Path, str]:
    """The project under git, everything in it committed but the litter."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    (project / ".gitignore").write_text("__pycache__/\nmlruns/mlflow.db\n")
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "first")
    return project, git(project, "rev-parse", "HEAD")


CODE = {
    "distill/__init__.py",
    "search/study.py",
    "experiments/base.yaml",
    "run",
    "docs/picture.png",
    ".gitignore",
    "distill/data/sample/synthetics_val/annot.pkl",
    "distill/data/sample/synthetics_val/0.jpg",
}


def test_a_clean_run_has_the_code_of_its_revision_and_no_data(checkout):
    root, revision = checkout
    (root / "distill" / "__init__.py").write_text("second")
    git(root, "commit", "-aqm", "second")
    found = sources.collect(revision, True, [root / "private", root, root.parent / "elsewhere"], root)
    assert found.files.keys() == CODE and found.executable == {"run"}
    assert found.files["distill/__init__.py"] == b"first" and revision in found.statement
    assert "private/plans.txt" in sources.collect(revision, True, (), root).files


def test_a_run_with_changes_has_the_present_code_and_a_sentence(checkout):
    root, revision = checkout
    (root / "distill" / "__init__.py").write_text("second")
    (root / "distill" / "new.py").write_text("not known to git yet")
    (root / "notes.txt").write_text("not known to git, and no code")
    (root / "search" / "study.py").unlink()
    found = sources.collect(revision, False, [root / "private"], root)
    assert found.files.keys() == CODE - {"search/study.py"} | {"distill/new.py"}
    assert found.files["distill/__init__.py"] == b"second"
    assert "changes that were not committed" in found.statement and f"{revision}, with changes" in found.statement


def test_a_revision_that_is_not_here_is_reported(checkout):
    root, revision = checkout
    found = sources.collect("0" * 40, True, (), root)
    assert found.files["distill/__init__.py"] == b"first" and found.files.keys() >= CODE
    assert "not to be had here" in found.statement and f"that of revision {revision}, by which" in found.statement


def test_without_git_it_is_the_installed_package(project):
    found = sources.collect("", False, (), project)
    assert found.files.keys() == {name for name in CODE if name.startswith(("distill/", "search/"))}
    assert "no version control" in found.statement and "installed package" in found.statement


# ---------------------------------------------------------------------------------------------------- requirements

STATED = {
    "torch": ["cuda-toolkit[cublas]==13", "triton; platform_system == 'Linux'", "opt-einsum; extra == 'opt'"],
    "cuda-toolkit": ["nvidia-cublas; extra == 'cublas'", "nvidia-cufft; extra == 'cufft'"],
    "timm": ["torch", "PyYAML"],
}
RAN = {
    "python": "3.11.7",
    "platform": "Linux",
    "packages": {
        "torch": "2.15.0+cpu",
        "cuda-toolkit": "13.2",
        "nvidia-cublas": "1",
        "nvidia-cufft": "1",
        "timm": "1.0",
        "pyyaml": "6.0",
        "typing_extensions": "4",
        "opt-einsum": "3",
        "pytest": "9",
        "distill": "0.1",
        "pip": "26",
    },
}


def pinned(*needed: str, **known: str) -> list[str]:
    text = pins.requirements(RAN, needed, lambda name: STATED.get(name, []), lambda name: known.get(name, ""))
    return text.splitlines()


def test_what_the_code_needs_is_pinned_as_it_ran_and_nothing_else():
    head, *lines = pinned("timm>=1.0", "Typing-Extensions")
    assert head.startswith("# Python 3.11.7 on Linux")
    assert lines == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "cuda-toolkit==13.2",
        "nvidia-cublas==1",
        "pyyaml==6.0",
        "timm==1.0",
        "torch==2.15.0+cpu",
        "typing-extensions==4",
    ]


def test_extras_bring_in_what_they_name():
    assert "opt-einsum==3" not in pinned("torch") and "opt-einsum==3" in pinned("torch[opt]")


def test_what_other_code_needs_and_the_run_did_not_have_comes_last_with_a_word():
    lines = pinned("pyyaml", "reportlab>=4", "absent", reportlab="5.1")
    assert lines[1:] == [
        "pyyaml==6.0",
        "# not in the run's environment, but the code that is in here needs it",
        "reportlab==5.1",
    ]


def test_where_nothing_is_known_all_that_ran_is_pinned():
    names = {line.partition("==")[0] for line in pinned() if "==" in line}
    assert names == {name.replace("_", "-") for name in RAN["packages"]} - {"distill", "pip"}


def test_requirements_are_read_from_the_code():
    text = (
        b'[project]\ndependencies = ["numpy"]\n[project.optional-dependencies]\ntrain = ["torch"]\ndev = ["pytest"]\n'
    )
    assert pins.stated({"pyproject.toml": text}) == ["numpy", "torch"]
    assert pins.stated({"pyproject.toml": b'[project]\ndependencies = ["numpy"]\n'}) == ["numpy"]


def test_an_installed_package_is_pinned_with_what_training_needs(monkeypatch):
    stated = ["numpy>=2.0", 'torch!=2.13.*,>=2.11; extra == "train"', 'pytest>=8; extra == "dev"']
    monkeypatch.setattr(pins, "_required", lambda name: stated if name == pins.PROJECT else [])
    assert pins.stated({"distill/__init__.py": b""}) == ["numpy>=2.0", "torch!=2.13.*,>=2.11"]
    assert "torch==2.15.0+cpu" in pinned(*pins.stated({}))


# ---------------------------------------------------------------------------------------------------- steps


def run(name: str, job: str, role: str, **tags: str) -> RunInfo:
    given = {key.replace("_id", ".run_id").replace("parents", "average.parents"): value for key, value in tags.items()}
    return RunInfo(name, name, job, {"distill.role": role, **given}, {"average.method": "uniform"}, {}, "FINISHED")


@pytest.fixture
def trace(monkeypatch, tmp_path):
    """Steps to a run of a made-up store whose runs and config files are given."""

    def call(ref: str, runs: list[RunInfo], texts: dict[str, str] | None = None) -> list[steps.Step]:
        known = {info.id: info for info in runs}

        def find(_, wanted: str) -> RunInfo:
            if wanted not in known:
                raise UserError("not there")
            return known[wanted]

        def artifact(_, run_id: str, path: str) -> Path:
            file = tmp_path / run_id
            file.write_text((texts or {}).get(run_id, "name: x\n"))
            return file

        monkeypatch.setattr(steps.track, "find_run", find)
        monkeypatch.setattr(steps.track, "artifact_path", artifact)
        return steps.trace(known[ref], TrackingConfig())

    return call


def test_teachers_and_earlier_stages_come_first_and_each_once(trace):
    runs = [
        run("T", "teacher", "teacher"),
        run("A", "teacher", "assistant", teacher_id="T"),
        run("S", "student", "distilled", teacher_id="A"),
        run("B", "student", "tuned", init_id="S", teacher_id="T"),
    ]
    found = trace("B", runs)
    assert [step.name for step in found] == ["1-teacher", "2-assistant", "3-distilled", "4-tuned"]
    assert found[1].command.startswith("python -m distill.teacher --config train/2-assistant.yaml ")
    assert found[2].command.endswith(" teacher=2-assistant")
    assert found[3].command.endswith(" init=3-distilled teacher=1-teacher")


def test_an_average_names_its_members_which_come_first(trace):
    runs = [
        run("C", "student", "control"),
        run("D", "student", "control"),
        run("M", "student", "averaged", parents="C,D"),
    ]
    found = trace("M", runs)
    assert [step.name for step in found] == ["1-control", "2-control", "3-averaged"]
    assert found[2].command == "python -m distill.average 1-control 2-control --method uniform --name 3-averaged"
    assert found[2].config == ""


def test_what_is_not_in_the_store_is_reported(trace):
    (step,) = trace("S", [run("S", "student", "distilled", teacher_id="gone")])
    assert (
        step.command.endswith(" teacher=gone") and "gone" in step.remarks[0] and "not in the store" in step.remarks[0]
    )
    text = (
        "teacher: /home/me/big.safetensors\ndistill: {terms: {kl: {loss: heatmap_kl}}}\nmodel: {checkpoint: /w/x.pth}\n"
    )
    (step,) = trace("S", [run("S", "student", "distilled")], {"S": text})
    assert step.command.endswith(" teacher=big.safetensors") and len(step.remarks) == 2
    assert "/home" not in step.config and "/w/" not in step.config and "x.pth" in step.config


def test_a_config_keeps_all_but_its_places(trace):
    text = (
        "name: x\nteacher: 2a1efce3\nresume: last\ndata: {root: /data, cache: /c, train: /other/faces, val: auto, "
        "limit: 7}\ntracking: {store: /s, uri: 'http://host'}\ntrain: {lr: 1.0e-05}\n"
    )
    (step,) = trace("S", [run("S", "student", "control")], {"S": text})
    assert "teacher=" not in step.command, "without terms nobody listens to it"
    assert step.config == (
        "name: x\nteacher: ''\nresume: ''\ndata:\n  root: ''\n  cache: ''\n  train: faces\n  val: auto\n  limit: 7\n"
        "train:\n  lr: 1.0e-05\n"
    )
