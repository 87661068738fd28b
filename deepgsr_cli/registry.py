"""All networks, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from deepgsr_cli.ct.network import Unrolled
from deepgsr_cli.mar.network import MetalReduction
from deepgsr_cli.models import NSR, DeepGSR, GroupSC
from deepgsr_cli.phase.network import UnrolledPhase

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
