"""One process or several (torchrun), the same code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This is process `rank` of `world`, and it trains on `device`."""

    rank: int
    world: int
    device: torch.device
    host_group: dist.ProcessGroup | None = None  # of several processes: for what is on the host

    @property
    def is_main(self) -> bool:
        """Whether this process prints, logs and saves."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP with synchronised batch statistics where the device has them; the module itself for one process."""
        if self.world == 1:
            return module
        if self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
            return nn.parallel.DistributedDataParallel(module, device_ids=[self.device.index])
        return nn.parallel.DistributedDataParallel(module)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Inside, backward passes of what `wrap` returned leave gradients to this process."""
        return nullcontext() if self.world == 1 else module.no_sync()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def max(self, value: float) -> float:
        """The largest of all processes' values."""
        if self.world == 1:
            return value
        highest = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=self.host_group)  # on the host: no GPU waits for it
        return highest.item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.max(flag))

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` returns (picklable) in the main process, for all; its exceptions are raised in all."""
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]


def check_device(device: str) -> None:
    """device: auto, cpu or cuda. Raises UserError where torch finds no such device on this machine."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is 'cuda', but torch finds no GPU on this machine; expected 'cpu' or 'auto'.")


def start(device: str) -> Processes:
    """Join the group that torchrun describes in the environment, or be alone. device: auto, cpu or cuda.

    Raises UserError where torch finds no such device, or more processes than GPUs are on this machine.
    """
    check_device(device)
    use_cuda = device != "cpu" and torch.cuda.is_available()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    if use_cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started process {local} (from 0) on this machine, which has {torch.cuda.device_count()} GPUs; "
            "expected one process a GPU at most, or train.device=cpu."
        )
    where = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(where)
    if world > 1 and not dist.is_initialized():
        # validation happens on the main process while the others wait, so the time-out is generous
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=timedelta(hours=1))
    host_group = dist.new_group(backend="gloo", timeout=timedelta(hours=1)) if world > 1 else None
    return Processes(rank, world, where, host_group)


def stop() -> None:
    """Leave the group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
