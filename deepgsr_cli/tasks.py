"""The tasks that can be trained, by name."""

from __future__ import annotations

from deepgsr_cli.ct.training import CTRecon
from deepgsr_cli.mar.training import MAR
from deepgsr_cli.phase.training import Phase
from deepgsr_cli.pictures.training import Denoise, Derain, Restore

TASKS: dict[str, type[Denoise] | type[Derain] | type[CTRecon] | type[MAR] | type[Phase]] = {
    "denoise": Denoise,
    "derain": Derain,
    "restore": Restore,
    "ct-recon": CTRecon,
    "mar": MAR,
    "phase": Phase,
}
