"""Pixels without a value: where they are, and what stands in for them while their neighbours are restored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Holes(NamedTuple):
    """Pixels without a value.

    Attributes:
        where: (C, H, W), true where there is no value.
        value: What is stored there.
    """

    where: np.ndarray
    value: float


def find_holes(colour: np.ndarray, value: float) -> Holes | None:
    """Find the pixels, (C, H, W), that store a value, which may be NaN; None where none does."""
    where = np.isnan(colour) if np.isnan(value) else colour == value
    return Holes(where, value) if where.any() else None


def fill_holes(pixels: np.ndarray, holes: Holes) -> None:
    """Fill pixels, (C, H, W), that have no value, in place: mirrored at the nearest pixel that has one.

    So the noise in what is filled is that of the surroundings. Where the mirrored pixel has no value either,
    it is the nearest that has.
    """
    from scipy.ndimage import distance_transform_edt

    for channel, hole in zip(pixels, holes.where):
        if not hole.any():
            continue
        if hole.all():
            channel[:] = 0
            continue
        y, x = np.nonzero(hole)
        nearest = distance_transform_edt(hole, return_distances=False, return_indices=True)
        near_y, near_x = nearest[:, y, x]
        far_y, far_x = (2 * near_y - y).clip(0, len(hole) - 1), (2 * near_x - x).clip(0, hole.shape[1] - 1)
        mirrored = ~hole[far_y, far_x]
        channel[y, x] = np.where(mirrored, channel[far_y, far_x], channel[near_y, near_x])
