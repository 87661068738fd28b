"""Bayer mosaics: which colour a pixel shows, and the others interpolated.

A mosaic is (B, 1, H, W) of any H and W, and its first row is R G R G ..., its second G B G B ... Other
patterns are turned to this one before (`pictures.mosaics`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def bayer_mask(like: Tensor) -> Tensor:
    """1 where a pixel of a mosaic, (B, 1, H, W), shows a colour, else 0, (1, 3, H, W); the first shows R."""
    row, column = (torch.arange(side, device=like.device) % 2 for side in like.shape[-2:])
    colour = torch.arange(3, device=like.device)[:, None, None]
    return (row[:, None] + column == colour)[None].to(like.dtype)


def mosaic_of(x: Tensor) -> Tensor:
    """The mosaic, (B, 1, H, W), that a sensor records of colours, (B, 3, H, W)."""
    return (x * bayer_mask(x)).sum(1, keepdim=True)


def bilinear(x: Tensor) -> Tensor:
    """Colours, (B, 3, H, W), of mosaics, (B, 1, H, W): measured ones as they are, others bilinear."""
    mask = bayer_mask(x)
    total, weight = _tent(x * mask), _tent(mask)
    # A colour that a single row or column lacks altogether is zero.
    return torch.where(mask > 0, x, total / weight.clamp(min=1))


def _tent(x: Tensor) -> Tensor:
    """Sums of a pixel four times, of those at its sides twice, and of those at its corners."""
    # Sums instead of a convolution, which half precision and TF32 would round.
    for dim in (-2, -1):
        beyond = torch.zeros_like(x.narrow(dim, 0, 1))
        framed, length = torch.cat((beyond, x, beyond), dim), x.shape[dim]
        x = framed.narrow(dim, 0, length) + 2 * x + framed.narrow(dim, 2, length)
    return x


# How far from a pixel `malvar` looks.
MALVAR_REACH = 2


def malvar(x: Tensor) -> Tensor:
    """Colours, (B, 3, H, W), of mosaics, (B, 1, H, W): bilinear, and corrected by the other colours' second
    differences. Beyond its edges a mosaic is reflected, which keeps the pattern.

    Source:
        Malvar, He, Cutler, High-quality linear interpolation for demosaicing of Bayer-patterned color
        images, ICASSP 2004, figure 2.
    """
    # Sums instead of a convolution, as in `_tent`.
    height, width = x.shape[-2:]
    framed = x
    for dim, length in ((-2, height), (-1, width)):
        period = max(2 * (length - 1), 1)
        index = torch.arange(-MALVAR_REACH, length + MALVAR_REACH, device=x.device) % period
        framed = framed.index_select(dim, torch.minimum(index, period - index).clamp(max=length - 1))

    def step(down: int, right: int) -> Tensor:
        rows = framed[..., MALVAR_REACH + down : MALVAR_REACH + down + height, :]
        return rows[..., MALVAR_REACH + right : MALVAR_REACH + right + width]

    beside, far_beside = step(0, -1) + step(0, 1), step(0, -2) + step(0, 2)
    above, far_above = step(-1, 0) + step(1, 0), step(-2, 0) + step(2, 0)
    diagonal = step(-1, -1) + step(-1, 1) + step(1, -1) + step(1, 1)
    green = (4 * x + 2 * (beside + above) - far_beside - far_above) / 8
    along_row = (5 * x + 4 * beside - diagonal - far_beside + far_above / 2) / 8  # measured left and right
    along_column = (5 * x + 4 * above - diagonal - far_above + far_beside / 2) / 8
    opposite = (6 * x + 2 * diagonal - 1.5 * (far_beside + far_above)) / 8  # red at blue, blue at red

    even_row, even_column = (torch.arange(side, device=x.device) % 2 == 0 for side in (height, width))
    even_row = even_row[:, None]
    return torch.cat(
        (
            torch.where(
                even_row,
                torch.where(even_column, x, along_row),
                torch.where(even_column, along_column, opposite),
            ),
            torch.where(even_row == even_column, green, x),
            torch.where(
                even_row,
                torch.where(even_column, opposite, along_column),
                torch.where(even_column, along_row, x),
            ),
        ),
        dim=1,
    )
