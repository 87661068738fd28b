"""What the training loop asks of a task, and what tasks share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.errors import InputError, OptionError
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


@dataclass(frozen=True)
class Draw:
    """Random numbers of one step in one process.

    Attributes:
        cpu: Generator on the CPU: for what is chosen there.
        device: Generator on the device: for what is made there.
        step: The step, counted from 0.
    """

    cpu: torch.Generator
    device: torch.Generator
    step: int

    @classmethod
    def of(cls, device: torch.device, seed: int, step: int, rank: int = 0) -> Draw:
        """Generators that are a function of the run's seed, the step and the process."""
        seeds = [seed, step, rank] if rank else [seed, step]
        streams = np.random.SeedSequence(seeds).generate_state(2, np.uint64) >> np.uint64(1)
        cpu, own = (int(stream) for stream in streams)
        return cls(torch.Generator().manual_seed(cpu), torch.Generator(device).manual_seed(own), step)


class Sample(Protocol):
    """A batch to train or to validate on; what else it holds only its task knows."""

    @property
    def clean(self) -> Tensor:
        """What the network should find, the batch first."""


S = TypeVar("S", bound=Sample)
T = TypeVar("T")


class TrainingTask(Protocol[S]):
    """A task's network, data and measures; made of a run's configuration and its device.

    Attributes:
        summary: What is trained on, for the checkpoint's header.
        given: What `psnr_given` measures, as the words after "PSNR of": "the noisy input".
    """

    summary: str
    given: str

    def network(self) -> nn.Module:
        """The network to train, with random weights."""

    def sample(self, draw: Draw) -> S:
        """The batch that a draw stands for, on the device."""

    def validation(self) -> list[S]:
        """Batches on the CPU, the same at each call."""

    def loss(self, model: nn.Module, sample: S) -> Tensor:
        """What is minimised, a scalar."""

    def psnr(self, model: nn.Module, sample: S) -> float:
        """Mean PSNR in dB of a batch of `validation`."""

    def psnr_given(self, sample: S) -> float:
        """Mean PSNR in dB of what a batch of `validation` has before any network."""


def preset_of(config: TrainConfig, presets: Mapping[str, T]) -> T:
    """Shape of the network that a run asks for, without group blocks where it asks for that.

    Raises:
        OptionError: There is none of that name.
    """
    if config.preset not in presets:
        raise OptionError("preset", config.preset, f"known are {', '.join(presets)}")
    shape: Any = presets[config.preset]
    if not config.without_groups:
        return shape
    if hasattr(shape, "prior"):
        return dataclasses.replace(shape, prior=shape.prior.without_groups())
    return shape.without_groups()


def split_evenly(items: list[T], held_out: int) -> tuple[list[T], list[T]]:
    """Items to train on, and the evenly spread ones that are held out."""
    check_held_out(len(items), held_out)
    held = {int((i + 0.5) * len(items) / held_out) for i in range(held_out)}
    return [x for i, x in enumerate(items) if i not in held], [x for i, x in enumerate(items) if i in held]


def without_validation(paths: Sequence[Path], validation: Sequence[Path]) -> list[Path]:
    """Files to train on that are not validated on, as those of a folder below that of the data would be.

    Raises:
        InputError: None is left.
    """
    held = {os.path.realpath(path) for path in validation}
    left = [path for path in paths if os.path.realpath(path) not in held]
    if not left:
        raise InputError(
            "--data has no files but those of --validation; give others, or leave --validation out"
        )
    return left


def check_held_out(count: int, held_out: int) -> None:
    """Raise InputError unless that many of `count` pictures can be held out."""
    if held_out < 1 or count < 2 * held_out:
        raise InputError(
            f"{counted(count, 'picture')}, of which {held_out} would be held out for validation, and half at"
            " most can be; give more pictures, --validation FOLDER, or another --held-out"
        )
