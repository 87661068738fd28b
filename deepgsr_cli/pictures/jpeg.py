"""JPEG compression of pictures in memory: what it does to them, and what a network is told of it."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Red, green and blue to luma and chroma around 0 (JFIF), and back.
_TO_YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
_TO_RGB = [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]
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
# Frequencies (u, v) with u + v below this hold most of what the eye and PSNR see of a picture.
_LOW = 4

# Share of half a step that a restored coefficient may lie from the decoded one: for 19 photographs to train
# on the best of 0.3 to 1, or within 0.01 dB of it, at qualities of 10 to 95. And what the rounding of pixels
# does to coefficients.
NARROW, ROUNDING = 0.7, 0.5

# How training pictures are compressed. Encoders differ in the shape of their tables, hence the reshaped ones:
# libjpeg's, flatter or steeper, with the chroma's finer or coarser.
QUALITIES = (5.0, 98.0)
HIGH, HIGH_QUALITIES = 0.1, (90.0, 98.0)  # share of the pictures that has these; they are rare else
RESHAPED = 0.3  # share with tables of another shape
SUBSAMPLED = 0.7  # share with chroma of half the resolution, 4:2:0; the others have all of it, 4:4:4
SHIFTED = 0.15  # share whose grid of blocks begins anywhere, as after cropping
TWICE = 0.15  # share that has been compressed before, half of them on another grid
TOLD_COARSER = 0.5  # share of those of which the coarser compression is told, and not the last one
VIVID = 0.06  # share of the crops that is black, white and pure colours, as of drawings and signs
VIVID_GAINS = (2.0, 60.0)  # contrast of these: from soft slopes to hard edges


class Steps(NamedTuple):
    """Quantisation of a batch of pictures.

    Attributes:
        luma: Steps by frequency, (B, 8, 8), 1 to 255; the first axis is the vertical frequency.
        chroma: The same of chroma, which gray pictures do without.
        subsampled: Whether chroma has half the resolution, (B,), 1 or 0.
    """

    luma: Tensor
    chroma: Tensor
    subsampled: Tensor


def standard_steps(quality: Tensor, subsampled: bool = True) -> Steps:
    """Quantisation of libjpeg at qualities of 1 to 100, (B,)."""
    tables = _constants(quality.device).tables
    luma, chroma = _scaled(tables, _percent(quality)[:, None])
    return Steps(luma, chroma, torch.full_like(quality, float(subsampled)))


def told(steps: Steps, channels: int) -> Tensor:
    """What a network is told of a quantisation, (B, TOLD).

    The geometric mean of luma's steps less 1, over 255, so that steps of 1 are told as 0, on the scale of a
    noise level; the same of its low frequencies; both of chroma; whether chroma is subsampled. What concerns
    chroma is 0 where there is none. Means of logarithms say the same of a table scaled by a quality, and
    change little with the shapes of tables, which encoders choose freely.

    Args:
        steps: The quantisation.
        channels: Channels of the pictures, 1 or 3.
    """
    index = torch.arange(8, device=steps.luma.device)
    low = (index[:, None] + index < _LOW).flatten()
    numbers = []
    for table in (steps.luma, steps.chroma):
        logarithms = table.flatten(1).log()
        means = torch.stack((logarithms.mean(1), (logarithms * low).sum(1) / low.sum()), 1)
        numbers.append((means.exp() - 1) / 255)
    numbers.append(steps.subsampled[:, None])
    if channels == 1:
        numbers[1:] = [torch.zeros_like(x) for x in numbers[1:]]
    return torch.cat(numbers, 1)


# Length of what a network is told.
TOLD = 5


def jpeg(x: Tensor, quality: Tensor, *, subsampled: Tensor | None = None) -> Tensor:
    """Pictures after JPEG compression; as `compressed`, with libjpeg's tables.

    Args:
        x: (B, C, H, W) with 1 or 3 channels, in [0, 1].
        quality: Quality on libjpeg's scale of 1 to 100, (B,).
        subsampled: Whether chroma is kept at half size, 4:2:0, or else whole, 4:4:4, (B,); None for all.
    """
    steps = standard_steps(quality)
    if subsampled is not None:
        steps = steps._replace(subsampled=subsampled.to(steps.luma))
    return compressed(x, steps)


def compressed(x: Tensor, steps: Steps, offset: Tensor | None = None) -> Tensor:
    """Pictures after JPEG compression, as libjpeg does it up to the rounding of its DCT.

    Args:
        x: (B, C, H, W) with 1 or 3 channels, in [0, 1].
        steps: Quantisation.
        offset: Pixels, (B, 2), 0 to 15, that the picture begins below and right of the corner of a block, as
            where it was cut out of a larger one; None where all begin at one.

    Source:
        ITU-T T.81, annex A and the tables of annex K; JFIF 1.02 for the colours; the quality scale, and the
        triangle filter that chroma is enlarged with, are libjpeg's.
    """
    height, width = x.shape[-2:]
    if offset is None:
        padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    else:
        padded = _moved(x, -offset, (_whole(height + 15), _whole(width + 15)))
    samples = (padded * 255).round()
    if x.shape[1] == 1:
        decoded = _through_dct(samples - 128, steps.luma) + 128
    else:
        ycc = ycc_of_rgb(samples).round()
        luma = _through_dct(ycc[:, :1] - 128, steps.luma) + 128
        whole = _through_dct(ycc[:, 1:], steps.chroma)
        half = _through_dct(F.avg_pool2d(ycc[:, 1:], 2).round(), steps.chroma)
        half = F.interpolate(half, scale_factor=2, mode="bilinear").round()
        chroma = torch.where(steps.subsampled[:, None, None, None] > 0, half, whole)
        decoded = torch.einsum("dc,bchw->bdhw", _constants(x.device).to_rgb, torch.cat((luma, chroma), 1))
    decoded = decoded.round().clamp(0, 255) / 255
    return decoded[..., :height, :width] if offset is None else _moved(decoded, offset, (height, width))


def limited(restored: Tensor, decoded: Tensor, luma: Tensor, chroma: Tensor | None) -> Tensor:
    """Restored pictures, (B, C, H, W), no farther from the decoded ones than quantisation explains.

    A coefficient of the original is within half a step of the decoded one, and mostly far within: changes
    beyond `NARROW` of that are cut off.

    Args:
        restored: (B, C, H, W) with 1 or 3 channels, on the scale of [0, 1].
        decoded: What they were restored from, which begins at the corner of a block.
        luma: Steps of luma, (8, 8).
        chroma: Steps of chroma in full resolution, (8, 8); None where it may change at will.

    Source:
        Park and Lee, Theory of projection onto the narrow quantization constraint set and its application,
        IEEE Transactions on Image Processing 8(10), 1999.
    """
    height, width = decoded.shape[-2:]
    with torch.autocast(decoded.device.type, enabled=False):
        change = F.pad(255 * (restored - decoded).float(), (0, -width % 8, 0, -height % 8), mode="replicate")
        if decoded.shape[1] == 1:
            change = _cut_off(change, luma)
        else:
            parts = ycc_of_rgb(change)
            parts[:, :1] = _cut_off(parts[:, :1], luma)
            if chroma is not None:
                parts[:, 1:] = _cut_off(parts[:, 1:], chroma)
            change = torch.einsum("dc,bchw->bdhw", _constants(change.device).to_rgb, parts)
        return decoded + change[..., :height, :width] / 255


def _cut_off(change: Tensor, steps: Tensor) -> Tensor:
    """Changes of samples, (B, C, 8h, 8w), with coefficients within what quantisation by (8, 8) steps and the
    rounding of pixels explain."""
    bound = (NARROW / 2 * steps + ROUNDING)[:, None]
    coefficients = _coefficients(change)
    return _samples(torch.maximum(torch.minimum(coefficients, bound), -bound))


def ycc_of_rgb(samples: Tensor) -> Tensor:
    """Luma and chroma around 0, (B, 3, H, W), of red, green and blue, by JFIF."""
    return torch.einsum("dc,bchw->bdhw", _constants(samples.device).to_ycc, samples)


def vivid_for_training(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Make drawings of a share of crops, (B, C, H, W) in [0, 1], which keep the shapes in them.

    The contrast of each channel is raised about the value of a random pixel, and half of the channels are
    inverted, so that colours meet that never do in photographs.
    """
    batch, channels, height, width = clean.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device=clean.device, generator=generator)

    place = (draw(batch, 1) * height * width).long().expand(-1, channels)
    middle = clean.flatten(2).gather(2, place[..., None])[..., None]
    low, high = VIVID_GAINS
    gain = low * (high / low) ** draw(batch, channels, 1, 1)
    sign = torch.where(draw(batch, channels, 1, 1) < 0.5, -1.0, 1.0)
    vivid = (0.5 + sign * gain * (clean - middle)).clamp(0, 1)
    return torch.where(draw(batch, 1, 1, 1) < VIVID, vivid, clean)


def compressed_for_training(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Compress pictures in many ways; return them, (B, C, H, W), and what a network is told, (B, TOLD).

    Args:
        clean: (B, C, H, W) with 1 or 3 channels, in [0, 1].
        generator: Random generator, on the pictures' device.
    """
    batch, channels = clean.shape[:2]

    def happens(share: float) -> Tensor:
        return torch.rand(batch, device=clean.device, generator=generator) < share

    def offset(there: Tensor) -> Tensor:
        return there[:, None] * torch.randint(16, (batch, 2), device=clean.device, generator=generator)

    first, last = draw_steps(batch, generator), draw_steps(batch, generator)
    twice = happens(TWICE)
    before = compressed(clean, first, offset(happens(0.5)))
    before = torch.where(twice[:, None, None, None], before, clean)
    picture = compressed(before, last, offset(happens(SHIFTED)))
    told_first, told_last = told(first, channels), told(last, channels)
    coarser = twice & happens(TOLD_COARSER) & (told_first[:, 0] > told_last[:, 0])
    return picture, torch.where(coarser[:, None], told_first, told_last)


def draw_steps(batch: int, generator: torch.Generator) -> Steps:
    """Quantisation of a batch of pictures, low qualities more often than high ones."""

    def draw(low: float = 0, high: float = 1, power: float = 1) -> Tensor:
        draws = torch.rand(batch, device=generator.device, generator=generator)
        return low + (high - low) * draws**power

    quality = torch.where(draw() < HIGH, draw(*HIGH_QUALITIES), draw(*QUALITIES, power=1.5)).round()
    reshaped = (draw() < RESHAPED)[:, None]
    steepness = torch.where(reshaped, torch.stack((draw(0, 1.2), draw(0, 1.2)), 1), 1.0)  # of luma and chroma
    finer = torch.where(reshaped, torch.stack((0 * draw(), draw(-0.7, 0.7)), 1), 0.0).exp()
    logarithms = _constants(generator.device).tables.log()  # (2, 8, 8)
    means = logarithms.mean((1, 2), keepdim=True)
    tables = (means + steepness[..., None, None] * (logarithms - means)).exp()
    luma, chroma = _scaled(tables, finer * _percent(quality)[:, None])
    return Steps(luma, chroma, (draw() < SUBSAMPLED).to(luma))


class _Constants(NamedTuple):
    tables: Tensor  # (2, 8, 8)
    to_ycc: Tensor
    to_rgb: Tensor
    dct: Tensor  # (8, 8), frequencies by pixels


@functools.cache
def _constants(device: torch.device) -> _Constants:
    """Constants on a device; to copy them there at every call would make the host wait for the device."""
    index = torch.arange(8, dtype=torch.float32)
    dct = 0.5 * ((2 * index + 1) * index[:, None] * (math.pi / 16)).cos()
    dct[0] *= math.sqrt(0.5)
    tables = ([_LUMA, _CHROMA], _TO_YCC, _TO_RGB)
    values = [torch.tensor(table, dtype=torch.float32) for table in tables]
    return _Constants(*(value.to(device) for value in (*values, dct)))


def _percent(quality: Tensor) -> Tensor:
    """What libjpeg scales its tables by at a quality, in percent."""
    return torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()


def _scaled(tables: Tensor, percent: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of luma and chroma, (B, 8, 8) each, of their tables, (2 or B, 2, 8, 8), scaled by (B, 1 or 2)."""
    steps = ((tables * percent[..., None, None] + 50) / 100).floor().clamp(1, 255)
    luma, chroma = steps.unbind(1)
    return luma, chroma


def _whole(size: int) -> int:
    """The next multiple of the 16 pixels that 4:2:0 takes at a time."""
    return -(-size // 16) * 16


def _moved(x: Tensor, corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures, (B, C, *size), that begin at corners, (B, 2), of x, (B, C, H, W); edges are repeated."""
    height, width = x.shape[-2:]
    rows, columns = (
        (corner[:, axis, None] + torch.arange(size[axis], device=x.device)).clamp(0, bound - 1)
        for axis, bound in enumerate((height, width))
    )
    places = (rows[:, :, None] * width + columns[:, None]).flatten(1)[:, None]  # (B, 1, pixels)
    return x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).unflatten(2, size)


def _through_dct(samples: Tensor, steps: Tensor) -> Tensor:
    """Samples, (B, C, 8h, 8w), around 0, as they come back from quantisation by (B, 8, 8) steps, rounded."""
    steps = steps[:, None, None, :, None, :]  # (B, 1, 1, 8, 1, 8)
    return _samples((_coefficients(samples) / steps).round() * steps).round()


def _coefficients(samples: Tensor) -> Tensor:
    """Coefficients, (B, C, h, 8, w, 8), of the blocks of samples, (B, C, 8h, 8w)."""
    dct = _constants(samples.device).dct
    blocks = samples.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))
    return torch.einsum("ui,vj,bchiwj->bchuwv", dct, dct, blocks)


def _samples(coefficients: Tensor) -> Tensor:
    """Samples, (B, C, 8h, 8w), that have these coefficients."""
    dct = _constants(coefficients.device).dct
    return torch.einsum("ui,vj,bchuwv->bchiwj", dct, dct, coefficients).flatten(-4, -3).flatten(-2)
