"""Attenuation in 1/mm and CT numbers in HU, from one to the other."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.tomography.projectors import Array


def to_attenuation(hu: np.ndarray, device: torch.device) -> Tensor:
    """Attenuation in 1/mm, (1, 1, H, W), float32, not negative, of HU, (H, W)."""
    return hu_to_attenuation(torch.from_numpy(hu).to(device).float()).clamp(min=0)[None, None]


def to_hu(x: Tensor) -> np.ndarray:
    """HU, (H, W), float32, of attenuation in 1/mm, (1, 1, H, W)."""
    return attenuation_to_hu(x)[0, 0].cpu().numpy()


WATER_ATTENUATION = 0.0192  # 1/mm at 70 keV, the value of the metal artifact literature

Values = TypeVar("Values", Array, Tensor)


def hu_to_attenuation(hu: Values) -> Values:
    """Attenuation in 1/mm of CT numbers in HU, any shape; nothing is clipped."""
    return (1 + hu / 1000) * WATER_ATTENUATION


def attenuation_to_hu(attenuation: Values) -> Values:
    """CT numbers in HU of attenuation in 1/mm, any shape: the inverse of `hu_to_attenuation`."""
    return (attenuation / WATER_ATTENUATION - 1) * 1000
