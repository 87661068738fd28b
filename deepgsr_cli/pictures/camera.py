"""Seeded noise as photographs have it: made by a sensor, and changed by all that makes a file of its samples.

A clean picture is taken back to raw samples, where noise is simple: its variance grows with the light. From
there both, with the noise and without, go through demosaicking, colours, tone curve, a camera's own
smoothing, blur and sharpening; what differs at the end is what noise looks like in this picture, and is added
to it. So the clean picture stays as sharp as it is, and the noise is as coloured, as coarse and as uneven as
it comes out of a camera. Then the picture is rounded to 8 bits, and mostly compressed as JPEG.

Some pictures get white noise instead, and some none.

Sources:
    Brooks, Mildenhall, Xue, Chen, Sharlet and Barron, Unprocessing images for learned raw denoising, CVPR
    2019: the way back to raw samples, its matrices, gains and noise. Foi, Trimeche, Katkovnik and Egiazarian,
    Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data, IEEE Transactions on
    Image Processing 17(10), 2008: noise of a sensor. Malvar, He and Cutler, High-quality linear interpolation
    for demosaicing of Bayer-patterned color images, ICASSP 2004. He, Sun and Tang, Guided image filtering,
    ECCV 2010: here the smoothing. Guo, Yan, Zhang, Zuo and Zhang, Toward convolutional blind denoising of
    real photographs, CVPR 2019: training on noise through demosaicking and JPEG. Lebrun, Colom and Morel,
    Multiscale image blind denoising, IEEE Transactions on Image Processing 24(10), 2015: of what cameras
    write, noise is stronger the coarser it is.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.pictures.jpeg import jpeg
from deepgsr_cli.pictures.noise import as_8_bits

Range = tuple[float, float]
Number = TypeVar("Number", float, Tensor)

# Shares of the clean pictures to train on that are soft, by Gaussians of so many pixels, and whose colours
# are, as a mosaic and what a camera does to the noise of colours leave them; share that is gray.
SOFT, SOFT_COLOURS, GRAY = 0.75, 0.5, 0.15
SOFT_PX: Range = (0.4, 1.8)
SOFT_COLOURS_PX: Range = (0.7, 2.5)
# Standard deviation of white noise, on the 0-255 scale, log-uniform.
WHITE_SIGMA: Range = (1.5, 60)

# Variance of the shot noise of a sample, a unit of light, log-uniform. Brooks et al., section 3.1, draw from
# 0.0001 to 0.012, the range of the Darmstadt data set; it is widened to cameras that are better and worse.
SHOT: Range = (0.00004, 0.03)
# Variance of the read noise: log(read) is linear in log(shot), with a Gaussian around it (the same section).
READ_SLOPE, READ_OFFSET, READ_STD = 2.18, 1.20, 0.26
# White balance, and the brightening that a camera's exposure calls for: 1 / N(0.8, 0.1) (the same section).
RED_GAIN: Range = (1.9, 2.4)
BLUE_GAIN: Range = (1.5, 1.9)
BRIGHTNESS, BRIGHTNESS_STD = 0.8, 0.1
# Above this light gains are taken back less and less, so that white stays white (the same section).
HIGHLIGHT = 0.9
# Exponent of the gamma curve, 2.2 in the paper.
GAMMA: Range = (1.8, 2.4)
# Share of the smoothstep in the tone curve, 1 in the paper.
CONTRAST: Range = (0.1, 1)
# XYZ to the colours of four cameras of the Darmstadt data set, as the authors' code has them.
XYZ_TO_CAMERA = [
    [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
    [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
    [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
    [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
]
# Linear sRGB to XYZ with the white of D65 (IEC 61966-2-1).
RGB_TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]

# Variance of noise that smoothing takes there to be, a unit of the true one, log-uniform.
SMOOTHING: Range = (0.3, 3)
# Windows of the smoothing of luma and of chroma, sides in pixels: cameras smooth colours more.
LUMA_SIDE, CHROMA_SIDE = 5, 9
# Standard deviation of the Gaussian of a blur, of one of colours, log-uniform, and of an unsharp mask, in
# pixels; share of the mask added. What is blurred is mixed with what was there, so that noise of all scales
# is left: its share.
BLUR_PX: Range = (0.35, 1.4)
CHROMA_BLUR_PX: Range = (0.7, 5)
BLUR_SHARE: Range = (0.5, 1)
MASK_PX: Range = (0.6, 1.5)
SHARPENING: Range = (0.2, 1.5)
# Quality of JPEG, more often high than low; share of the compressed pictures with chroma at half size.
QUALITY: Range = (40, 98)
SUBSAMPLED = 0.6
# Share whose blocks of 8 x 8 pixels begin anywhere, as where a compressed picture was cut.
MOVED = 0.3

# How much more is told of the part of noise that is not white. On 80 noisy pictures to train on, what is told
# by this loses 0.3 dB in the mean to the best level for each, the least of 1 to 2.8.
_COARSENESS = 1.4

# Radius at which the Gaussian of a blur of colours is cut, in pixels.
_WIDE = 12

# Green at a red or blue site, and the other colours: at a green site along its row or its column, and at the
# site of the opposite colour. Weights of bilinear interpolation, and eighths of Malvar et al., figure 2.
_BILINEAR = [
    [[0, 0, 0, 0, 0], [0, 0, 2, 0, 0], [0, 2, 0, 2, 0], [0, 0, 2, 0, 0], [0, 0, 0, 0, 0]],
    [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 4, 0, 4, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    [[0, 0, 0, 0, 0], [0, 0, 4, 0, 0], [0, 0, 0, 0, 0], [0, 0, 4, 0, 0], [0, 0, 0, 0, 0]],
    [[0, 0, 0, 0, 0], [0, 2, 0, 2, 0], [0, 0, 0, 0, 0], [0, 2, 0, 2, 0], [0, 0, 0, 0, 0]],
]
_MALVAR = [
    [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]],
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]],
    [[0, 0, -1, 0, 0], [0, -1, 4, -1, 0], [0.5, 0, 5, 0, 0.5], [0, -1, 4, -1, 0], [0, 0, -1, 0, 0]],
    [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]],
]
# Luma and two colour differences of red, green and blue (JFIF).
_TO_YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]


@dataclass(frozen=True)
class Shares:
    """How often what happens to pictures.

    Attributes:
        clean: Share of all that get no noise.
        white: Share of all that get white noise; the others get a camera's.
        mosaic: Share of the cameras' that are interpolated from a Bayer mosaic. Others stand for pictures
            made smaller, and for sensors that see all colours at each place.
        smoothed: Share of all whose noise is smoothed, as a camera does.
        chroma_blurred: Share of all whose colours are blurred, as cameras and 4:2:0 video do at least.
        blurred: Share of all whose noise is blurred.
        sharpened: Share of all whose noise is sharpened.
        compressed: Share of all that JPEG compresses, the clean ones too.
        untouched: Share of those with white noise of which none of the last five is true.
        compressed_alone: Share of those with white noise of which only the last of the five is true.
    """

    clean: float = 0.1
    white: float = 0.3
    mosaic: float = 0.8
    smoothed: float = 0.3
    chroma_blurred: float = 0.6
    blurred: float = 0.5
    sharpened: float = 0.3
    compressed: float = 0.6
    untouched: float = 0.1
    compressed_alone: float = 0.5


FOR_DENOISING = Shares()
# More clean pictures, and more noise that is white and untouched, so that these are found too.
FOR_ESTIMATION = Shares(
    clean=0.35,
    white=0.35,
    chroma_blurred=0.5,
    blurred=0.3,
    sharpened=0.2,
    compressed=0.5,
    untouched=0.55,
    compressed_alone=0.3,
)


class Photographs(NamedTuple):
    """Pictures with noise, and what it is.

    Attributes:
        pictures: (B, 3, H, W) in [0, 1], of 8 bits.
        sigma: Standard deviation of the noise by channel, before clipping, rounding and JPEG, (B, 3).
        correlated: Whether it is another at each frequency, (B,).
        dependent: Whether it grows with the light, (B,).
    """

    pictures: Tensor
    sigma: Tensor
    correlated: Tensor
    dependent: Tensor


class Camera(NamedTuple):
    """Cameras, one a picture.

    Attributes:
        matrix: Linear sRGB to the camera's colours, (B, 3, 3).
        gains: What the camera's colours are multiplied with, (B, 3, 1, 1).
        gamma: Exponent of the gamma curve, (B, 1, 1, 1), as all below.
        contrast: Share of the smoothstep in the tone curve.
        shot: Variance of the shot noise, a unit of light.
        read: Variance of the read noise.
        mosaic: 1 where colours are interpolated from a mosaic, else 0.
        sharpness: Share of Malvar's interpolation in the camera's, the rest of which is bilinear.
        row: Row of the mosaic that the picture starts with, 0 or 1.
        column: Column of the mosaic that the picture starts with, 0 or 1.
    """

    matrix: Tensor
    gains: Tensor
    gamma: Tensor
    contrast: Tensor
    shot: Tensor
    read: Tensor
    mosaic: Tensor
    sharpness: Tensor
    row: Tensor
    column: Tensor


def photographed(clean: Tensor, generator: torch.Generator, shares: Shares = FOR_DENOISING) -> Photographs:
    """Photographs of clean pictures, which are what there would be without noise.

    A picture whose channels are equal keeps them equal: it is the luma of a photograph.

    Args:
        clean: Pictures, (B, 3, H, W), in [0, 1], of at least 16 pixels a side.
        generator: Random generator, on the pictures' device.
        shares: How often what happens.
    """
    batch = len(clean)
    kind = torch.rand(batch, 1, 1, 1, device=clean.device, generator=generator)
    there = kind >= shares.clean
    white = kind < shares.clean + shares.white
    camera = draw_camera(batch, generator, shares.mosaic)
    raw = raw_of(clean, camera)
    noise = torch.randn(raw.shape, device=clean.device, generator=generator)
    noisy_raw = (raw + (camera.shot * raw + camera.read).sqrt() * noise).clamp(max=1)
    sigma = _log_uniform(WHITE_SIGMA, batch, generator) / 255
    given = torch.where(white, clean, developed(raw, camera))
    noisy = torch.where(white, clean + sigma * noise, developed(noisy_raw, camera))

    plainness = torch.rand(batch, 1, 1, 1, device=clean.device, generator=generator)
    untouched = white & there & (plainness < shares.untouched)
    unfinished = white & there & (plainness < shares.untouched + shares.compressed_alone)
    finish = _draw_finish(noisy, given, shares, generator).unless(unfinished)
    after, before = _finished(noisy, finish), _finished(given, finish)
    noise = torch.where(white, after - before, after.clamp(0, 1) - before.clamp(0, 1))
    gray = (clean.amax(1) == clean.amin(1)).all(-1).all(-1)[:, None, None, None]
    noise = there * torch.where(gray, _luma(noise), noise)
    photos = as_8_bits(clean + noise)
    quality = QUALITY[0] + (QUALITY[1] - QUALITY[0]) * _uniform((0, 1), batch, generator).sqrt().flatten()
    subsampled = _happens(SUBSAMPLED, batch, generator).flatten()
    compressed = (_happens(shares.compressed, batch, generator) | unfinished) & ~untouched
    moved = _happens(MOVED, batch, generator)[..., 0] * torch.randint(
        8, (batch, 2, 1), device=clean.device, generator=generator
    )
    after = jpeg(_rolled(photos, moved), quality.round(), subsampled=subsampled)
    photos = torch.where(compressed, _rolled(after, -moved), photos)
    correlated = (~white & camera.mosaic) | finish.any() | compressed
    return Photographs(
        photos, noise.square().mean((2, 3)).sqrt(), (there & correlated).flatten(), (there & ~white).flatten()
    )


def varied(clean: Tensor, generator: torch.Generator, gray: float = GRAY) -> Tensor:
    """Clean pictures, (B, 3, H, W), some of them as soft as a lens and a sensor leave them, a share gray.

    Pictures to train on are mostly reduced, and sharper than those of a camera at full size. A gray picture
    has its luma in three equal channels.
    """
    batch = len(clean)
    softness = _uniform(SOFT_PX, batch, generator)
    x = torch.where(_happens(SOFT, batch, generator), _blurred(clean, softness), clean)
    softness = _uniform(SOFT_COLOURS_PX, batch, generator)
    luma = _luma(x)
    x = torch.where(_happens(SOFT_COLOURS, batch, generator), luma + _blurred(x - luma, softness), x)
    return as_8_bits(torch.where(_happens(gray, batch, generator), _luma(x), x))


def white_equivalent(level: Number, white: Number) -> Number:
    """Level of white noise that a network for white noise is told to remove other noise best.

    Noise that is coarse looks like the picture: the less of it is white, the more is told.

    Args:
        level: Root mean square of the noise.
        white: Level of the white noise that its finest diagonal detail would be of, at most `level`.
    """
    return level + _COARSENESS * (level - white)


def level_of(degraded: Tensor, clean: Tensor) -> Tensor:
    """Effective sigma of noise of any kind, (B, 1), on the [0, 1] scale: the root mean square difference."""
    return (degraded - clean).square().mean((1, 2, 3))[:, None].sqrt()


def draw_camera(batch: int, generator: torch.Generator, mosaic: float = FOR_DENOISING.mosaic) -> Camera:
    """Cameras of a batch of pictures, a share of them with a mosaic."""
    device = generator.device
    shares = -torch.rand(batch, len(XYZ_TO_CAMERA), 1, 1, device=device, generator=generator).log()
    constants = _constants(device)
    matrix = (shares / shares.sum(1, keepdim=True) * constants.to_camera).sum(1)
    matrix = matrix / matrix.sum(-1, keepdim=True)  # white stays white
    brightness = _normal(batch, generator) * BRIGHTNESS_STD + BRIGHTNESS
    red, blue = (_uniform(bounds, batch, generator) for bounds in (RED_GAIN, BLUE_GAIN))
    gains = torch.cat((red, torch.ones_like(red), blue), dim=1) / brightness.clamp(min=0.4)
    shot = _log_uniform(SHOT, batch, generator)
    read = (READ_SLOPE * shot.log() + READ_OFFSET + READ_STD * _normal(batch, generator)).exp()
    return Camera(
        matrix,
        gains,
        _uniform(GAMMA, batch, generator),
        _uniform(CONTRAST, batch, generator),
        shot,
        read,
        _happens(mosaic, batch, generator),
        _uniform((0, 1), batch, generator),
        _happens(0.5, batch, generator).long(),
        _happens(0.5, batch, generator).long(),
    )


def raw_of(pictures: Tensor, camera: Camera) -> Tensor:
    """Light at a camera's sensor, (B, 3, H, W), for pictures, (B, 3, H, W) in [0, 1], it would have made."""
    # The inverse of (1 - c) x + c (3 x^2 - 2 x^3): around 1/2 the curve is odd, and a sine of three angles.
    slope = 1 + camera.contrast / 2
    amplitude = (2 * slope / (3 * camera.contrast)).sqrt()
    sine = 3 * (pictures.clamp(0, 1) - 0.5) / (amplitude * slope)
    x = 0.5 + amplitude * (sine.clamp(-1, 1).asin() / 3).sin()
    light = x.clamp(min=0) ** camera.gamma
    light = torch.einsum("bdc,bchw->bdhw", camera.matrix, light)
    highlight = ((light.mean(1, keepdim=True) - HIGHLIGHT).clamp(min=0) / (1 - HIGHLIGHT)) ** 2
    gains = 1 / camera.gains
    return (light * torch.maximum(highlight + (1 - highlight) * gains, gains)).clamp(0, 1)


def developed(raw: Tensor, camera: Camera) -> Tensor:
    """Pictures, (B, 3, H, W) in [0, 1], that cameras make of light, (B, 3, H, W)."""
    light = torch.where(camera.mosaic, _demosaicked(raw, camera), raw) * camera.gains
    from_camera, _ = torch.linalg.inv_ex(camera.matrix)
    x = torch.einsum("bdc,bchw->bdhw", from_camera, light.clamp(0, 1)).clamp(0, 1)
    x = x.clamp(min=1e-8) ** (1 / camera.gamma)
    return x + camera.contrast * (x * x * (3 - 2 * x) - x)


def _demosaicked(raw: Tensor, camera: Camera) -> Tensor:
    """Light, (B, 3, H, W), of which a sensor has seen red, green or blue at each place, interpolated."""
    height, width = raw.shape[-2:]
    even_row = ((torch.arange(height, device=raw.device)[:, None] + camera.row) % 2 == 0).expand(
        -1, -1, -1, width
    )
    even_column = ((torch.arange(width, device=raw.device) + camera.column) % 2 == 0).expand(
        -1, -1, height, -1
    )
    red, blue = even_row & even_column, ~even_row & ~even_column
    green = ~(red | blue)
    seen = torch.where(red, raw[:, :1], torch.where(blue, raw[:, 2:], raw[:, 1:2]))
    padded = F.pad(seen, (2, 2, 2, 2), mode="reflect")
    bilinear, malvar = F.conv2d(padded, _constants(raw.device).kernels).chunk(2, dim=1)
    cross, row, column, diagonal = torch.lerp(bilinear, malvar, camera.sharpness).split(1, dim=1)
    return torch.cat(
        (
            torch.where(red, seen, torch.where(blue, diagonal, torch.where(even_row, row, column))),
            torch.where(green, seen, cross),
            torch.where(blue, seen, torch.where(red, diagonal, torch.where(even_row, column, row))),
        ),
        dim=1,
    )


class _Finish(NamedTuple):
    """What is done to pictures at last, (B, 1, 1, 1) each: whether, and how much."""

    smoothed: Tensor
    chroma_blurred: Tensor
    blurred: Tensor
    sharpened: Tensor
    variance: Tensor
    chroma_blur_px: Tensor
    chroma_share: Tensor
    blur_px: Tensor
    blur_share: Tensor
    mask_px: Tensor
    sharpening: Tensor

    def any(self) -> Tensor:
        return self.smoothed | self.chroma_blurred | self.blurred | self.sharpened

    def unless(self, unfinished: Tensor) -> _Finish:
        """The same, with nothing done to the pictures that are left as they are, (B, 1, 1, 1)."""
        done = (self.smoothed, self.chroma_blurred, self.blurred, self.sharpened)
        return _Finish(*(each & ~unfinished for each in done), *self[len(done) :])


def _draw_finish(noisy: Tensor, given: Tensor, shares: Shares, generator: torch.Generator) -> _Finish:
    batch = len(noisy)
    variance = (noisy - given).square().mean((1, 2, 3), keepdim=True)
    return _Finish(
        _happens(shares.smoothed, batch, generator),
        _happens(shares.chroma_blurred, batch, generator),
        _happens(shares.blurred, batch, generator),
        _happens(shares.sharpened, batch, generator),
        variance * _log_uniform(SMOOTHING, batch, generator),
        _log_uniform(CHROMA_BLUR_PX, batch, generator),
        _uniform(BLUR_SHARE, batch, generator),
        _uniform(BLUR_PX, batch, generator),
        _uniform(BLUR_SHARE, batch, generator),
        _uniform(MASK_PX, batch, generator),
        _uniform(SHARPENING, batch, generator),
    )


def _finished(x: Tensor, how: _Finish) -> Tensor:
    x = torch.where(how.smoothed, _smoothed(x, how.variance), x)
    luma = _luma(x)
    softer = luma + _blurred(x - luma, how.chroma_blur_px, _WIDE)
    x = torch.where(how.chroma_blurred, torch.lerp(x, softer, how.chroma_share), x)
    x = torch.where(how.blurred, torch.lerp(x, _blurred(x, how.blur_px), how.blur_share), x)
    return torch.where(how.sharpened, x + how.sharpening * (x - _blurred(x, how.mask_px)), x)


def _smoothed(x: Tensor, variance: Tensor) -> Tensor:
    """Pictures without detail weaker than a variance, (B, 1, 1, 1), by guided filters of luma and chroma."""
    constants = _constants(x.device)
    ycc = torch.einsum("dc,bchw->bdhw", constants.to_ycc, x)
    ycc = torch.cat(
        (_guided(ycc[:, :1], LUMA_SIDE, variance), _guided(ycc[:, 1:], CHROMA_SIDE, variance)), dim=1
    )
    return torch.einsum("dc,bchw->bdhw", constants.to_rgb, ycc)


def _guided(x: Tensor, side: int, variance: Tensor) -> Tensor:
    """Guided filter of channels, (B, C, H, W), each its own guide (He et al., eq. 5, 6 and 8)."""

    def mean(y: Tensor) -> Tensor:
        for axis in ((side, 1), (1, side)):
            padding = tuple(length // 2 for length in axis)
            y = F.avg_pool2d(y, axis, stride=1, padding=padding, count_include_pad=False)
        return y

    middle = mean(x)
    spread = (mean(x * x) - middle * middle).clamp(min=0)
    share = spread / (spread + variance + 1e-8)
    return mean(share) * x + mean(middle - share * middle)


def _blurred(x: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Pictures, (B, C, H, W), through Gaussians of so many pixels, (B, 1, 1, 1), cut at a radius."""
    batch, channels, _, _ = x.shape
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = (-0.5 * (offsets / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum(-1, keepdim=True)).repeat_interleave(channels, dim=0)
    kernel = kernel.reshape(-1, 1, 1, len(offsets))
    x = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(F.conv2d(x, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))
    return x[0].unflatten(0, (batch, channels))


def _rolled(x: Tensor, pixels: Tensor) -> Tensor:
    """Pictures, (B, C, H, W), moved up and to the left by so many pixels, (B, 2, 1), around their edges."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) + pixels[:, 0]) % height
    columns = (torch.arange(width, device=x.device) + pixels[:, 1]) % width
    places = (rows[:, :, None] * width + columns[:, None]).flatten(1)[:, None]  # (B, 1, H * W)
    return x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).unflatten(2, (height, width))


class _Constants(NamedTuple):
    to_camera: Tensor  # (4, 3, 3), of linear sRGB
    kernels: Tensor  # (8, 1, 5, 5)
    to_ycc: Tensor
    to_rgb: Tensor


@functools.cache
def _constants(device: torch.device) -> _Constants:
    """Constants on a device; to copy them there at every call would make the host wait for the device."""
    to_ycc = torch.tensor(_TO_YCC)
    values = (
        torch.tensor(XYZ_TO_CAMERA) @ torch.tensor(RGB_TO_XYZ),
        torch.tensor(_BILINEAR + _MALVAR)[:, None] / 8,
        to_ycc,
        to_ycc.inverse(),
    )
    return _Constants(*(value.to(device) for value in values))


def _luma(x: Tensor) -> Tensor:
    """Luma of pictures, (B, 3, H, W), in three equal channels."""
    return torch.einsum("c,bchw->bhw", _constants(x.device).to_ycc[0], x)[:, None].expand_as(x)


def _uniform(bounds: Range, batch: int, generator: torch.Generator) -> Tensor:
    """Numbers, (B, 1, 1, 1), as all that is drawn below."""
    low, high = bounds
    return low + (high - low) * torch.rand(batch, 1, 1, 1, device=generator.device, generator=generator)


def _log_uniform(bounds: Range, batch: int, generator: torch.Generator) -> Tensor:
    return _uniform((math.log(bounds[0]), math.log(bounds[1])), batch, generator).exp()


def _normal(batch: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, 1, 1, 1, device=generator.device, generator=generator)


def _happens(probability: float, batch: int, generator: torch.Generator) -> Tensor:
    """True with a probability."""
    return torch.rand(batch, 1, 1, 1, device=generator.device, generator=generator) < probability
