"""The tasks that can be trained, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deepgsr_cli.ct.training import CTRecon
from deepgsr_cli.mar.training import MAR
from deepgsr_cli.phase.training import Phase
from deepgsr_cli.pictures.tasks import TASKS
from deepgsr_cli.pictures.training import PictureTraining
from deepgsr_cli.training import loop
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.loop import Progress
from deepgsr_cli.training.task import TrainingTask

# What reads the data of a run; each task has a kind of batch of its own.
TRAINING: dict[str, Callable[[TrainConfig, torch.device], TrainingTask[Any]]] = {
    **dict.fromkeys(TASKS, PictureTraining),
    "ct-recon": CTRecon,
    "mar": MAR,
    "phase": Phase,
}


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[Progress], None] | None = None
) -> Progress:
    """Train the network of a task that is named; as `loop.train` otherwise."""
    return loop.train(config, TRAINING[config.task], resume=resume, report=report)
