"""A cache gives the images it was made of, or none."""

from __future__ import annotations

import os
import pickle
import threading

import cv2
import numpy as np
import pytest
import torch

from distill.config import AugmentConfig
from distill.data.annotations import LandmarkSet, read_set
from distill.data.augment import Augmenter, plain
from distill.data.cache import open_or_build
from distill.data.loading import TrainDataset, eval_batches
from distill.errors import UserError


@pytest.fixture
def train_set(tiny_root):
    return read_set(tiny_root / "synthetics_train")


@pytest.fixture
def decoded(monkeypatch):
    """Indices that were decoded from their files since."""
    seen, real = [], LandmarkSet.image

    def image(self, i):
        seen.append(i)
        return real(self, i)

    monkeypatch.setattr(LandmarkSet, "image", image)
    return seen


def test_cached_images_are_the_images(train_set, tmp_path, decoded):
    images = [train_set.image(i) for i in range(24)]
    decoded.clear()
    cache = open_or_build(train_set, tmp_path / "cache", progress=False)
    assert decoded == list(range(24)) and len(cache) == 24
    again = open_or_build(train_set, tmp_path / "cache", progress=False)
    for i in (0, 11, 23):
        assert np.array_equal(cache.image(i), images[i]) and np.array_equal(again.image(i), images[i])
    assert len(decoded) == 24  # the second one read no image file
    assert not list((tmp_path / "cache").glob("*.part"))


def test_another_side_and_other_data_get_their_own(train_set, tmp_path):
    small = open_or_build(train_set, tmp_path, side=32, progress=False)
    whole = open_or_build(train_set, tmp_path, progress=False)
    part = open_or_build(train_set.subset([3, 5]), tmp_path, side=32, progress=False)
    assert len({small.path, whole.path, part.path}) == 3
    assert np.array_equal(small.image(3), plain(train_set.image(3), None, 32)[0])
    assert np.array_equal(part.image(0), small.image(3)) and train_set.fingerprint in small.path.name


def test_landmarks_follow_a_resized_cache(train_set, tmp_path):
    cache = open_or_build(train_set, tmp_path, side=32, progress=False)
    augmenter = Augmenter(AugmentConfig(), 48, 0)
    direct, cached = TrainDataset(train_set, augmenter)[2, 5], TrainDataset(train_set, augmenter, cache)[2, 5]
    assert np.allclose(direct[1], cached[1], atol=1e-3)
    assert np.abs(direct[0].astype(int) - cached[0]).mean() < 25  # the same view, blurred by the small cache
    (batch,) = eval_batches(train_set, 48, 24, cache)
    assert torch.allclose(batch.landmarks, torch.from_numpy(train_set.landmarks) * 0.75, atol=1e-4)


@pytest.mark.parametrize("damage", ["cut", "no note", "other note", "garbled note"])
def test_damaged_caches_are_rebuilt(train_set, tmp_path, decoded, damage):
    cache = open_or_build(train_set, tmp_path, progress=False)
    note = cache.path.with_suffix(".json")
    if damage == "cut":
        os.truncate(cache.path, 1000)
    elif damage == "no note":
        note.unlink()
    elif damage == "other note":
        note.write_text(note.read_text().replace(train_set.fingerprint, "0" * 16))
    else:
        note.write_text("{")
    decoded.clear()
    rebuilt = open_or_build(train_set, tmp_path, progress=False)
    assert len(decoded) == 24 and np.array_equal(rebuilt.image(23), train_set.image(23))


def test_a_build_that_fails_leaves_nothing_to_trust(train_set, tmp_path):
    path = train_set.folder / train_set.names[9]
    data = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(UserError, match=path.name):
        open_or_build(train_set, tmp_path / "cache", progress=False)
    assert not [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")]
    path.write_bytes(data)
    assert np.array_equal(open_or_build(train_set, tmp_path / "cache", progress=False).image(9), train_set.image(9))


def test_two_that_ask_at_once_build_once(train_set, tmp_path, decoded):
    caches = []
    threads = [
        threading.Thread(target=lambda: caches.append(open_or_build(train_set, tmp_path, progress=False)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 24 and len(caches) == 3


def test_a_cache_travels_light(train_set, tmp_path):
    cache = open_or_build(train_set, tmp_path, progress=False)
    cache.image(0)
    data = pickle.dumps(cache)
    assert len(data) < 1000 and np.array_equal(pickle.loads(data).image(4), train_set.image(4))


def test_refusals(train_set, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        open_or_build(train_set, tmp_path / "file", progress=False)
    for i, side in enumerate((20, 30)):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "mixed" / f"{i}.png"), np.zeros((side, side, 3), np.uint8))
    mixed = read_set(tmp_path / "mixed", need_labels=False)
    with pytest.raises(UserError, match="data.cache_size"):
        open_or_build(mixed, tmp_path / "cache", progress=False)
    assert open_or_build(mixed, tmp_path / "cache", side=16, progress=False).image(1).shape == (16, 16, 3)
