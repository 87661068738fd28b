"""JPEG compression of pictures in memory, as a part of what damages them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Red, green and blue to luma and chroma around 0 (JFIF).
_TO_YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
# Quantisation at quality 50 (T.81, tables K.1 and K.2).
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *[[99] * 8] * 4,
]


def jpeg(x: Tensor, quality: Tensor, *, subsampled: Tensor | None = None) -> Tensor:
    """Pictures after JPEG compression, as libjpeg does it up to the rounding of its DCT.

    Args:
        x: (B, C, H, W) with 1 or 3 channels, in [0, 1].
        quality: Quality on libjpeg's scale of 1 to 100, (B,).
        subsampled: Whether chroma is kept at half size, 4:2:0, or else whole, 4:4:4, (B,); None for all.

    Source:
        ITU-T T.81, annex A and the tables of annex K; JFIF 1.02 for the colours; the quality scale is
        libjpeg's.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    samples = (padded * 255).round()
    if x.shape[1] == 1:
        decoded = _through_dct(samples - 128, _LUMA, quality) + 128
    else:
        to_ycc = torch.tensor(_TO_YCC, device=x.device)
        ycc = torch.einsum("dc,bchw->bdhw", to_ycc, samples)
        luma = _through_dct(ycc[:, :1].round() - 128, _LUMA, quality) + 128
        whole = ycc[:, 1:].round()
        chroma = _through_dct(F.avg_pool2d(whole, 2).round(), _CHROMA, quality)
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()
        if subsampled is not None:
            whole = _through_dct(whole, _CHROMA, quality)
            chroma = torch.where(subsampled[:, None, None, None], chroma, whole)
        decoded = torch.einsum("dc,bchw->bdhw", to_ycc.inverse(), torch.cat((luma, chroma), 1))
    return decoded[..., :height, :width].round().clamp(0, 255) / 255


def _through_dct(samples: Tensor, table: list[list[int]], quality: Tensor) -> Tensor:
    """Samples, (B, C, 8h, 8w), around 0, as they come back from quantisation by the table, rounded."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None, None, None, None]
    base = torch.tensor(table, device=samples.device)[:, None, :]
    steps = ((base * scale + 50) / 100).floor().clamp(1, 255)  # (B, 1, 1, 8, 1, 8)
    index = torch.arange(8, device=samples.device)
    basis = 0.5 * ((2 * index + 1) * index[:, None] * (math.pi / 16)).cos()
    basis[0] *= math.sqrt(0.5)
    blocks = samples.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # (B, C, h, 8, w, 8)
    dct = torch.einsum("ui,vj,bchiwj->bchuwv", basis, basis, blocks)
    dct = (dct / steps).round() * steps
    return torch.einsum("ui,vj,bchuwv->bchiwj", basis, basis, dct).round().flatten(-4, -3).flatten(-2)
