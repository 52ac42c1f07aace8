"""Made-up findings for the report's tests: three models whose errors are known, three images, an ablation."""

from __future__ import annotations

import dataclasses

import numpy as np

from distill import config as configs
from distill import metrics
from distill.ablation.table import Result, latencies, tabulate
from distill.config import Config, TermConfig
from distill.report.compare import Cast, models
from distill.report.document import Document
from distill.report.facts import Ablation, Dataset, Findings, Look, Picture, Pictures, RunFacts

IMAGES = 40
TRUTH = np.random.default_rng(0).uniform(60, 300, (IMAGES, 68, 2))
SORTED_BY = {
    "confidence": np.tile(np.linspace(0.85, 1.0, IMAGES)[:, None], 68),
    "yaw": np.linspace(-80, 80, IMAGES),
    "roll": np.linspace(-20, 60, IMAGES),
}
VAL = "val0val0val0val0"


def run_id(role: str, seed: int) -> str:
    return f"{role[0] * 4}{seed:04d}" + f"{seed:024x}"


def run(role: str, shift: float, seed: int = 0, config: Config | None = None, **changes) -> RunFacts:
    """A run whose points lie `shift` pixels off, a little more or less from image to image and seed to seed."""
    noise = np.random.default_rng(seed + 17).uniform(0.5, 1.5, (IMAGES, 1, 1))
    report = metrics.evaluate(TRUTH + shift * noise * [1.0, 0.0], TRUTH, np.array([384, 384]), **SORTED_BY)
    errors = metrics.RunErrors(report.per_image, report.per_image)
    config = config or Config(name=role, seed=seed)
    tags = {"distill.role": role, "data.val": VAL, "data.train": "train0train0", "env.torch": "9.9"}
    if role == "distilled":
        term = TermConfig(loss="heatmap_kl", weight=2.0)
        config = dataclasses.replace(config, distill=configs.DistillConfig(terms={"kl": term}))
        tags["teacher.run_id"] = run_id("teacher", 0)
    large = role == "teacher"
    values = {
        "best/val/nme": report.nme,
        "best/val/median": report.median,
        "best/val/failure_rate": report.failure_rate,
        "best/val/auc": report.auc,
        "model/file_bytes": 9.35e6 * (1 + 3 * large),
        "model/mmacs": 125.0,
        "model/parameters": 2.3e6 * (1 + 3 * large),
        "model/latency_ms": 6.5 + seed,
        "data/train_images": 3000.0,
        "data/val_images": float(IMAGES),
    }
    history = {
        "val/nme": [(1, 2 * report.nme), (2, report.nme)],
        "train/epoch_seconds": [(1, 90.0), (2, 90.0)],
        "train/weighted/heatmap": [(1, 1.0), (2, 0.5)],
    }
    facts = RunFacts(
        run_id(role, seed),
        f"{role}-s{seed}",
        role,
        config,
        values,
        tags,
        report,
        errors,
        None,
        history,
        (Dataset("synthetics_train", "training", "train0train0"), Dataset("faces_val", "validation", VAL)),
    )
    return dataclasses.replace(facts, **changes)


def trio(seeds: int = 1, distilled: float = 11.0) -> tuple[RunFacts, ...]:
    """The teacher, then `seeds` controls, then as many distilled students."""
    controls = [run("control", 12.0 + 0.02 * seed, seed) for seed in range(seeds)]
    return run("teacher", 10.0), *controls, *(run("distilled", distilled, seed) for seed in range(seeds))


def ablation(rows: int = 4, title: str = "Which terms help") -> Ablation:
    """Variant i is better than the control by 0.1 i points, with three seeds each; of which variant 1 lacks the last;
    so the last of three is clearly better.
    """
    level = np.random.default_rng(2).gamma(4, 0.8, IMAGES)
    seeds = np.array([[-0.1], [0.0], [0.1]])
    names = ["control", *(f"variant {index}" for index in range(1, rows))]
    results = [
        Result(name, seed, run_id(name, seed), metrics.RunErrors(errors, errors))
        for index, name in enumerate(names)
        for seed, errors in enumerate(level + seeds - 0.1 * index)
        if (name, seed) != ("variant 1", 2)
    ]
    data = {"train": "train0train0", "val": VAL}
    table = tabulate("terms", title, names, "control", [0, 1, 2], data, results)
    return Ablation("ab1a" + "0" * 28, table)


def pictures(runs: tuple[RunFacts, ...], heat: bool = True) -> Pictures:
    image = np.random.default_rng(1).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    shown = []
    for index, rank in enumerate(("best", "median", "worst")):
        looks = {
            made.id: Look(
                TRUTH[index] / 4 + 1,
                1.5,
                np.full((20, 20), 1 / 400) if heat else None,
                (-6, -6, 102, 102),
                (("stride:16", np.arange(64.0).reshape(8, 8)),),
            )
            for made in runs
        }
        shown.append(Picture(f"{rank}.jpg", rank, image, TRUTH[index] / 4, looks))
    return Pictures("faces_val", VAL, IMAGES, True, tuple(shown))


def findings(*runs: RunFacts, **changes) -> Findings:
    """About these runs; without any the whole trio with an ablation and images."""
    if not runs:
        runs = trio()
        changes = {"ablations": (ablation(),), "pictures": pictures(runs)} | changes
    least = latencies({run.id: run.metrics for run in runs})
    return Findings(runs, **{"source": "A store.", "latencies": least} | changes)


def document(*runs: RunFacts, title: str = "", **changes) -> Document:
    found = findings(*runs, **changes)
    return Document(found, Cast(tuple(models(found.runs))), title, "today")
