"""The tasks on pictures, a row each: what degrades pictures, and what a network is told of it.

A task is degraded in one way for training, evaluation and tests. Nothing here imports arrays or torch
before they are needed: the command line reads names and summaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from deepgsr_cli.training.task import Draw


class Degradation(Protocol):
    """How much pictures are degraded; a `TrainConfig` says it.

    Attributes:
        sigma_min: Lowest noise level, on the 0-255 scale.
        sigma_max: Highest noise level.
        clipped: Share of the pictures whose noise is clipped and rounded to 8 bits.
        seed: Seed of the pictures to validate on.
    """

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    @property
    def clipped(self) -> float: ...
    @property
    def seed(self) -> int: ...


# Of clean pictures, (B, C, H, W): degraded ones, and what a network is told of each, (B, conditions).
Degrade = Callable[["Tensor", Degradation, "Draw"], "tuple[Tensor, Tensor]"]
# Of degraded pictures, generated or of pairs, and the clean ones: degraded further.
DegradeFurther = Callable[["Tensor", "Tensor", Degradation, "torch.Generator"], "Tensor"]
# Of a clean picture, (C, H, W), and its number: what to validate on, (1, C, H, W), each with what a network
# is told, (1, conditions).
DegradeForValidation = Callable[["np.ndarray", Degradation, int], "list[tuple[Tensor, Tensor]]"]
# Of a restored and a clean picture, (C, H, W) in [0, 1], by name.
Figures = Callable[["np.ndarray", "np.ndarray"], dict[str, float]]


def psnr_and_ssim(restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """PSNR in dB of all channels, and mean of the channels' SSIM."""
    from deepgsr_cli.evaluation.metrics import psnr, ssim

    return {"psnr": psnr(restored, clean), "ssim": ssim(restored, clean)}


def psnr_and_ssim_of_luma_too(restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """As `psnr_and_ssim`, and the same of the Y channel, which deraining is compared by."""
    from deepgsr_cli.evaluation.metrics import luma_y

    luma = psnr_and_ssim(luma_y(restored), luma_y(clean))
    return psnr_and_ssim(restored, clean) | {f"{name}_y": value for name, value in luma.items()}


class Channels(Enum):
    """Which channels a network has: those of the picture, or three, of which a gray picture repeats one."""

    AS_IS = "as is"
    COLOUR = "colour"


@dataclass(frozen=True)
class Level:
    """What a network is told of the degradation.

    Attributes:
        option: Name of the argument and option that gives it.
        low: Least value.
        high: Greatest value.
        estimate: Value for a picture, (C, H, W) in [0, 1].
        told: What a network is told, of a value and of whether a file has clipped the picture; a network
            of fewer conditions is told the first of them.
        ease: How little error a good network leaves at what it is told, (B, conditions): the inverse of its
            variance, (B,), by which training has all levels count alike.
    """

    option: str
    low: float
    high: float
    estimate: Callable[[np.ndarray], float]
    told: Callable[[float, bool], list[float]]
    ease: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PictureTask:
    """A task on pictures.

    Attributes:
        name: Of its command, its training and its weights.
        summary: What its training does, in one sentence.
        level: What the network is told; None where it is told nothing.
        channels: Which channels the network has.
        degrade: Draws degraded pictures of clean ones.
        degrade_for_validation: The pictures to validate on, the same at each call.
        degrade_further: What comes over generated degradation and over that of pairs, if anything does.
        given: The degraded picture, in words.
        scales: Sides of a restored picture over those of the degraded one: those that can be asked for.
        model: Kind of network, a name in `pictures.training.PRESETS_OF`, unless a training chooses another.
        pairs: What the degraded pictures of pairs are called, as their sub-folder is; None without pairs.
        baselines: Names of methods to evaluate beside the network's: of `pictures.baselines`, or of a task.
        figures: How restored pictures are measured.
    """

    name: str
    summary: str
    level: Level | None
    channels: Channels
    degrade: Degrade
    degrade_for_validation: DegradeForValidation
    degrade_further: DegradeFurther | None = None
    given: str = "the degraded input"
    scales: tuple[int, ...] = (1,)
    model: str = "deepgsr"
    pairs: str | None = None
    baselines: tuple[str, ...] = ()
    figures: Figures = psnr_and_ssim

    @property
    def conditions(self) -> int:
        """Length of a network's condition vector."""
        return 0 if self.level is None else len(self.level.told(self.level.low, False))

    def channels_for(self, channels: int) -> int:
        """How many channels a network has that restores pictures with so many."""
        return channels if self.channels is Channels.AS_IS else 3


def _picture_sigma(pixels: np.ndarray) -> float:
    from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma

    return picture_sigma(estimate_sigma(pixels))


def _ease_of_sigma(told: Tensor) -> Tensor:
    # On natural pictures the error that a good denoiser leaves has a variance proportional to sigma, roughly
    # (PSNR tables of DnCNN, 15 to 50). Levels below 2 would otherwise outweigh all others.
    return 25 / (255 * told[:, 0]).clamp(min=2)


def _noisy(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    from deepgsr_cli.pictures.noise import gaussian_noise

    return gaussian_noise(clean, (how.sigma_min, how.sigma_max), draw.device, clipped=how.clipped)


def _noisy_for_validation(clean: np.ndarray, how: Degradation, number: int) -> list[tuple[Tensor, Tensor]]:
    """The protocol's noise at three levels, each as it is, clipped as in a file, or both, as in training."""
    import torch

    from deepgsr_cli.pictures.noise import as_8_bits, protocol_noise

    found = []
    for part in (0.2, 1 / 3, 2 / 3):
        sigma = how.sigma_min + part * (how.sigma_max - how.sigma_min)
        noisy = torch.from_numpy(clean + protocol_noise(clean.shape, sigma, how.seed))[None]
        if how.clipped < 1:
            found.append((noisy, torch.tensor([[sigma / 255, 0]])))
        if how.clipped > 0:
            found.append((as_8_bits(noisy), torch.tensor([[sigma / 255, 1]])))
    return found


def _in_rain(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    from deepgsr_cli.pictures.rain import rainy

    return rainy(clean, draw.device), clean.new_zeros(len(clean), 0)


def _in_rain_for_validation(clean: np.ndarray, how: Degradation, number: int) -> list[tuple[Tensor, Tensor]]:
    import torch

    from deepgsr_cli.pictures.rain import rainy

    generator = torch.Generator().manual_seed(how.seed + number)
    return [(rainy(torch.from_numpy(clean)[None], generator), torch.zeros(1, 0))]


def _noisy_instead_or_too(
    degraded: Tensor, clean: Tensor, how: Degradation, generator: torch.Generator
) -> Tensor:
    """A third with noise instead of rain, a third with both."""
    import torch

    from deepgsr_cli.pictures.noise import gaussian_noise

    kind = torch.rand(len(clean), 1, 1, 1, device=clean.device, generator=generator)
    noisy, _ = gaussian_noise(
        torch.where(kind < 1 / 3, clean, degraded),
        (how.sigma_min, how.sigma_max),
        generator,
        clipped=how.clipped,
    )
    return torch.where(kind < 2 / 3, noisy, degraded)


def _reduced(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    from deepgsr_cli.pictures.resampling import reduced_by_turns

    return reduced_by_turns(clean, UPSCALE.scales), clean.new_zeros(len(clean), 0)


def _reduced_for_validation(clean: np.ndarray, how: Degradation, number: int) -> list[tuple[Tensor, Tensor]]:
    import torch

    from deepgsr_cli.pictures.resampling import reduced

    return [(reduced(torch.from_numpy(clean)[None], scale), torch.zeros(1, 0)) for scale in UPSCALE.scales]


SIGMA = Level(
    option="sigma",
    low=0,
    high=255,
    estimate=_picture_sigma,
    told=lambda sigma, clipped: [sigma / 255, float(clipped)],
    ease=_ease_of_sigma,
)

DENOISE = PictureTask(
    name="denoise",
    summary="Train a denoiser on clean pictures; noise is added on the fly.",
    level=SIGMA,
    channels=Channels.AS_IS,
    degrade=_noisy,
    degrade_for_validation=_noisy_for_validation,
    given="the noisy input",
    baselines=("restore", "bm3d", "nlm", "tv"),
)

DERAIN = PictureTask(
    name="derain",
    summary="Train a deraining network on clean pictures, over which rain is drawn, on pairs, or on both.",
    level=None,
    # Rain is gray: there a gray picture is a colour one of three equal channels. Noise is not, as it differs
    # from channel to channel.
    channels=Channels.COLOUR,
    degrade=_in_rain,
    degrade_for_validation=_in_rain_for_validation,
    given="the rainy input",
    pairs="rain",
    baselines=("restore",),
    figures=psnr_and_ssim_of_luma_too,
)

RESTORE = PictureTask(
    name="restore",
    summary="Train a network for noise, rain or both, on the data that derain takes.",
    level=None,
    channels=Channels.COLOUR,
    degrade=_in_rain,
    degrade_for_validation=_in_rain_for_validation,
    degrade_further=_noisy_instead_or_too,
    pairs="rain",
)

UPSCALE = PictureTask(
    name="upscale",
    summary="Train a network that enlarges, on pictures that are reduced on the fly.",
    level=None,
    # A gray picture is a colour one of three equal channels, and stays one in all that is done to it.
    channels=Channels.COLOUR,
    degrade=_reduced,
    degrade_for_validation=_reduced_for_validation,
    given="bicubic interpolation",
    scales=(2, 3, 4),
    model="nsr",
    baselines=("bicubic", "lanczos"),
)

# By name.
TASKS = {task.name: task for task in (DENOISE, DERAIN, RESTORE, UPSCALE)}
