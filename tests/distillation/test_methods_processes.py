"""Relations within the global batch: two processes (gloo) have the loss and the gradients of one with all the
images."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.multiprocessing as multiprocessing
from test_losses import draw
from torch import nn

from distill.distillation.balance import GradientBalance
from distill.distillation.losses.relation import BatchMethod, RelationMethod
from distill.distillation.methods import METHODS, Outputs

VECTORS = [name for name, method in METHODS.items() if isinstance(method, RelationMethod | BatchMethod)]
IMAGES, WORLD = 6, 2


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Identity()


class Terms(nn.Module):
    """A student, a supervised term and one relational term: what Objective does, as little of it as there can be."""

    def __init__(self, name: str):
        super().__init__()
        self.student, self.name, self.balance = Student(), name, GradientBalance(["x"], 1)
        self.adapter = METHODS[name].build_adapter([4], [5], {}) or nn.Identity()

    def forward(self, images: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        maps = self.student.backbone(images)
        sides = (Outputs(None, None, {"tap": x}) for x in (maps, teacher))
        raw = METHODS[self.name](*sides, self.adapter, {})
        supervised = maps.square().mean()
        return supervised + self.balance(self.student, supervised, {"x": raw})["x"] * raw


def step(module: nn.Module, share: slice) -> None:
    images, teacher = draw(IMAGES, 3, 10, 10)[share], draw(IMAGES, 5, 6, 6, seed=1)[share]
    for _ in range(2):  # the second measurement is smoothed into the first
        module.zero_grad()
        module(images, teacher).backward()


def gradients(terms: Terms) -> list[torch.Tensor]:
    return [*(p.grad for p in terms.parameters()), torch.tensor(terms.balance.scales["x"])]


def process(rank: int, store: str, found) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    share = IMAGES // WORLD
    for name in VECTORS:
        terms = Terms(name)
        step(nn.parallel.DistributedDataParallel(terms), slice(rank * share, (rank + 1) * share))
        found.put((rank, name, [value.numpy() for value in gradients(terms)]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
@pytest.mark.slow
def test_two_processes_have_the_gradients_and_the_scales_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    started = multiprocessing.spawn(process, (str(tmp_path / "store"), found), WORLD, join=False)
    answers = [found.get(timeout=120) for _ in range(WORLD * len(VECTORS))]
    started.join()
    assert {(rank, name) for rank, name, _ in answers} == {(r, n) for r in range(WORLD) for n in VECTORS}
    for _, name, values in answers:
        alone = Terms(name)
        step(alone, slice(None))
        for value, expected in zip(values, gradients(alone), strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected, rtol=1e-4, atol=1e-6)
    # and relations between the two halves do count
    for name in VECTORS:
        whole, half = Terms(name), Terms(name)
        step(whole, slice(None)), step(half, slice(0, IMAGES // WORLD))
        assert not torch.allclose(gradients(whole)[0], gradients(half)[0], rtol=1e-2)
