"""What the training loop asks of a task, and what tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor, nn

from deepgsr_cli.errors import InputError

if TYPE_CHECKING:
    from deepgsr_cli.mar.cases import MetalCase
    from deepgsr_cli.phase.diffraction import Diffraction
    from deepgsr_cli.tomography.radon import Radon
    from deepgsr_cli.training.config import TrainConfig


T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """A batch: degraded and clean images, (B, C, H, W) in [0, 1] where clean, the condition vectors of the
    network, (B, conditions), if it has any, and what each image's error counts, (B,). For a network with a
    collaborative filter, `filtered` has what the filter makes of `degraded`.

    Of a CT scan, `degraded` is the sinogram, (B, 1, V, N), `clean` the attenuation in 1/mm, and `operator`
    leads from one to the other. Of a scan of metal, `case` has the rest. Of diffraction patterns, `degraded`
    has the magnitudes, (B, J, M, N), of what `diffraction` makes of `clean`.
    """

    degraded: Tensor
    clean: Tensor
    condition: Tensor | None
    weight: Tensor
    operator: Radon | None = None
    case: MetalCase | None = None
    diffraction: Diffraction | None = None
    filtered: Tensor | None = None


class Task(Protocol):
    """A task's network, data and measures.

    Attributes:
        summary: What is trained on, for the checkpoint's header.
    """

    summary: str

    def network(self) -> nn.Module:
        """The network to train, with random weights."""

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        """The batch that the two generators, on the CPU and on the device, stand for."""

    def validation(self) -> list[Sample]:
        """Single images on the CPU, the same at each call."""

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """What is minimised, a scalar."""

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        """Mean PSNR in dB of a sample of `validation`, or of what `joined` made of several."""


def split_evenly(items: list[T], held_out: int) -> tuple[list[T], list[T]]:
    """Items to train on, and the evenly spread ones that are held out."""
    check_held_out(len(items), held_out)
    held = {int((i + 0.5) * len(items) / held_out) for i in range(held_out)}
    return [x for i, x in enumerate(items) if i not in held], [x for i, x in enumerate(items) if i in held]


def joined(samples: list[Sample], most: int) -> list[Sample]:
    """Batches of up to `most` samples of pictures of one size, which a device restores faster than one by
    one; samples of anything else stay as they are."""
    result = [x for x in samples if x.operator or x.case or x.diffraction]
    sizes: dict[torch.Size, list[Sample]] = {}
    for sample in samples:
        if not (sample.operator or sample.case or sample.diffraction):
            sizes.setdefault(sample.clean.shape, []).append(sample)
    for equal in sizes.values():
        for first in range(0, len(equal), most):
            part = equal[first : first + most]
            conditions = [x.condition for x in part if x.condition is not None]
            result.append(
                Sample(
                    torch.cat([x.degraded for x in part]),
                    torch.cat([x.clean for x in part]),
                    torch.cat(conditions) if conditions else None,
                    torch.cat([x.weight for x in part]),
                )
            )
    return result


def check_held_out(count: int, held_out: int) -> None:
    if held_out < 1 or count < 2 * held_out:
        raise InputError(
            f"{count} pictures, of which {held_out} would be held out for validation; "
            "give more pictures, --validation FOLDER, or another --held-out"
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
