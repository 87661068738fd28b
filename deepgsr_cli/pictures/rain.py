"""Seeded synthetic rain: training pairs for deraining, made from clean pictures while training runs.

A layer of rain is a sparse field of drops, each with its own brightness, blurred along the direction of fall:
the "noise, then motion blur" recipe that Rain800 was made with. The blur is circular and its kernel is known
in the frequency domain, so a layer costs two FFTs and no streak is cut where the picture ends. A picture gets
one to four layers, as streaks at several depths differ in length, width and brightness.

Sources:
    Garg and Nayar, Photorealistic rendering of rain streaks, SIGGRAPH 2006: length and width follow the
    depth, brightness varies from drop to drop. Yang et al., Deep joint rain detection and removal from a
    single image, CVPR 2017: one kind of streak, added (Rain100L), or many directions, accumulated (Rain100H).
    Zhang, Sindagi and Patel, Image de-raining using a conditional generative adversarial network, 2017:
    Rain800. Li, Cheong and Tan, Heavy rain image restoration, CVPR 2019: streaks below a veil.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.pictures.jpeg import jpeg

MAX_LAYERS = 4
MIN_SIGMA_PX = 0.55  # narrower Gaussians are undersampled and ripple
MIN_TORUS_PX = 96
THRESHOLDED_STDS = 2.5  # what a thresholded layer with gain 1 needs to exceed its threshold by to be opaque
Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """A kind of rain: the bounds its quantities are drawn between, log-uniformly, once for each picture.

    Attributes:
        share: Share of the rainy pictures that have this style.
        layers: Fewest and most layers.
        spread_deg: Standard deviation of the layers' directions around the picture's.
        length_px: Length of a streak at depth 1.
        sigma_px: Width of a streak's Gaussian cross-section at depth 1.
        coverage: Drops per pixel of a layer times the area of a streak: the share of it under rain if small.
        opacity: Brightest a layer can be.
        gain: Contrast before that limit; a large one makes flat streaks with hard edges.
        veil: Probability of a veil.
        thresholded: The layer is what exceeds a threshold, as in the Photoshop recipe, not a sum of streaks.
    """

    share: float
    layers: tuple[int, int]
    spread_deg: Range
    length_px: Range
    sigma_px: Range
    coverage: Range
    opacity: Range
    gain: Range
    veil: float
    thresholded: bool = False


# Wide ranges around what the papers describe.
STYLES = (
    Style(  # light, one direction: Rain100L's kind
        share=0.45,
        layers=(1, 4),
        spread_deg=(0.3, 3),
        length_px=(8, 60),
        sigma_px=(0.55, 1.2),
        coverage=(0.03, 0.4),
        opacity=(0.15, 0.9),
        gain=(1, 2),
        veil=0.05,
    ),
    Style(  # heavy, many directions: Rain100H's kind
        share=0.3,
        layers=(2, 4),
        spread_deg=(1, 25),
        length_px=(15, 90),
        sigma_px=(0.55, 1.2),
        coverage=(0.3, 1.5),
        opacity=(0.2, 0.6),
        gain=(1, 5),
        veil=0.15,
    ),
    Style(  # thresholded noise: Rain800's kind
        share=0.25,
        layers=(1, 2),
        spread_deg=(0.3, 4),
        length_px=(8, 60),
        sigma_px=(0.55, 1.1),
        coverage=(2, 20),
        opacity=(0.1, 0.6),
        gain=(1, 3),
        veil=0.1,
        thresholded=True,
    ),
)
DRY = 0.15  # probability of no rain at all: a network has to leave such a picture alone
TILT_DEG = 18.0  # standard deviation of the direction of fall around the vertical
DEPTH: Range = (0.4, 1.6)  # length and width of a layer's streaks relative to the picture's, log-uniform
LAYER_OPACITY: Range = (0.4, 1.0)  # relative to the picture's
TAPER: Range = (0.1, 1.0)  # share of a streak's length over which its ends fade
THRESHOLD: Range = (-0.5, 1.5)  # of thresholded layers, in standard deviations above their mean
GUSTS: Range = (0.0, 0.8)  # depth of the slow variation of the rain across the picture
SCREENED = 0.5  # probability that rain is screened, 1 - (1 - x)(1 - r), not added
VEIL_LIGHT: Range = (0.4, 0.95)
VEIL_THICKNESS: Range = (0.05, 0.5)
COMPRESSED = 0.3  # probability of JPEG
JPEG_QUALITY: Range = (60, 95)


class Layers(NamedTuple):
    """What layers of rain look like, one number for each layer in each tensor.

    Attributes:
        angle_rad: Direction of fall, from downwards towards the right.
        length_px: Length of a streak, between the points of half its brightness.
        sigma_px: Width of its Gaussian cross-section.
        taper: Share of its length, in (0, 1], over which an end fades.
        density: Drops per pixel, up to 1.
        offset: Brightness that is subtracted from the sum of all streaks, whose peaks lie between 0 and 1.
        gain: Factor that the rest is multiplied with before it is clipped to [0, 1].
        opacity: Brightest the layer can be, in [0, 1]; 0 where there is no layer.
    """

    angle_rad: Tensor
    length_px: Tensor
    sigma_px: Tensor
    taper: Tensor
    density: Tensor
    offset: Tensor
    gain: Tensor
    opacity: Tensor


def rainy(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in rain, of the shape of the clean ones, in [0, 1], rounded to 8 bits; each with its own draw.

    Streaks are added or screened, then some pictures get a veil, then some are compressed as JPEG. Some stay
    dry and come back as they are.

    Args:
        clean: Pictures, (B, C, H, W) with 1 or 3 channels, in [0, 1].
        generator: Random generator, on the pictures' device; the rain is a function of it and of the shape
            alone.
    """
    batch, _, *size = clean.shape
    layers, veil = draw_layers(batch, generator)
    there = layers.opacity > 0  # (B, K)
    rain = clean.new_zeros(*there.shape, *size)
    rain[there] = streaks(Layers(*(values[there] for values in layers)), size, generator)
    rain = rain.sum(1, keepdim=True).clamp(max=1)
    screened = _happens(SCREENED, batch, generator)
    x = (clean + rain * (1 - screened * clean)).clamp(max=1)
    x = veiled(x, veil, generator)
    dry, compressed = _happens(DRY, batch, generator), _happens(COMPRESSED, batch, generator)
    quality = _uniform(JPEG_QUALITY, (batch,), generator).round()
    chosen = (compressed * (1 - dry)).flatten().nonzero().flatten()
    x[chosen] = jpeg(x[chosen], quality[chosen])
    return (torch.where(dry == 1, clean, x) * 255).round() / 255


def draw_layers(batch: int, generator: torch.Generator) -> tuple[Layers, Tensor]:
    """Layers of rain, (B, K), for a batch of pictures, and 1 for the veiled ones and else 0, (B, 1, 1, 1)."""
    device = generator.device
    shares = torch.tensor([style.share for style in STYLES], device=device)
    style = torch.multinomial(shares, batch, replacement=True, generator=generator)

    def of_style(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float32)[style]

    ranges = of_style(
        [[s.spread_deg, s.length_px, s.sigma_px, s.coverage, s.opacity, s.gain] for s in STYLES]
    )
    low, high = ranges.log().unbind(-1)
    drawn = low + (high - low) * torch.rand(low.shape, device=device, generator=generator)
    spread, length, sigma, coverage, opacity, gain = drawn.exp()[..., None].unbind(1)  # each (B, 1)

    shape = (batch, MAX_LAYERS)
    tilt = TILT_DEG * torch.randn(batch, 1, device=device, generator=generator)
    angle = tilt + spread * torch.randn(shape, device=device, generator=generator)
    low_depth, high_depth = (math.log(bound) for bound in DEPTH)
    depth = _uniform((low_depth, high_depth), shape, generator).exp()
    length, sigma = length * depth, (sigma * depth).clamp(min=MIN_SIGMA_PX)
    fewest, most = of_style([s.layers for s in STYLES]).unbind(-1)
    count = fewest + ((most - fewest + 1) * torch.rand(batch, device=device, generator=generator)).floor()
    there = torch.arange(MAX_LAYERS, device=device) < count[:, None]
    taper = _uniform(TAPER, shape, generator)
    density = (coverage / (length * sigma * math.sqrt(2 * math.pi))).clamp(max=1)

    # Mean and deviation of the sum of all streaks: a drop's brightness, the square of a uniform number, has
    # mean 1/3 and mean square 1/5.
    mean = density / 3 * length * sigma * math.sqrt(2 * math.pi)
    energy = length * (1 - taper / 3) * sigma * math.sqrt(math.pi)  # of one streak with peak 1
    std = ((density / 5 - density**2 / 9) * energy).sqrt()
    thresholded = of_style([s.thresholded for s in STYLES])[:, None] == 1
    threshold = mean + std * _uniform(THRESHOLD, shape, generator)
    layers = Layers(
        angle_rad=angle.deg2rad(),
        length_px=length,
        sigma_px=sigma,
        taper=taper,
        density=density,
        offset=torch.where(thresholded, threshold, 0),
        gain=torch.where(thresholded, gain / (THRESHOLDED_STDS * std), gain),
        opacity=opacity * _uniform(LAYER_OPACITY, shape, generator) * there,
    )
    return layers, _happens(of_style([s.veil for s in STYLES]), batch, generator)


def streaks(layers: Layers, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Brightness of layers of rain, (N, H, W), between 0 and each layer's opacity.

    The layers lie on a torus at least as large as the picture, so streaks are whole at its edges, and a
    streak longer than the torus meets itself.

    Args:
        layers: Looks of the layers, (N,).
        size: (H, W).
        generator: Random generator, on the layers' device.
    """
    device, number = generator.device, len(layers.density)
    plane = [-(-max(side, MIN_TORUS_PX) // 32) * 32 for side in size]
    layers = Layers(*(values[:, None, None] for values in layers))
    chance = torch.rand(number, *plane, device=device, generator=generator)
    drops = (1 - chance / layers.density).clamp(min=0) ** 2  # few are bright
    rain = torch.fft.irfft2(torch.fft.rfft2(drops) * streak_spectrum(layers, plane), s=plane)
    rain = ((rain - layers.offset) * layers.gain).clamp(0, 1)[..., : size[0], : size[1]]
    gusts = torch.rand(number, 4, 4, device=device, generator=generator)
    opacity = layers.opacity * (1 - _uniform(GUSTS, (number, 1, 1), generator) * gusts)
    return rain * F.interpolate(opacity[None], list(size), mode="bilinear")[0]


def streak_spectrum(layers: Layers, plane: Sequence[int]) -> Tensor:
    """Transfer function of a streak with peak 1, as `rfft2` orders it, real: the streak is even.

    Along the fall a trapezoid, the convolution of two boxes, and across it a Gaussian, which also blurs the
    ends; the Gaussian is what keeps the sampled streak free of ripples.

    Args:
        layers: Looks of the layers, (N, 1, 1).
        plane: Size of the torus in pixels, (H, W).
    """
    device = layers.angle_rad.device
    fy = torch.fft.fftfreq(plane[0], device=device)[:, None]
    fx = torch.fft.rfftfreq(plane[1], device=device)
    along = layers.length_px * (fx * layers.angle_rad.sin() + fy * layers.angle_rad.cos())
    exponent = -2 * (math.pi * layers.sigma_px) ** 2
    area = layers.length_px * layers.sigma_px * math.sqrt(2 * math.pi)
    gaussian = (area * (exponent * fy**2).exp()) * (exponent * fx**2).exp()
    return gaussian * torch.sinc(along) * torch.sinc(layers.taper * along)


def veiled(x: Tensor, veil: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures blended with gray atmospheric light where `veil`, (B, 1, 1, 1), is 1 and not 0.

    Rain too far away to be seen as streaks scatters like fog (Li et al. 2019, eq. 2); its thickness varies
    slowly over the picture.
    """
    shape = (len(x), 1, 1, 1)
    light = _uniform(VEIL_LIGHT, shape, generator)
    coarse = torch.rand(len(x), 1, 3, 3, device=x.device, generator=generator)
    variation = 0.5 + 0.5 * F.interpolate(coarse, x.shape[-2:], mode="bilinear")
    thickness = veil * _uniform(VEIL_THICKNESS, shape, generator) * variation
    return x + thickness * (light - x)


def _uniform(bounds: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, device=generator.device, generator=generator)


def _happens(probability: float | Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """1 with the probability and else 0, (B, 1, 1, 1)."""
    chance = torch.rand(batch, device=generator.device, generator=generator)
    return (chance < probability).float()[:, None, None, None]
