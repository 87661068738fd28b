"""Training by several processes, one a GPU, as torchrun starts them.

Each process draws its own crops; gradients are averaged, so all take the same steps. The first one keeps the
clock, validates and writes. `torch.nn.parallel.DistributedDataParallel` does the same to modules that are
called as such; the unrolled networks are called stage by stage, and a million gradients are one message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """This process among those that train together; alone unless torchrun says otherwise.

    Attributes:
        count: Number of processes.
        rank: Number of this one; 0 is the one that writes.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.count > 1 else 0
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where `device` is the one of a process alone."""
        if self.count == 1 or device.type != "cuda":
            return device
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Put the mean over the processes in the place of each gradient."""
        if self.count == 1:
            return
        # A gradient that is missing here may be there in another process.
        gradients = []
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients.append(p.grad)
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients)])

    def agreed(self, value: float) -> float:
        """The value of the first process."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)
