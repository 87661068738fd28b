"""The tasks that can be trained, by name."""

from __future__ import annotations

from collections.abc import Callable

from deepgsr_cli.ct.training import CTRecon
from deepgsr_cli.errors import UsageError
from deepgsr_cli.mar.training import MAR
from deepgsr_cli.phase.training import Phase
from deepgsr_cli.pictures.training import Denoise, Derain, Restore
from deepgsr_cli.training import loop
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.loop import Progress

TASKS: dict[str, type[Denoise] | type[Derain] | type[CTRecon] | type[MAR] | type[Phase]] = {
    "denoise": Denoise,
    "derain": Derain,
    "restore": Restore,
    "ct-recon": CTRecon,
    "mar": MAR,
    "phase": Phase,
}


def check(config: TrainConfig) -> None:
    """Raise unless the task of a run has its preset.

    Raises:
        UsageError: It has not, or the preset asks for what the task does not tell.
    """
    presets = TASKS[config.task].presets
    if config.preset not in presets:
        raise UsageError(f"--preset {config.preset}: known are {', '.join(presets)}")
    if getattr(presets[config.preset], "search", 0) and config.task != "denoise":
        raise UsageError(
            f"--preset {config.preset}: its filter has to know the level of the noise, which only denoise"
            " is told; give small or paper"
        )


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[Progress], None] | None = None
) -> Progress:
    """Train the network of a task that is named; as `loop.train` otherwise.

    Raises:
        UsageError: As `check`, or the folder holds another run.
        InputError: No data.
    """
    check(config)
    return loop.train(config, TASKS[config.task], resume=resume, report=report)
