"""The tasks that can be trained, and those that can be evaluated, by name.

Each is named by its module and class, and imported when it is asked for: a run loads no other task.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from deepgsr_cli.evaluation.records import Evaluation
from deepgsr_cli.pictures.tasks import TASKS
from deepgsr_cli.training import loop
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.loop import Progress
from deepgsr_cli.training.task import TrainingTask

_TRAINING = {
    **dict.fromkeys(TASKS, "pictures.training:PictureTraining"),
    "upscale": "pictures.upscaling:UpscaleTraining",
    "ct-recon": "ct.training:CTRecon",
    "ct-denoise": "ct.denoise_training:CTDenoise",
    "mar": "mar.training:MAR",
    "phase": "phase.training:Phase",
}
_EVALUATIONS = {
    "denoise": "pictures.evaluation:Denoising",
    "derain": "pictures.evaluation:Deraining",
    "upscale": "pictures.evaluation:Upscaling",
    "dejpeg": "pictures.evaluation:Dejpeg",
    "demosaick": "pictures.mosaic_evaluation:MosaicEvaluation",
    "ct-recon": "ct.evaluation:SparseViewCT",
    "ct-denoise": "ct.denoise_evaluation:LowDoseCT",
    "mar": "mar.evaluation:MetalArtifacts",
    "phase": "phase.evaluation:PhaseRetrieval",
}


def training_of(task: str) -> Callable[[TrainConfig, torch.device], TrainingTask[Any]]:
    """Return the class that reads the data of a run; each has a kind of batch of its own."""
    return _imported(_TRAINING[task])


def evaluation_of(task: str) -> type[Evaluation[Any, Any, Any]]:
    """Return the class of a task's evaluation."""
    return _imported(_EVALUATIONS[task])


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(f"deepgsr_cli.{module}"), name)


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[Progress], None] | None = None
) -> Progress:
    """Train the network of a task that is named; as `loop.train` otherwise."""
    return loop.train(config, training_of(config.task), resume=resume, report=report)
