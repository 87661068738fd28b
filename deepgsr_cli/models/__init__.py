"""The learned priors, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from deepgsr_cli.models.deepgsr import PRESETS, DeepGSR, DeepGSRConfig
from deepgsr_cli.models.groupsc import GROUPSC_PRESETS, GroupSC, GroupSCConfig
from deepgsr_cli.models.metal import METAL_PRESETS, MetalReduction, MetalReductionConfig
from deepgsr_cli.models.nsr import NSR, NSR_PRESETS, NSRConfig
from deepgsr_cli.models.phase import UNROLLED_PHASE_PRESETS, UnrolledPhase, UnrolledPhaseConfig
from deepgsr_cli.models.unrolled import UNROLLED_PRESETS, Unrolled, UnrolledConfig

__all__ = [
    "GROUPSC_PRESETS",
    "METAL_PRESETS",
    "MODELS",
    "NSR",
    "NSR_PRESETS",
    "PRESETS",
    "UNROLLED_PHASE_PRESETS",
    "UNROLLED_PRESETS",
    "DeepGSR",
    "DeepGSRConfig",
    "GroupSC",
    "GroupSCConfig",
    "MetalReduction",
    "MetalReductionConfig",
    "NSRConfig",
    "Unrolled",
    "UnrolledConfig",
    "UnrolledPhase",
    "UnrolledPhaseConfig",
    "build",
]

MODELS: dict[
    str,
    type[DeepGSR] | type[GroupSC] | type[NSR] | type[Unrolled] | type[MetalReduction] | type[UnrolledPhase],
] = {
    "deepgsr": DeepGSR,
    "groupsc": GroupSC,
    "nsr": NSR,
    "unrolled": Unrolled,
    "metal-reduction": MetalReduction,
    "unrolled-phase": UnrolledPhase,
}


def build(config: dict[str, Any]) -> nn.Module:
    """Model with random weights that a configuration, as `model.config_dict()` returns it, describes.

    Raises:
        ValueError: No such model, or a field that is unknown or out of its range.
    """
    fields = dict(config)
    name = fields.pop("model", None)
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; known are {', '.join(MODELS)}")
    return MODELS[name].from_config(fields)
