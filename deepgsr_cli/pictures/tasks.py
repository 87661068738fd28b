"""The tasks on pictures, a row each: what degrades pictures, and what a network is told of it.

A task is degraded in one way for training, evaluation and tests. Nothing here imports arrays or torch
before they are needed: the command line reads names and summaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from deepgsr_cli.errors import OptionError, check_text

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


# Of clean pictures, (B, C, H, W): as clean ones, for training.
Prepare = Callable[["Tensor", "Draw"], "Tensor"]
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


class Shown(NamedTuple):
    """What of a picture matters to what a network is told.

    Attributes:
        clipped: Whether a file has clipped the picture to black and white.
        channels: Channels of the picture.
    """

    clipped: bool = False
    channels: int = 3


@dataclass(frozen=True)
class Level:
    """What a network is told of the degradation.

    Attributes:
        option: Name of the argument and option that gives it.
        low: Least value.
        high: Greatest value.
        estimate: Value for a picture, (C, H, W) in [0, 1].
        told: What a network is told, of a value and a picture; a network of fewer conditions is told the
            first of them.
        ease: How little error a good network leaves at what it is told, (B, conditions): the inverse of its
            variance, (B,), by which training has all levels count alike.
    """

    option: str
    low: float
    high: float
    estimate: Callable[[np.ndarray], float]
    told: Callable[[float, Shown], list[float]]
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
        mosaic: Whether the degraded picture is a Bayer mosaic, (B, 1, H, W).
        as_pictures: Makes pictures of the size of the clean ones of degraded ones that are not, without a
            network; `given` then names this. None where they are.
        prepare: Makes other crops of some that training takes, before they are degraded, if anything does.
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
    mosaic: bool = False
    as_pictures: Callable[[Tensor], Tensor] | None = None
    prepare: Prepare | None = None
    scales: tuple[int, ...] = (1,)
    model: str = "deepgsr"
    pairs: str | None = None
    baselines: tuple[str, ...] = ()
    figures: Figures = psnr_and_ssim

    @property
    def conditions(self) -> int:
        """Length of a network's condition vector."""
        return 0 if self.level is None else len(self.level.told(self.level.low, Shown()))

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


def _all_alike(told: Tensor) -> Tensor:
    return told.new_ones(len(told))


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


def _like_photographs(clean: Tensor, draw: Draw) -> Tensor:
    from deepgsr_cli.pictures.camera import varied

    return varied(clean, draw.device)


# Standard deviation of the logarithm of the error in what it is told, as an estimate has one.
_TOLD_ERROR = 0.25


def _photographed(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    import torch

    from deepgsr_cli.pictures.camera import photographed

    photos = photographed(clean, draw.device).pictures
    told = _told_of_photographs(photos, clean, how)
    error = _TOLD_ERROR * torch.randn(len(clean), 1, device=clean.device, generator=draw.device)
    told[:, :1] = (told[:, :1] * error.exp()).clamp(max=how.sigma_max / 255)
    return photos, told


def _photographed_for_validation(
    clean: np.ndarray, how: Degradation, number: int
) -> list[tuple[Tensor, Tensor]]:
    """Two noisy photographs of the picture."""
    import torch

    from deepgsr_cli.pictures.camera import FOR_DENOISING, photographed

    generator = torch.Generator().manual_seed(how.seed + number)
    pictures = torch.from_numpy(clean).expand(2, -1, -1, -1)
    photos = photographed(pictures, generator, replace(FOR_DENOISING, clean=0)).pictures
    return list(zip(photos.split(1), _told_of_photographs(photos, pictures, how).split(1)))


def _told_of_photographs(photos: Tensor, clean: Tensor, how: Degradation) -> Tensor:
    """What the network is told of photographs, (B, C, H, W), whose clean pictures are known: (B, 2)."""
    import torch

    from deepgsr_cli.pictures.camera import level_of, white_equivalent
    from deepgsr_cli.pictures.noise import white_part

    level = level_of(photos, clean)
    told = white_equivalent(level, torch.minimum(white_part(photos - clean)[:, None], level))
    return torch.cat((told.clamp(max=how.sigma_max / 255), torch.ones_like(told)), dim=1)


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


def _ease_of_steps(told: Tensor) -> Tensor:
    # Good networks leave an error whose variance falls by 2.8 where the steps fall by 4 (PSNR tables of
    # DnCNN and SwinIR, qualities 10 to 40); 64 is the mean step at a quality of 35.
    return (64 / (1 + 255 * told[:, 0])) ** 0.75


def _with_more_black(clean: Tensor, draw: Draw) -> Tensor:
    from deepgsr_cli.pictures.dataset import with_black_edges, with_more_contrast

    return with_black_edges(with_more_contrast(clean, draw.device), draw.device)


def _some_vivid(clean: Tensor, draw: Draw) -> Tensor:
    from deepgsr_cli.pictures.jpeg import vivid_for_training

    return vivid_for_training(clean, draw.device)


def _compressed(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    from deepgsr_cli.pictures.jpeg import compressed_for_training

    return compressed_for_training(clean, draw.device)


def _compressed_for_validation(
    clean: np.ndarray, how: Degradation, number: int
) -> list[tuple[Tensor, Tensor]]:
    """Pictures at four qualities, from poor to good, with chroma of half the resolution."""
    import torch

    from deepgsr_cli.pictures.jpeg import compressed, standard_steps, told

    picture = torch.from_numpy(clean)[None]
    steps = [standard_steps(torch.tensor([quality])) for quality in (10.0, 20.0, 40.0, 80.0)]
    return [(compressed(picture, x), told(x, len(clean))) for x in steps]


def _told_of_quality(quality: float, shown: Shown) -> list[float]:
    from deepgsr_cli.pictures.compression import of_quality

    return list(of_quality(quality, shown.channels).told)


def _picture_quality(pixels: np.ndarray) -> float:
    from deepgsr_cli.pictures.compression import found_in

    found = found_in(pixels)
    return 100 if found is None else found.quality


def _as_mosaics(clean: Tensor, how: Degradation, draw: Draw) -> tuple[Tensor, Tensor]:
    from deepgsr_cli.pictures.mosaics import noisy_mosaics

    return noisy_mosaics(clean, (how.sigma_min, how.sigma_max), draw.device, clipped=how.clipped)


def _mosaic_for_validation(clean: np.ndarray, how: Degradation, number: int) -> list[tuple[Tensor, Tensor]]:
    """The mosaic at the lowest level of noise, zero as a rule, and in the middle of the levels."""
    import torch

    from deepgsr_cli.models.mosaics import mosaic_of
    from deepgsr_cli.pictures.noise import protocol_noise

    found = []
    for sigma in (how.sigma_min, (how.sigma_min + how.sigma_max) / 2):
        mosaic = mosaic_of(torch.from_numpy(clean)[None])
        mosaic += torch.from_numpy(protocol_noise((1, *clean.shape[1:]), sigma, how.seed))
        found.append((mosaic, torch.tensor([[sigma / 255]])))
    return found


def _interpolated(mosaics: Tensor) -> Tensor:
    from deepgsr_cli.models.mosaics import malvar

    return malvar(mosaics)


def _mosaic_sigma(mosaic: np.ndarray) -> float:
    """Of the four pictures, each of one colour's pixels, that a mosaic, (1, H, W), consists of."""
    import numpy as np

    rows, columns = (side // 2 * 2 for side in mosaic.shape[1:])
    planes = mosaic[0, :rows, :columns].reshape(rows // 2, 2, columns // 2, 2).transpose(1, 3, 0, 2)
    return _picture_sigma(np.ascontiguousarray(planes.reshape(4, rows // 2, columns // 2)))


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
    told=lambda sigma, shown: [sigma / 255, float(shown.clipped)],
    ease=_ease_of_sigma,
)

# The white noise that noise of any kind is as hard to remove as, in a file of 8 bits.
EQUIVALENT_SIGMA = Level(
    option="sigma",
    low=0,
    high=255,
    estimate=_picture_sigma,
    told=lambda sigma, shown: [sigma / 255, 1.0],
    ease=_all_alike,
)

DENOISE = PictureTask(
    name="denoise",
    summary="Train a denoiser on clean pictures; noise is added on the fly.",
    level=SIGMA,
    channels=Channels.AS_IS,
    degrade=_noisy,
    degrade_for_validation=_noisy_for_validation,
    given="the noisy input",
    prepare=_with_more_black,
    baselines=("restore", "bm3d", "nlm", "tv"),
)

PHOTO = PictureTask(
    name="photo",
    summary="Train a denoiser of photographs on clean pictures; a camera's noise is made on the fly.",
    level=EQUIVALENT_SIGMA,
    # A camera mixes the noise of its channels. A gray picture has equal noise in three equal channels, and is
    # among the crops.
    channels=Channels.COLOUR,
    degrade=_photographed,
    degrade_for_validation=_photographed_for_validation,
    given="the noisy input",
    prepare=_like_photographs,
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

QUALITY = Level(
    option="quality",
    low=1,
    high=100,
    estimate=_picture_quality,
    told=_told_of_quality,
    ease=_ease_of_steps,
)

DEJPEG = PictureTask(
    name="dejpeg",
    summary="Train a network for JPEG artefacts on clean pictures, which are compressed on the fly.",
    level=QUALITY,
    channels=Channels.AS_IS,
    degrade=_compressed,
    degrade_for_validation=_compressed_for_validation,
    given="the JPEG",
    prepare=_some_vivid,
)

SIGMA_OF_MOSAIC = Level(
    option="sigma",
    low=0,
    high=255,
    estimate=_mosaic_sigma,
    told=lambda sigma, clipped: [sigma / 255],
    ease=_ease_of_sigma,
)

DEMOSAICK = PictureTask(
    name="demosaick",
    summary="Train a network that demosaicks, with noise or without, on clean pictures.",
    level=SIGMA_OF_MOSAIC,
    channels=Channels.COLOUR,
    degrade=_as_mosaics,
    degrade_for_validation=_mosaic_for_validation,
    given="the interpolation by Malvar, He and Cutler",
    mosaic=True,
    as_pictures=_interpolated,
    baselines=("bilinear", "malvar"),
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
TASKS = {task.name: task for task in (DENOISE, DERAIN, RESTORE, DEJPEG, DEMOSAICK, PHOTO, UPSCALE)}


def check_enlargement(scale: int, method: str) -> None:
    """Raise an OptionError unless there is such a scale and such a method to enlarge by."""
    if scale not in UPSCALE.scales:
        raise OptionError("scale", scale, "give 2, 3 or 4")
    known = ("deepgsr", *UPSCALE.baselines)
    check_text("method", method, f"known are {', '.join(known)}")
    if method not in known:
        raise OptionError("method", method, f"known are {', '.join(known)}")
