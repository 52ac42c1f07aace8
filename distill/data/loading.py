"""Batches: which samples, in which order, for which process; uint8 all the way to the device."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from distill.data.annotations import LandmarkSet
from distill.data.augment import Augmenter, plain, to_view
from distill.errors import UserError


class Batch(NamedTuple):
    """What a training step is given."""

    images: Tensor  # (B, S, S, 3) uint8 RGB
    landmarks: Tensor  # (B, P, 2) float32, pixels of S; zeros where the set has no labels
    index: Tensor  # (B,) int64, positions in the set
    teacher_images: Tensor | None = None  # (B, T, T, 3) uint8 RGB: the same views at the teacher's own size
    targets: dict[str, Tensor] | None = None  # or what the teacher gave for them, kept (distillation/targets.py)


class Sample(NamedTuple):
    """One of a batch, as arrays."""

    image: np.ndarray
    landmarks: np.ndarray
    index: int  # type: ignore[assignment]  # tuples have a method of that name
    teacher_image: np.ndarray | None = None
    targets: dict[str, np.ndarray] | None = None


class ImageSource(Protocol):
    """A LandmarkSet, or a cache of one: image(i) is (H, W, 3) uint8 RGB, of whatever size."""

    def image(self, i: int) -> np.ndarray: ...


class TargetSource(Protocol):
    """What a teacher gave for a view of an image, by name of the part."""

    def row(self, view: int, index: int) -> dict[str, np.ndarray]: ...


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Lists of (epoch, index) for one process, a list a batch.

    The order of an epoch depends on (seed, epoch) alone. A global batch is a run of batch_size positions of it, and
    each process takes its own contiguous slice, so that all slices together are the batch of a single process. What is
    left over at the end of an epoch waits for another one. Raises UserError where n images fill no batch, or batch_size
    does not divide among the processes.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size > n:
            raise UserError(f"train.batch_size is {batch_size}; expected at most the number of training images, {n}.")
        if batch_size % world:
            raise UserError(
                f"train.batch_size is {batch_size}; expected a multiple of the number of processes, {world}."
            )
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.epoch = self.start_batch = 0

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Which epoch the next iteration walks, and how many of its batches are done already."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Global batches of a whole epoch, wherever it starts."""
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n).tolist()
        share = self.batch_size // self.world
        for batch in range(self.start_batch, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(epoch, index) for index in order[first : first + share]]


class TrainDataset(Dataset):
    """Augmented samples by (epoch, index): the epoch travels with the key, so lasting workers need no message about it.

    landmark_set: labelled. images: where pixels come from, the set itself unless a cache is given. teacher: an
    augmenter of the same draws at another size: a teacher sees the student's view at its own resolution, and the
    student's pixels do not depend on whether it has a teacher, and which. views: how many views an image has, epoch e
    showing view e mod `views`; 0: a new one each epoch. targets: what a teacher gave for these views; its own images
    are then not made.
    """

    def __init__(
        self,
        landmark_set: LandmarkSet,
        augmenter: Augmenter,
        images: ImageSource | None = None,
        teacher: Augmenter | None = None,
        views: int = 0,
        targets: TargetSource | None = None,
    ):
        self.set, self.augmenter, self.images, self.teacher = landmark_set, augmenter, images or landmark_set, teacher
        self.views, self.targets = views, targets

    def __len__(self) -> int:
        return len(self.set)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        view = epoch % self.views if self.views else epoch
        image = self.images.image(index)
        landmarks = _points_of(self.set, index, image)
        pixels, points = self.augmenter(image, landmarks, view, index)
        if self.targets:
            return Sample(pixels, points, index, targets=self.targets.row(view, index))
        return Sample(pixels, points, index, self.teacher(image, landmarks, view, index)[0] if self.teacher else None)


def train_loader(
    dataset: TrainDataset, sampler: Iterable[list[tuple[int, int]]], workers: int, pin: bool
) -> DataLoader[Sample]:
    """Batches of `dataset` in the order of `sampler`, the same numbers for any number of workers.

    workers: processes that stay alive between epochs; 0 loads in this one. pin: page-locked memory for a GPU. A
    UserError met in a worker arrives as the same one sentence.
    """
    return _TrainLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else each epoch draws from the global one, which a resumed run must find unmoved
    )


def eval_batches(
    landmark_set: LandmarkSet, size: int, batch_size: int, images: ImageSource | None = None
) -> Iterator[Batch]:
    """The whole set in order, resized to size x size; the last batch may be smaller."""
    source = images or landmark_set
    for first in range(0, len(landmark_set), batch_size):
        samples = []
        for index in range(first, min(first + batch_size, len(landmark_set))):
            image = source.image(index)
            pixels, points = plain(image, _points_of(landmark_set, index, image), size)
            samples.append(Sample(pixels, points, index))
        yield _collate(samples)


def _points_of(landmark_set: LandmarkSet, index: int, image: np.ndarray) -> np.ndarray:
    """Landmarks in pixels of `image`, which a cache may hold as a view; zeros where there are none."""
    if landmark_set.landmarks is None:
        return np.zeros((landmark_set.markup.count, 2), np.float32)
    points, size = landmark_set.landmarks[index], landmark_set.sizes[index]
    return points.astype(np.float64) if (image.shape[1::-1] == size).all() else to_view(points, size, image.shape[0])


def _collate(samples: list[Sample]) -> Batch:
    images, landmarks, index, views, targets = zip(*samples, strict=True)
    return Batch(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(landmarks).astype(np.float32, copy=False)),
        torch.tensor(index, dtype=torch.int64),
        None if views[0] is None else torch.from_numpy(np.stack(views)),
        targets[0] and {part: torch.from_numpy(np.stack([target[part] for target in targets])) for part in targets[0]},
    )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    # Ctrl-C reaches the whole process group; the main process saves and then ends its workers itself, which needs
    # SIGTERM to do what it does by default and not what the main process had it do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _TrainLoader(DataLoader):
    def __iter__(self):
        try:
            yield from super().__iter__()
        except UserError as error:
            # torch wraps a worker's exception into its whole traceback; the last line is the sentence. Its frames hold
            # the workers in a reference cycle, whose collection waits for them in vain, five seconds.
            traceback.clear_frames(error.__traceback__)
            sentence = str(error).strip().splitlines()[-1].removeprefix("distill.errors.UserError: ")
            raise UserError(sentence) from None
