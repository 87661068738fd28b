"""Batches on their way to a device, and results on their way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Transfers(Protocol):
    """How batches come to a device, and results back.

    Attributes:
        ahead: Batches that are begun before the result of one is waited for.
    """

    ahead: int

    def send(self, batch: Tensor) -> Tensor:
        """Return a batch, which is on the CPU, on the device, for work that is started after this."""

    def fetch(self, *results: Tensor) -> Callable[[], list[Tensor]]:
        """Start to copy results, which are on the device, to the CPU; return what waits for them."""


def transfers_of(device: torch.device) -> Transfers:
    """Return what copies to a device and back: beside its work on CUDA, and in turn with it on others."""
    return _Streamed(device) if device.type == "cuda" else _InTurn(device)


class _InTurn:
    """Copies that the processor waits for.

    Args:
        device: Device they go to.
    """

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, batch: Tensor) -> Tensor:
        return batch.to(self._device)

    def fetch(self, *results: Tensor) -> Callable[[], list[Tensor]]:
        return lambda: [result.cpu() for result in results]


class _Streamed:
    """Copies by streams of their own, from and to memory that stays in its place (it is pinned).

    While the device works on a batch, the next one is cut and sent, and the result of the one before comes
    back. Work is started on the current stream. The allocators learn which streams use a tensor, so that its
    memory is not given to others before they are done.

    Args:
        device: A CUDA device.
    """

    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._there, self._back = (torch.cuda.Stream(device) for _ in range(2))

    def send(self, batch: Tensor) -> Tensor:
        work = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._there):
            sent = batch.pin_memory().to(self._device, non_blocking=True)
        work.wait_stream(self._there)
        sent.record_stream(work)
        return sent

    def fetch(self, *results: Tensor) -> Callable[[], list[Tensor]]:
        self._back.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._back):
            copies = [result.to("cpu", non_blocking=True) for result in results]
        for result in results:
            result.record_stream(self._back)
        done = self._back.record_event()

        def wait() -> list[Tensor]:
            done.synchronize()
            return copies

        return wait
