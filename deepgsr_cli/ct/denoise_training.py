"""Training of low-dose CT in the image domain: noise of simulated full turns, of any dose and kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.ct.denoising import HIGHEST_HU, LOWEST_HU, SCALE_HU, to_hu, to_network
from deepgsr_cli.ct.dose import (
    Kernels,
    frequencies,
    noise_for_crops,
    radial_spectrum,
    random_kernels,
    spectrum_frequencies,
)
from deepgsr_cli.ct.figures import BODY_HU, PEAK_ATTENUATION
from deepgsr_cli.ct.slices import PNG_FIELD_MM, read_hu
from deepgsr_cli.ct.training import split_slices
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.files import named
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.training.losses import LOSSES
from deepgsr_cli.training.task import Draw, preset_of
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig

# Shapes of the network; a filter for white noise is of no use here.
PRESETS_OF_CT = {name: shape for name, shape in PRESETS.items() if not shape.search}
# Levels in HU that a run trains on, evenly in their logarithm.
_LOWEST_LEVEL_HU, _HIGHEST_LEVEL_HU = 3.0, 200.0
# Of what the network is told, relative: an estimate is no better.
_LEVEL_ERROR = 0.2
# Crops lie in this middle part of the range they could; at a slice's rim is air.
_MIDDLE = 0.85
# Pixels around a crop that a kernel reaches from.
_MARGIN = 16
# Photons a ray, at which the electronics count more or less.
_FEWEST_PHOTONS, _MOST_PHOTONS = 2e4, 2e6
# Kernels and levels in HU of the slices that are validated on, by turns: cutoff and boost.
_VALIDATED = ((0.2, 0.0, 20.0), (0.35, 0.0, 35.0), (10.0, 0.0, 80.0))


@dataclass(frozen=True)
class Noise:
    """Noise of a slice.

    Attributes:
        image: HU, (H, W), float16, of a root mean square of 1 HU in the body.
        spectrum: Mean square by frequency, as `radial_spectrum`, that the body has.
    """

    image: Tensor
    spectrum: Tensor

    def level(self, kernels: Kernels) -> Tensor:
        """Standard deviation in the body, in HU, (B,), after kernels."""
        return (self.spectrum * kernels(spectrum_frequencies()).square()).sum(-1).sqrt()


class NoisySlices:
    """Slices at their own and at half the resolution, each with noise that is made on first use and kept.

    Args:
        slices: HU, (H, W) each.
        size: Least side; smaller slices are filled up with air.
        seed: Of the noise.
    """

    def __init__(self, slices: list[np.ndarray], size: int, seed: int) -> None:
        self.seed = seed
        self.levels: list[list[Tensor]] = []  # HU, int16
        for hu in slices:
            image = torch.from_numpy(hu)[None].float()
            levels = [image[0], F.avg_pool2d(image, 2)[0]]
            levels = [level for level in levels if min(level.shape) >= size] or levels[:1]
            self.levels.append([_filled(level, size).round().short() for level in levels])
        self._noise: dict[tuple[int, int], Noise] = {}

    def noise(self, i: int, level: int) -> Noise:
        """Noise of slice i at one of its resolutions."""
        if (i, level) not in self._noise:
            stream = int(np.random.SeedSequence([self.seed, i, level]).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(stream)
            self._noise[i, level] = self._made(self.levels[i][level].float(), 2**level, generator)
        return self._noise[i, level]

    def _made(self, hu: Tensor, reduction: int, generator: torch.Generator) -> Noise:
        u = torch.rand(3, generator=generator).tolist()
        pixel_mm = PNG_FIELD_MM / 512 * reduction * (0.6 + 0.55 * u[0])
        photons = math.exp(math.log(_FEWEST_PHOTONS) + math.log(_MOST_PHOTONS / _FEWEST_PHOTONS) * u[1])
        attenuation = hu_to_attenuation(hu).clamp(min=0)
        image = noise_for_crops(attenuation, pixel_mm, 1 + u[2], photons, generator)
        body = (hu > BODY_HU).float()
        if not body.any():
            body = torch.ones_like(hu)
        image = image / ((image.square() * body).sum() / body.sum()).sqrt()
        spectrum = radial_spectrum(image * body) / body.mean()
        return Noise(image.half(), spectrum)


def _filled(hu: Tensor, size: int) -> Tensor:
    """Slice with air on all sides, where it is smaller than `size`."""
    height, width = (max(0, size - n) for n in hu.shape)
    return F.pad(hu, (width // 2, width - width // 2, height // 2, height - height // 2), value=LOWEST_HU)


@dataclass(frozen=True)
class DoseSample:
    """Crops of slices, as the network sees them (`to_network`).

    Attributes:
        noisy: Of less dose, (B, 1, H, W).
        level: Level of the noise that the network is told, (B, 1).
        clean: Of full dose, (B, 1, H, W).
    """

    noisy: Tensor
    level: Tensor
    clean: Tensor


class CTDenoise:
    """Low-dose CT: noise of a full turn's views, by kernels from smooth to sharp, added to slices."""

    given = "the noisy input"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shape = preset_of(config, PRESETS_OF_CT)
        paths, held_out = split_slices(config)
        slices, self.held_out = (
            [hu for path in part for hu in read_hu(path, LOWEST_HU)] for part in (paths, held_out)
        )
        self.slices = NoisySlices(slices, config.patch + 2 * _MARGIN, config.seed)
        self.summary = f"{counted(len(slices), 'CT slice')} of {named(paths, 'file')}"

    def network(self) -> nn.Module:
        return DeepGSR(self.shape)

    def sample(self, draw: Draw) -> DoseSample:
        batch = self.config.batch
        kernels = random_kernels(batch, draw.cpu)
        chance = torch.rand(batch, 10, generator=draw.cpu)
        crops = [self._crop(u, kernels, b) for b, u in enumerate(chance.tolist())]
        hu, noise = (torch.stack(tensors) for tensors in zip(*crops))
        level = _LOWEST_LEVEL_HU * (_HIGHEST_LEVEL_HU / _LOWEST_LEVEL_HU) ** chance[:, 7]
        error = (_LEVEL_ERROR * torch.randn(batch, generator=draw.cpu)).exp()
        passed = kernels(frequencies(*hu.shape[-2:]))
        noise = filtered(noise, passed) * level[:, None, None]
        # Half of the slices are seen through the kernel as well, the others keep their own.
        seen = torch.where(chance[:, 8, None, None] < 0.5, filtered(hu, passed), hu)
        noisy = seen + noise
        # Scanners fill with the lowest value what they do not see, and some write whole numbers.
        unseen = (hu <= LOWEST_HU) & (chance[:, 9, None, None] < 0.5)
        noisy = torch.where(unseen, LOWEST_HU, noisy)
        seen = torch.where(unseen, LOWEST_HU, seen)
        inner = (slice(None), slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
        sample = _sample(noisy[inner].round(), level * error, seen[inner])
        return DoseSample(*(x.to(self.device) for x in (sample.noisy, sample.level, sample.clean)))

    def _crop(self, u: list[float], kernels: Kernels, b: int) -> tuple[Tensor, Tensor]:
        """HU and noise of a level of 1 HU after kernel b, (H, W) each, with margins, turned alike."""
        size = self.config.patch + 2 * _MARGIN
        i = int(u[0] * len(self.slices.levels))
        levels = self.slices.levels[i]
        which = int(u[1] * 1.5) % len(levels)  # a third at half the resolution
        noise = self.slices.noise(i, which)
        hu = levels[which]
        top, left = (int((0.5 + _MIDDLE * (v - 0.5)) * (n - size + 1)) for v, n in zip(u[2:4], hu.shape))
        part = slice(top, top + size), slice(left, left + size)
        own = Kernels(*(x[b : b + 1] for x in (kernels.cutoff, kernels.order, kernels.boost)))
        sign = 1.0 if u[4] < 0.5 else -1.0  # as likely
        pair = torch.stack((hu[part].float(), noise.image[part].float() * sign / noise.level(own)))
        pair = torch.rot90(pair, int(4 * u[5]), (1, 2))
        pair = pair.flip(2) if u[6] < 0.5 else pair
        return pair[0], pair[1]

    def validation(self) -> list[DoseSample]:
        """Centres of slices, through a smooth, a middle and a sharp kernel by turns."""
        slices = NoisySlices(self.held_out, 0, self.config.seed + 1)
        samples = []
        for i, levels in enumerate(slices.levels):
            cutoff, boost, level = _VALIDATED[i % len(_VALIDATED)]
            kernels = Kernels(*(torch.tensor([value]) for value in (cutoff, 2.0, boost)))
            hu, noise = levels[0].float(), slices.noise(i, 0)
            passed = kernels(frequencies(*hu.shape))
            seen = filtered(hu[None], passed)
            added = filtered(noise.image[None].float(), passed) * level / noise.level(kernels)
            top, left = (max(0, (n - 320) // 2) for n in hu.shape)
            noisy, seen = (x[:, top : top + 320, left : left + 320] for x in (seen + added, seen))
            samples.append(_sample(noisy.round(), torch.tensor([level]), seen))
        return samples

    def loss(self, model: nn.Module, sample: DoseSample) -> Tensor:
        with autocast(self.device, self.config.precision):
            output = model(sample.noisy, sample.level)
        return LOSSES[self.config.loss](output.float() - sample.clean).mean()

    def psnr(self, model: nn.Module, sample: DoseSample) -> float:
        """In the window of attenuation from 0 to 0.05 / mm."""
        return _psnr(model(*(x.to(self.device) for x in (sample.noisy, sample.level))), sample.clean)

    def psnr_given(self, sample: DoseSample) -> float:
        return _psnr(sample.noisy, sample.clean)


def _sample(noisy: Tensor, level_hu: Tensor, clean: Tensor) -> DoseSample:
    """Batch of HU, (B, H, W), and levels, (B,)."""
    noisy, clean = (to_network(x.clamp(LOWEST_HU, HIGHEST_HU))[:, None] for x in (noisy, clean))
    return DoseSample(noisy, level_hu[:, None] / SCALE_HU, clean)


def filtered(x: Tensor, passed: Tensor) -> Tensor:
    """Images, (B, H, W), by what passes of their frequencies, (B, H, W / 2 + 1); their edges meet."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * passed, s=x.shape[-2:])


def _psnr(x: Tensor, clean: Tensor) -> float:
    found, expected = (
        hu_to_attenuation(to_hu(t.cpu().numpy())).clip(0, PEAK_ATTENUATION) for t in (x, clean)
    )
    return psnr(found, expected, peak=PEAK_ATTENUATION)
