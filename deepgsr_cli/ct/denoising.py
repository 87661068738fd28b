"""Noise removed from CT slices in HU: a network told the level, and the level estimated."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

# What the network sees of the HU scale; what lies beyond keeps its values.
LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0
# HU that are 1 for the network.
SCALE_HU = 1000.0

Values = TypeVar("Values", np.ndarray, Tensor)


def to_network(hu: Values) -> Values:
    """HU as the network sees them: water is 0.5, which it takes for the middle, and air is -0.5.

    The numbers of soft tissue are then the finest that half precision has.
    """
    return 0.5 + hu / SCALE_HU


def to_hu(x: Values) -> Values:
    """HU of what the network gives: the inverse of `to_network`."""
    return (x - 0.5) * SCALE_HU
