"""The learned priors, from picture to picture, by name."""

from typing import TypeAlias

from deepgsr_cli.models.deepgsr import PRESETS, DeepGSR, DeepGSRConfig
from deepgsr_cli.models.groupsc import GROUPSC_PRESETS, GroupSC, GroupSCConfig
from deepgsr_cli.models.nsr import NSR, NSR_PRESETS, NSRConfig

__all__ = [
    "GROUPSC_PRESETS",
    "NSR",
    "NSR_PRESETS",
    "PRESETS",
    "PRIORS",
    "DeepGSR",
    "DeepGSRConfig",
    "GroupSC",
    "GroupSCConfig",
    "NSRConfig",
    "Prior",
]

Prior: TypeAlias = DeepGSR | GroupSC | NSR
# By the name in their configuration.
PRIORS: dict[str, type[Prior]] = {
    "deepgsr": DeepGSR,
    "groupsc": GroupSC,
    "nsr": NSR,
}
