"""The tasks that can be trained, and those that can be evaluated, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deepgsr_cli.ct.evaluation import SparseViewCT
from deepgsr_cli.ct.training import CTRecon
from deepgsr_cli.evaluation.records import Evaluation
from deepgsr_cli.mar.evaluation import MetalArtifacts
from deepgsr_cli.mar.training import MAR
from deepgsr_cli.phase.evaluation import PhaseRetrieval
from deepgsr_cli.phase.training import Phase
from deepgsr_cli.pictures.evaluation import Denoising, Deraining
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

EVALUATIONS: dict[str, type[Evaluation[Any, Any, Any]]] = {
    "denoise": Denoising,
    "derain": Deraining,
    "ct-recon": SparseViewCT,
    "mar": MetalArtifacts,
    "phase": PhaseRetrieval,
}


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[Progress], None] | None = None
) -> Progress:
    """Train the network of a task that is named; as `loop.train` otherwise."""
    return loop.train(config, TRAINING[config.task], resume=resume, report=report)
