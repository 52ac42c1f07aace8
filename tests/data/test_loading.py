"""Batches: the same numbers for any number of workers or processes, after any interruption, and never a view twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.config import AugmentConfig, StepConfig
from distill.data.annotations import read_set
from distill.data.augment import Augmenter
from distill.data.loading import Batch, EpochSampler, TrainDataset, eval_batches, train_loader
from distill.errors import UserError

AUGMENT = AugmentConfig(photometric={"noise": StepConfig("GaussNoise", 0.5), "gray": StepConfig("ToGray", 0.3)})


@pytest.fixture
def train_set(tiny_root):
    return read_set(tiny_root / "synthetics_train")


def _loader(landmark_set, workers=0, batch_size=5, images=None, rank=0, world=1):
    sampler = EpochSampler(len(landmark_set), batch_size, seed=3, rank=rank, world=world)
    return sampler, train_loader(
        TrainDataset(landmark_set, Augmenter(AUGMENT, 32, 3), images, Augmenter(AUGMENT, 48, 3)),
        sampler,
        workers,
        pin=False,
    )


def _epochs(landmark_set, workers, count=2):
    sampler, loader = _loader(landmark_set, workers)
    batches = []
    for epoch in range(count):
        sampler.set_position(epoch)
        batches += list(loader)
    return batches


def _same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p[:4], q[:4], strict=True)
    )


def test_an_epoch(train_set):
    sampler, loader = _loader(train_set)
    assert len(loader) == len(sampler) == 4
    batches = list(loader)
    assert [type(batch) for batch in batches] == [Batch] * 4
    for batch in batches:
        assert batch.images.shape == (5, 32, 32, 3) and batch.images.dtype == torch.uint8
        assert batch.landmarks.shape == (5, 68, 2) and batch.landmarks.dtype == torch.float32
        assert batch.index.shape == (5,) and batch.index.dtype == torch.int64
    seen = torch.cat([batch.index for batch in batches]).tolist()
    assert len(set(seen)) == 20 and set(seen) < set(range(24)) and seen != sorted(seen)
    sampler.set_position(1)
    assert torch.cat([batch.index for batch in loader]).tolist() != seen


def test_any_number_of_workers_gives_the_same_numbers(train_set):
    alone = _epochs(train_set, 0)
    assert _same(alone, _epochs(train_set, 1)) and _same(alone, _epochs(train_set, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch_continues_exactly(train_set, workers):
    whole = _epochs(train_set, 0)
    sampler, loader = _loader(train_set, workers)
    sampler.set_position(1, start_batch=2)
    assert len(loader) == 4
    assert _same(list(loader), whole[6:])


class _OneImage:
    """Stands for a set whose images are all the same, so that equal augmentations would give equal pixels."""

    def __init__(self, landmark_set):
        self.pixels = landmark_set.image(0)

    def image(self, i):
        return self.pixels


def test_no_view_repeats_between_epochs_or_workers(train_set):
    same_label = train_set.subset(np.zeros(24, int))
    sampler, loader = _loader(same_label, workers=2, images=_OneImage(train_set))
    views = []
    for epoch in range(3):
        sampler.set_position(epoch)
        views += [image.numpy().tobytes() for batch in loader for image in batch.images]
    assert len(views) == len(set(views)) == 60


def test_processes_share_the_batches_of_one(train_set):
    whole = list(_loader(train_set, batch_size=6)[1])
    parts = [list(_loader(train_set, batch_size=6, rank=rank, world=3)[1]) for rank in range(3)]
    for i, batch in enumerate(whole):
        for field in Batch._fields[:4]:  # no targets are kept here
            assert torch.equal(getattr(batch, field), torch.cat([getattr(part[i], field) for part in parts]))


def test_impossible_batch_sizes(train_set):
    with pytest.raises(UserError, match=r"train.batch_size .*25\b.* 24"):
        EpochSampler(len(train_set), 25, seed=0)
    with pytest.raises(UserError, match=r"train.batch_size .*6\b.* 4"):
        EpochSampler(len(train_set), 6, seed=0, world=4)


def test_loading_leaves_the_global_random_state_alone(train_set):
    sampler, loader = _loader(train_set, workers=1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(loader)
    list(loader)
    assert torch.equal(before, torch.get_rng_state()) and numpy_before == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_sentence_from_any_process(train_set, workers):
    (train_set.folder / train_set.names[7]).write_bytes(b"")
    with pytest.raises(UserError) as error:
        list(_loader(train_set, workers, batch_size=24)[1])
    assert str(error.value) == f"Image '{train_set.folder / train_set.names[7]}' cannot be used: it is empty."


def test_evaluation_reads_every_image_once_in_order(tiny_root):
    val = read_set(tiny_root / "synthetics_val")
    batches = list(eval_batches(val, 32, 3))
    assert [len(batch.index) for batch in batches] == [3, 3, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(8))
    assert np.allclose(torch.cat([batch.landmarks for batch in batches]), val.landmarks / 2)
    test = read_set(tiny_root / "synthetics_test", need_labels=False)
    (batch,) = eval_batches(test, 64, 10)
    assert batch.landmarks.shape == (4, 68, 2) and not batch.landmarks.any()
    assert np.array_equal(batch.images[2], test.image(2))
