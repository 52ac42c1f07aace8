"""Made-up findings for the report's tests: three models whose errors are known, two photographs, an ablation."""

from __future__ import annotations

import dataclasses

import numpy as np

from distill import config as configs
from distill import metrics
from distill.config import Config, TermConfig
from distill.report.facts import (
    Ablation,
    AblationRow,
    Dataset,
    Effect,
    Findings,
    Look,
    Photo,
    Photos,
    RunFacts,
)

IMAGES = 40
TRUTH = np.random.default_rng(0).uniform(60, 300, (IMAGES, 68, 2))
SIZES = np.full((IMAGES, 2), 384)
VAL = "val0val0val0val0"


def run_id(role: str, seed: int) -> str:
    return f"{role[0] * 4}{seed:04d}" + f"{seed:024x}"


def run(role: str, shift: float, seed: int = 0, config: Config | None = None, **changes) -> RunFacts:
    """A run whose points lie `shift` pixels off, a little more or less from image to image."""
    noise = np.random.default_rng(seed + 17).uniform(0.5, 1.5, (IMAGES, 1, 1))
    report = metrics.evaluate(TRUTH + shift * noise * [1.0, 0.0], TRUTH, SIZES, yaw=np.linspace(-80, 80, IMAGES))
    config = config or Config(name=role, seed=seed)
    tags = {
        "distill.role": role,
        "data.val": VAL,
        "data.train": "train0train0",
        "env.torch": "9.9",
        "code.dirty": "false",
    }
    if role == "distilled":
        term = TermConfig(loss="heatmap_kl", weight=2.0)
        config = dataclasses.replace(config, distill=configs.DistillConfig(terms={"kl": term}))
        tags["teacher.run_id"] = run_id("teacher", 0)
    values = {
        "best/val/nme": report.nme, "best/val/median": report.median, "best/val/failure_rate": report.failure_rate,
        "best/val/auc": report.auc, "model/file_bytes": 9.35e6, "model/parameters": 2.3e6, "model/mmacs": 125.0,
        "model/latency_ms": 6.5, "data/train_images": 3000.0, "data/val_images": float(IMAGES),
    }  # fmt: skip
    history = {
        "val/nme": [(1, 2 * report.nme), (2, report.nme)],
        "train/epoch_seconds": [(1, 90.0), (2, 90.0)],
        "train/weighted/heatmap": [(1, 1.0), (2, 0.5)],
    }
    facts = RunFacts(
        run_id(role, seed), f"{role}-s{seed}", role, config, values, tags, report, None, history,
        (Dataset("synthetics_train", "training", "train0train0"), Dataset("faces_val", "validation", VAL)),
    )  # fmt: skip
    return dataclasses.replace(facts, **changes)


def trio() -> tuple[RunFacts, ...]:
    return run("teacher", 10.0), run("control", 12.0), run("distilled", 11.0)


def ablation(rows: int = 4, title: str = "Which terms help") -> Ablation:
    made = [AblationRow("control", (3.5, 3.6, 3.7), tuple(run_id("control", seed) for seed in range(3)), None)]
    for index in range(1, rows):
        effect = Effect(-0.1 * index, -0.1 * index - 0.05, -0.1 * index + 0.05, 0.001, -0.03 * index, 3, 3)
        made.append(AblationRow(f"variant {index}", (3.4, 3.5, 3.6), (run_id("distilled", index),), effect))
    return Ablation("ab1a" + "0" * 28, title, "control", 3, IMAGES, VAL, tuple(made), ("variant 1 seed 2",))


def photos(runs: tuple[RunFacts, ...], heat: bool = True) -> Photos:
    image = np.random.default_rng(1).integers(0, 255, (384, 384, 3), dtype=np.uint8)
    shown = []
    for index, rank in enumerate(("best", "median", "worst")):
        looks = {
            made.id: Look(
                TRUTH[index] + 3, 1.5, np.full((68, 20, 20), 1 / 400) if heat else None, (-24, -24, 408, 408),
                (("level:2", np.arange(64.0).reshape(8, 8)),),
            )
            for made in runs
        }  # fmt: skip
        shown.append(Photo(f"{rank}.jpg", rank, image, TRUTH[index], looks))
    return Photos("faces_val", VAL, IMAGES, True, tuple(shown))


def findings(**changes) -> Findings:
    runs = trio()
    return dataclasses.replace(
        Findings(runs, ablations=(ablation(),), photos=photos(runs), source="A store."), **changes
    )
