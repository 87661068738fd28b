"""How many slices are computed at once, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepgsr_cli.compute.device import free_memory
from deepgsr_cli.errors import OptionError
from deepgsr_cli.tomography.geometry import Geometry

# More do not make a device faster, and the first results come later.
MOST_AT_ONCE = 16
# On several threads of a CPU a network takes a quarter less time for each of four slices, and hardly less for
# each of sixteen: its convolutions are too small for all threads.
ON_THREADS = 4
# Maps of the slice, and as many sinograms, that are held at once for each: about what total variation has.
_MAPS = 20


@dataclass(frozen=True)
class AtOnce:
    """How many slices are computed at once.

    Attributes:
        count: So many; None for as many as pay and as fit a third of the device's free memory.
        sharing: Processes that share the memory of the device.
    """

    count: int | None = None
    sharing: int = 1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise OptionError("batch", self.count, "give 1 or more slices at once, or leave it out")

    def __call__(
        self,
        geometry: Geometry,
        device: torch.device,
        bytes_per_pixel: float | None,
        on_threads: int = 1,
    ) -> int:
        """Return how many slices of a geometry to compute at once.

        Args:
            geometry: Geometry of their scan.
            device: Device they are computed on.
            bytes_per_pixel: What a network takes at its peak for each pixel of a slice; None without one.
            on_threads: Most that pay on a CPU of several threads. On one thread, one is as fast as more.
        """
        if self.count is not None:
            return self.count
        most = MOST_AT_ONCE
        if device.type == "cpu":
            most = on_threads if torch.get_num_threads() > 1 else 1
        pixels = math.prod(geometry.shape)
        per_slice = 4 * _MAPS * (pixels + geometry.num_views * geometry.num_bins)
        per_slice += int((bytes_per_pixel or 0) * pixels)
        return max(1, min(most, free_memory(device) // self.sharing // 3 // per_slice))


def grouped(geometries: Sequence[Geometry]) -> list[list[int]]:
    """Return the indices of geometries that are equal, group by group, in the order of their first ones."""
    groups: dict[Geometry, list[int]] = {}
    for i, geometry in enumerate(geometries):
        groups.setdefault(geometry, []).append(i)
    return list(groups.values())
