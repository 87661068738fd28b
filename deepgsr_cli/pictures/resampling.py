"""Pictures reduced and enlarged as MATLAB's imresize does it, which super-resolution is compared by, and what
of a picture only an interpolation enlarges."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.tiling import TileNeeds, Tiles, apply_tiled, default_overlap
from deepgsr_cli.pictures.noise import as_8_bits

Kernel = Literal["bicubic", "lanczos"]
# Ways to enlarge: the network, and those without.
Method = Literal["deepgsr", "bicubic", "lanczos"]

# Pixels at the ends of a reduced picture that depend on what lies beyond it.
RIM = 2
# Of tiles, whose matrices are then small.
_TILE_PX = 256
# Width of a kernel in pixels, where it does not reduce.
_WIDTHS: dict[Kernel, int] = {"bicubic": 4, "lanczos": 6}


def resampling_matrix(length: int, result: int, kernel: Kernel = "bicubic") -> Tensor:
    """Matrix, (result, length), float64, that brings one axis of a picture to another length.

    Beyond its ends a picture is its own mirror image, the outermost pixels repeated. Where it shrinks, the
    kernel is widened by as much, which antialiases. The rows sum to one.

    Args:
        length: Pixels of the axis.
        result: Pixels it is brought to.
        kernel: "bicubic" (Keys' with a = -1/2) or "lanczos" (of three lobes).

    Source:
        Keys, Cubic convolution interpolation for digital image processing, IEEE Transactions on Acoustics,
        Speech, and Signal Processing 29(6), 1981. Places, widening and ends are those of MATLAB's imresize.
    """
    factor = result / length
    narrow = min(1.0, factor)
    reach = math.ceil(_WIDTHS[kernel] / narrow / 2) + 1
    place = (torch.arange(result, dtype=torch.float64) + 0.5) / factor - 0.5
    index = torch.arange(-reach, length + reach)
    weights = _weights(narrow * (place[:, None] - index), kernel)
    weights /= weights.sum(1, keepdim=True)
    mirrored = index % (2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(result, length, dtype=torch.float64).index_add_(1, mirrored, weights)


def resized(pictures: Tensor, height: int, width: int, kernel: Kernel = "bicubic") -> Tensor:
    """Pictures of another size, (B, C, height, width), neither clipped nor rounded.

    Args:
        pictures: (B, C, H, W), on any device.
        height: Rows of the result.
        width: Columns of the result.
        kernel: As of `resampling_matrix`.
    """
    down, across = (
        _matrix_like(*lengths, kernel, pictures.dtype, pictures.device)
        for lengths in ((pictures.shape[-2], height), (pictures.shape[-1], width))
    )
    with torch.autocast(pictures.device.type, enabled=False):
        return down @ pictures @ across.mT


@functools.lru_cache(maxsize=16)
def _matrix_like(
    length: int, result: int, kernel: Kernel, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`resampling_matrix` of a type and on a device, kept: training must not wait for it at each step."""
    return resampling_matrix(length, result, kernel).to(device, dtype)


def reduced(pictures: Tensor, scale: int) -> Tensor:
    """Pictures reduced bicubically and rounded to 8 bits, (B, C, H // scale, W // scale).

    Args:
        pictures: (B, C, H, W) in [0, 1]; rows and columns beyond a multiple of the scale are left out.
        scale: Sides of the pictures over those of the result.
    """
    height, width = (length // scale for length in pictures.shape[-2:])
    return as_8_bits(resized(pictures[..., : height * scale, : width * scale], height, width))


def reduced_by_turns(crops: Tensor, scales: Sequence[int]) -> Tensor:
    """Reduce equal parts of a batch of crops by one scale after another, to one size, (B, C, side, side).

    All are what reducing the whole picture gives: the kernel reaches no further than the crop does.

    Args:
        crops: (B, C, P, P) in [0, 1]; B is at least the number of scales.
        scales: Sides of the crops over those of the result. The greatest decides what side that is,
            P // scale - 2 * RIM. For smaller scales less than the whole crop is reduced: `clean_part`.
    """
    side = crops.shape[-1] // max(scales)
    parts = [
        reduced(part[..., : side * scale, : side * scale], scale)[..., RIM:-RIM, RIM:-RIM]
        for scale, part in zip(scales, crops.tensor_split(len(scales)))
    ]
    return torch.cat(parts)


def clean_part(crops: Tensor, scale: int, side: int) -> Tensor:
    """What `reduced_by_turns` has made an answer of this side of, (B, C, scale * side, scale * side)."""
    place = slice(scale * RIM, scale * (RIM + side))
    return crops[..., place, place]


def interpolated(pixels: np.ndarray, scale: int, kernel: Kernel = "bicubic") -> np.ndarray:
    """Pixels of a picture enlarged in tiles, (C, scale * H, scale * W), float32, not clipped.

    Args:
        pixels: (C, H, W), float32.
        scale: Sides of the result over those of the picture.
        kernel: As of `resampling_matrix`.
    """
    needs = TileNeeds(grid=1, halo=RIM + 1)
    enlarged = apply_tiled(
        lambda x: resized(x, scale * x.shape[-2], scale * x.shape[-1], kernel),
        torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)),
        Tiles(_TILE_PX, default_overlap(needs), needs),
        device="cpu",
    )
    return enlarged.numpy()


def enlarged_alpha(alpha: np.ndarray, scale: int) -> np.ndarray:
    """Alpha, (H, W), of any type of samples, enlarged bicubically, within the range that it has."""
    pixels = interpolated(alpha[None].astype(np.float32), scale)[0]
    pixels = pixels.clip(float(alpha.min()), float(alpha.max()))
    return (np.rint(pixels) if alpha.dtype.kind == "u" else pixels).astype(alpha.dtype)


def without_hidden_colours(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels, (C, H, W), with the colour of the nearest pixel that can be seen where alpha, (H, W), is 0.

    What a file holds there nobody sees, until an interpolation mixes it into the edge of what is seen.
    """
    from scipy.ndimage import distance_transform_edt

    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return pixels[:, rows, columns]


def _weights(x: Tensor, kernel: Kernel) -> Tensor:
    """Values of a kernel at distances in pixels."""
    x = x.abs()
    if kernel == "lanczos":
        return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
