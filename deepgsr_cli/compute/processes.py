"""Training by several processes, one a GPU, as torchrun starts them.

Each process draws its own crops; gradients are averaged, so all take the same steps. The first one keeps the
clock, validates and writes. `torch.nn.parallel.DistributedDataParallel` does the same to modules that are
called as such; the unrolled networks are called stage by stage, and a million gradients are one message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from deepgsr_cli.errors import UserError

# Longest wait for another process that is there, but does not come: the first one validates meanwhile.
_PATIENCE = timedelta(minutes=30)


class ProcessError(UserError):
    """Another process of those that work together has ended, or does not answer."""


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
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with self._together():
                dist.init_process_group(backend, timeout=_PATIENCE)

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where `device` is the one of a process alone."""
        if self.count == 1 or device.type != "cuda":
            return device
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Put the mean over the processes in the place of each gradient.

        Raises:
            ProcessError: Another process has ended.
        """
        if self.count == 1:
            return
        # A gradient that is missing here may be there in another process.
        gradients = []
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients.append(p.grad)
        flat = torch.cat([g.flatten() for g in gradients])
        with self._together():
            dist.all_reduce(flat)
        parts = (flat / self.count).split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients)])

    def agreed(self, value: float) -> float:
        """The value of the first process.

        Raises:
            ProcessError: Another process has ended.
        """
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        with self._together():
            dist.broadcast(shared, 0)
        return float(shared)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Tell what only all processes can do, and now cannot, in one sentence."""
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's errors are no kind of their own
            raise ProcessError(
                f"process {self.rank} of {self.count}: another process of this run has ended or does not"
                " answer; start all of them again, with --resume"
            ) from error
