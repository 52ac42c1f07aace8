"""The registry: versions that say what they are, and a champion that moves on evidence, on its own validation images
only.
"""

from __future__ import annotations

import numpy as np
import pytest
from running import refusal
from stores import alias_holder, config, log_report, outage, quick, root, start  # noqa: F401

from distill import tracking as t
from distill.tracking import client, registry

ERRORS = np.random.default_rng(0).uniform(4, 9, 60)
NOISE = np.random.default_rng(1).normal(0, 1, 60)
A, B, SAMPLE = "aaaaaaaabbbb", "bbbbbbbbcccc", "ssssssss0000"  # fingerprints of validation sets


def run_with(config, errors, val: str = A, **tags) -> t.Run:
    """A finished student whose report has these errors."""
    given = {
        "data.val": val,
        "distill.role": "control",
        "data.is_sample": str(val == SAMPLE).lower(),
        t.NOTE: "A student.",
    }
    with start(config, tags=given | tags) as run:
        run.log_metrics({"best/val/nme": float(np.mean(errors))}, step=1)
        log_report(run, errors)
        run.log_text("weights", "model/student.safetensors")
    return run


@pytest.fixture
def name(request) -> str:
    return f"test {request.node.name}"


def holder(config, name, alias="champion") -> str | None:
    found = alias_holder(config, name, alias)
    return found and found[1]


def test_a_version_is_described(config, name):
    run = run_with(config, ERRORS, **{"distill.role": "distilled"})
    assert registry.register(config, name, run.id)[0] == "1"
    assert registry.register(config, name, run.id)[0] == "1", "the same run again is the same version"
    version = client.connect(config).get_model_version(name, "1")
    assert version.description == "A student."
    assert version.tags["distill.role"] == "distilled" and version.tags["data.val"] == A
    assert version.tags["val/nme"] == f"{ERRORS.mean():.4f}" and "holds it already" in version.tags["champion"]
    assert "`champion`" in client.connect(config).get_registered_model(name).description


def test_champion_moves_only_when_the_images_say_so(config, name):
    first = run_with(config, ERRORS)
    _, verdict = registry.register(config, name, first.id)
    assert verdict.moves and verdict.why == "there was none"

    lucky = run_with(config, ERRORS - 0.05 + (NOISE - NOISE.mean()))
    _, verdict = registry.register(config, name, lucky.id)
    assert not verdict.moves and verdict.difference.low < 0 < verdict.difference.high
    assert f"{verdict.difference} against the holder, run {first.id}" in verdict.why
    assert holder(config, name) == first.id and holder(config, name, "newest") == lucky.id

    better = run_with(config, ERRORS - 0.5 + 0.1 * NOISE)
    assert registry.register(config, name, better.id)[1].moves
    assert holder(config, name) == better.id and holder(config, name, "previous") == first.id
    assert not registry.register(config, name, run_with(config, ERRORS + 0.5).id)[1].moves
    assert t.resolve_registry(config, f"models:/{name}@champion")[0] == better.id


def test_other_validation_images_have_a_champion_of_their_own(config, name):
    main, easy, harder = (run_with(config, ERRORS, A), run_with(config, ERRORS / 2, B), run_with(config, ERRORS + 1, B))
    for run in (main, harder, easy):
        registry.register(config, name, run.id)
    assert holder(config, name) == main.id == holder(config, name, "champion-aaaaaaaa")
    assert holder(config, name, "champion-bbbbbbbb") == easy.id
    client.connect(config).set_registered_model_alias(
        name, "champion", alias_holder(config, name, "champion-bbbbbbbb")[0]
    )
    best = run_with(config, ERRORS / 3, B)
    registry.register(config, name, best.id)
    assert holder(config, name) == best.id, "a person moved it to the other images; there it stays"


def test_a_demo_never_takes_the_champion_of_real_images_and_gives_it_up(config, name):
    demo, real, again = (
        run_with(config, ERRORS / 9, SAMPLE),
        run_with(config, ERRORS),
        run_with(config, ERRORS / 20, SAMPLE),
    )
    registry.register(config, name, demo.id)
    assert holder(config, name) == demo.id
    registry.register(config, name, real.id)
    registry.register(config, name, again.id)
    assert holder(config, name) == real.id and holder(config, name, f"champion-{SAMPLE[:8]}") == again.id


def test_a_champion_from_before_sets_had_their_own_is_compared_with(config, name):
    old = run_with(config, ERRORS)
    registry.register(config, name, old.id)
    client.connect(config).delete_registered_model_alias(name, "champion-aaaaaaaa")
    assert not registry.register(config, name, run_with(config, ERRORS + 1).id)[1].moves
    better = run_with(config, ERRORS - 1)
    assert registry.register(config, name, better.id)[1].moves and holder(config, name) == better.id


def test_a_deleted_champion_is_followed(config, name):
    gone = run_with(config, ERRORS)
    registry.register(config, name, gone.id)
    client.connect(config).delete_run(gone.id)
    worse = run_with(config, ERRORS + 1)
    assert "was deleted" in registry.register(config, name, worse.id)[1].why and holder(config, name) == worse.id


def test_a_run_registered_offline_is_compared_when_it_arrives(config, name, outage):
    first = run_with(config, ERRORS)
    registry.register(config, name, first.id)
    with start(config, tags={"data.val": A}) as run:
        outage.begin()
        run.log_metrics({"best/val/nme": 9.0}, step=1)
        log_report(run, ERRORS + 1)
        assert run.register(name) is None
        outage.end()
    assert holder(config, name) == first.id and holder(config, name, "newest") == run.id


def test_unknown_references_are_one_sentence(config, name):
    registry.register(config, name, run_with(config, ERRORS).id)
    for ref in (f"models:/{name}@nobody", "models:/nothing@champion", f"models:/{name}/9"):
        assert ref in refusal(t.resolve_registry, config, ref)
    assert "models:/face student" in refusal(lambda: t.resolve_registry(config, "models:/face student"))


def test_a_description_by_a_person_stays(config, name):
    run = run_with(config, ERRORS)
    registry.register(config, name, run.id)
    store = client.connect(config)
    store.update_registered_model(name, "Ann's models")
    registry.register(config, name, run.id)
    assert store.get_registered_model(name).description == "Ann's models"
