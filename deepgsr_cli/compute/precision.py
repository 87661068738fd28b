"""The arithmetic that networks run in."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which a network on the device computes in a precision, as far as it is safe."""
    return torch.autocast(device.type, dtype=_HALF.get(precision), enabled=precision in _HALF)
