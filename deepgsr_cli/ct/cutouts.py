"""Random cut-outs of CT slices with drawn objects, to train on."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.formats.dicom.slices import AIR_HU
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, hu_to_attenuation

# Share of the cut-outs that show a slice at its own resolution.
_OWN = 0.6
# Share of the cut-outs that are neither turned nor scaled.
_EXACT = 0.5
# Cut-outs lie in this middle part of the range they could; at a slice's rim is air.
_MIDDLE = 0.8
# Objects drawn into one cut-out.
_MOST_OBJECTS = 6


class CutOuts:
    """Random square cut-outs of slices, a function of the generator alone.

    A cut-out shows a slice at its own resolution, or at half or a quarter of it, half of them pixel by pixel,
    the others turned and scaled. It may be cut to an ellipse, with air around; contrast varies; ellipses from
    air to metal are drawn into some.

    Args:
        slices: Slices in HU, (H, W) each.
        size: Side of a cut-out in pixels.
        device: Device where the slices are kept and the cut-outs are made.
        masked: Share of the cut-outs that are cut to an ellipse.
        with_objects: Share of those that ellipses are drawn into.
    """

    def __init__(
        self,
        slices: list[np.ndarray],
        size: int,
        device: torch.device,
        *,
        masked: float = 0.5,
        with_objects: float = 0.4,
    ) -> None:
        self.size, self.device = size, device
        self._masked, self._with_objects = masked, with_objects
        self.levels: list[list[Tensor]] = []  # of each slice, int16
        for hu in slices:
            image = torch.from_numpy(hu)[None]
            levels = [image, F.avg_pool2d(image, 2), F.avg_pool2d(image, 4)]
            self.levels.append([level[0].round().short().to(device) for level in levels])

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Attenuation in 1/mm, (batch, 1, size, size), float32.

        Args:
            batch: Number of cut-outs.
            generator: Random generator, on the CPU.
        """
        return torch.stack([self._cut_out(generator) for _ in range(batch)])

    def _cut_out(self, generator: torch.Generator) -> Tensor:
        u = torch.rand(16, generator=generator).tolist()
        levels = self.levels[int(u[0] * len(self.levels))]
        levels = [level for level in levels if max(level.shape) >= self.size] or levels[:1]
        coarser = (u[1] - _OWN) / (1 - _OWN) * (len(levels) - 1)
        hu = levels[math.ceil(coarser) if coarser > 0 else 0].float()
        turn = int(u[2] * 4) * math.pi / 2
        scale = 1.0
        if u[3] > _EXACT:
            turn, scale = 2 * math.pi * u[2], 0.7 * 2 ** u[4]
        flip = 1 if u[5] < 0.5 else -1
        x, y = self._grid()
        # Pixels of the slice; whole numbers where the cut-out is exact.
        centre_x, centre_y = (self._centre(n, v) for n, v in zip(hu.shape[::-1], u[6:8]))
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        column = centre_x + flip * (cos * x - sin * y)
        row = centre_y + sin * x + cos * y
        image = _sample(hu - AIR_HU, row, column) + AIR_HU
        attenuation = hu_to_attenuation(image).clamp(min=0) * (0.85 + 0.3 * u[8])
        if u[9] < self._masked:
            radii = (0.6 + 0.4 * u[10]), (0.6 + 0.4 * u[11])
            attenuation = attenuation * self._ellipse(0, 0, *radii, math.pi * u[12], 1 + 2 * u[13])
        if u[14] < self._with_objects:
            for _ in range(1 + int(u[15] * _MOST_OBJECTS)):
                attenuation = self._with_object(attenuation, generator)
        return attenuation[None]

    def _with_object(self, attenuation: Tensor, generator: torch.Generator) -> Tensor:
        """Air, soft tissue, bone or metal in an ellipse of a random size, from a rod's to an organ's."""
        u = torch.rand(8, generator=generator).tolist()
        kind = u[0]
        if kind < 0.25:
            value = 0.3 * u[1]
        elif kind < 0.6:
            value = 0.9 + 0.2 * u[1]
        elif kind < 0.95:
            value = 1.1 + 1.2 * u[1]
        else:
            value = 2.5 + 2.0 * u[1]
        longest = 0.02 * 20 ** u[2] if kind < 0.6 else 0.015 * 10 ** u[2]
        radii = longest, longest * (0.3 + 0.7 * u[3])
        inside = self._ellipse(1.4 * u[4] - 0.7, 1.4 * u[5] - 0.7, *radii, math.pi * u[6], 1.0)
        inside = inside * (0.4 + 0.6 * u[7] if kind < 0.95 else 1.0)
        return torch.lerp(attenuation, torch.full_like(attenuation, value * WATER_ATTENUATION), inside)

    def _grid(self) -> tuple[Tensor, Tensor]:
        """Coordinates of the pixels from the centre, to the right (1, size) and down (size, 1)."""
        axis = torch.arange(self.size, device=self.device) - (self.size - 1) / 2
        return axis[None], axis[:, None]

    def _centre(self, length: int, v: float) -> float:
        """Centre of a cut-out along an axis of a slice: within it, or the slice's own if that is less."""
        room = length - self.size
        start = int((0.5 + _MIDDLE * (v - 0.5)) * (room + 1)) if room > 0 else room // 2
        return start + (self.size - 1) / 2

    def _ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, turn: float, edge_px: float
    ) -> Tensor:
        """1 inside an ellipse and 0 outside, (size, size); centre and radii in halves of the side."""
        column, row = (2 * axis / self.size for axis in self._grid())
        cos, sin = math.cos(turn), math.sin(turn)
        along = ((column - x) * cos + (row - y) * sin) / radius_x
        across = ((row - y) * cos - (column - x) * sin) / radius_y
        distance_px = (1 - (along**2 + across**2).sqrt()) * min(radius_x, radius_y) * self.size / 2
        return (distance_px / edge_px + 0.5).clamp(0, 1)


def _sample(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Image, (H, W), at positions in pixels, bilinear, 0 beyond its edges; shape of row + column."""
    row, column = torch.broadcast_tensors(row, column)
    height, width = image.shape
    grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), dim=-1)
    return F.grid_sample(image[None, None], grid[None].to(image.dtype), align_corners=False)[0, 0]
