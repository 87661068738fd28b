"""Shapes of metal: screws, plates, joints, fillings and wires, and how they lie in a slice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_shape(mask: Tensor, size: int) -> Tensor:
    """Shape of metal, bool (size, size), from one of another size, (H, W): at least half by bilinear
    interpolation.

    The papers' test metals, of 512 x 512 pixels, come out with at most six pixels less or more than published
    for 416 x 416.
    """
    return F.interpolate(mask[None, None].float(), (size, size), mode="bilinear")[0, 0] >= 0.5


def random_metal(size: int, generator: torch.Generator, shapes: Sequence[Tensor] = ()) -> Tensor:
    """Metal as implants look in a slice, bool (size, size): at least three pixels, none near the border.

    Screws, plates, balls, hip heads, fillings or wires, one to four of a kind; half of the time one of the
    shapes instead, if there are any: turned, moved and scaled.

    Args:
        size: Rows and columns.
        generator: Random generator, on the CPU.
        shapes: Shapes of metal, bool (H, W), which keep their size relative to the slice up to a factor
            of 1.4.
    """
    inside = _Frame(size, 0.5, 0.5, 0.0).radius() < 0.45
    while True:
        u = torch.rand(4, generator=generator).tolist()
        if shapes and u[0] < 0.5:
            metal = _moved(shapes[int(u[1] * len(shapes))], size, generator)
        else:
            draw = _IMPLANTS[int(u[2] * len(_IMPLANTS))]
            metal = torch.zeros(size, size, dtype=torch.bool)
            for _ in range(1 + int(u[3] * 4)):
                place = torch.rand(7, generator=generator).tolist()
                frame = _Frame(size, 0.2 + 0.6 * place[0], 0.2 + 0.6 * place[1], 2 * math.pi * place[2])
                metal |= draw(frame, *place[3:])
        metal &= inside
        if metal.sum() >= 3:
            return metal


class _Frame:
    """Coordinates of the pixels about a point, along and across a direction, (size, size) each.

    In units of the side, as all lengths of implants below; the point is given from the top left corner.
    """

    def __init__(self, size: int, row: float, column: float, turn: float) -> None:
        axis = (torch.arange(size) + 0.5) / size
        down, right = axis[:, None] - row, axis[None] - column
        self.along = down * math.sin(turn) + right * math.cos(turn)
        self.across = down * math.cos(turn) - right * math.sin(turn)

    def radius(self) -> Tensor:
        """Distance from the point."""
        return torch.hypot(self.along, self.across)


def _screw(frame: _Frame, u: float, v: float, w: float, _: float) -> Tensor:
    length, width = 0.05 + 0.12 * u, 0.012 + 0.013 * v
    shaft = (frame.along.abs() < length / 2) & (frame.across.abs() < width / 2)
    head = ((frame.along - length / 2).abs() < width / 2) & (frame.across.abs() < width * (0.5 + w))
    return shaft | head


def _plate(frame: _Frame, u: float, v: float, w: float, _: float) -> Tensor:
    length, width, bend = 0.08 + 0.2 * u, 0.01 + 0.015 * v, 4 * (w - 0.5)
    return (frame.along.abs() < length / 2) & ((frame.across - bend * frame.along**2).abs() < width / 2)


def _ball(frame: _Frame, u: float, _v: float, _w: float, _: float) -> Tensor:
    return frame.radius() < 0.008 * 6**u


def _hip_head(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.03 + 0.025 * u
    length, width = radius * (1 + 1.5 * v), radius * (0.5 + 0.4 * w)
    neck = (frame.along > 0) & (frame.along < length) & (frame.across.abs() < width / 2)
    cup = (frame.radius() - 1.2 * radius).abs() < 0.1 * radius
    return (frame.radius() < radius) | neck | (cup & (frame.along < 0) & (z < 0.3))


def _filling(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.006 + 0.014 * u
    lobe = torch.hypot(frame.along - radius * (0.4 + 0.6 * v), (frame.across - radius * (z - 0.5)))
    return (frame.radius() < radius) | (lobe < radius * (0.4 + 0.6 * w))


def _wire(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.003 + 0.003 * u
    if v < 0.7:
        return frame.radius() < radius
    bow = 0.02 + 0.05 * w
    return ((frame.radius() - bow).abs() < radius / 2) & (frame.along > bow * (1.8 * z - 0.9))


_IMPLANTS = (_screw, _plate, _ball, _hip_head, _filling, _wire)


def _moved(shape: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The shape turned and scaled, with its middle moved to a random place, bool (size, size)."""
    u = torch.rand(5, generator=generator).tolist()
    scale = 1.4 ** (2 * u[0] - 1)
    frame = _Frame(size, 0.2 + 0.6 * u[1], 0.2 + 0.6 * u[2], 2 * math.pi * u[3])
    row, column = (
        (indices.min() + indices.max() + 1).item() / (2 * n)
        for indices, n in zip(shape.nonzero(as_tuple=True), shape.shape)
    )
    flip = 1 if u[4] < 0.5 else -1
    grid = torch.stack(
        (2 * (frame.along / scale + column) - 1, 2 * (flip * frame.across / scale + row) - 1), -1
    )
    return F.grid_sample(shape[None, None].float(), grid[None], align_corners=False)[0, 0] >= 0.5
