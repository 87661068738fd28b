"""Training on pictures: noise, rain or both over clean pictures, or pairs."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.files import fingerprint
from deepgsr_cli.formats.image import picture_paths, read_channels
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.models.deepgsr import filter_of
from deepgsr_cli.pictures.dataset import Crops, pair_paths, read_pictures, smaller_copies
from deepgsr_cli.pictures.noise import as_8_bits, gaussian_noise, protocol_noise
from deepgsr_cli.pictures.rain import rainy
from deepgsr_cli.pictures.scenes import structures
from deepgsr_cli.training.losses import LOSSES
from deepgsr_cli.training.task import Sample, autocast, split_evenly

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


class _Pictures:
    """Network and measures of pictures.

    Attributes:
        presets: Shapes that the network comes in.
        conditions: Length of the network's condition vector.
    """

    presets = PRESETS
    conditions: int

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def network(self) -> nn.Module:
        config = self.config
        shape = dataclasses.replace(
            PRESETS[config.preset], channels=config.channels, conditions=self.conditions
        )
        return DeepGSR(shape.without_groups() if config.without_groups else shape)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        with autocast(self.config, self.device):
            known = {} if sample.filtered is None else {"filtered": sample.filtered}
            output = model(sample.degraded, sample.condition, **known)
        return (LOSSES[self.config.loss](output.float() - sample.clean) * sample.weight).mean()

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        condition = None if sample.condition is None else sample.condition.to(self.device)
        restored = rounded8(model(sample.degraded.to(self.device), condition).cpu().numpy())
        return float(np.mean([psnr(*pair) for pair in zip(restored, sample.clean.numpy())]))


class Denoise(_Pictures):
    """White Gaussian noise; the network is told its level, and whether a file has clipped it."""

    conditions = 2

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        training, self.held_out = split_pictures(config)
        self.crops = Crops(training_pictures(training, config), config.patch, device)
        self.summary = summary_of(training)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        config = self.config
        clean = self.crops(config.batch, generator)
        noisy, told = gaussian_noise(
            clean, (config.sigma_min, config.sigma_max), device_generator, clipped=config.clipped
        )
        # On natural pictures the error that a good denoiser leaves has a variance proportional to sigma,
        # roughly (PSNR tables of DnCNN, 15 to 50). Levels below 2 would otherwise outweigh all others.
        power = {"charbonnier": 0.5, "mse": 1.0, "psnr": 0.0}[config.loss]
        weight = (25 / (255 * told[:, 0]).clamp(min=2)) ** power
        # Here rather than in the network, which is then free of what cannot be compiled or recorded.
        search = self.presets[config.preset].search
        filtered = filter_of(noisy, told[:, 0], search) if search else None
        return Sample(noisy, clean, told, weight, filtered=filtered)

    def validation(self) -> list[Sample]:
        config = self.config
        samples = []
        for path in self.held_out:
            clean = _centre(read_channels(path, config.channels))
            for part in (0.2, 1 / 3, 2 / 3):
                sigma = config.sigma_min + part * (config.sigma_max - config.sigma_min)
                noisy = clean + protocol_noise(clean.shape, sigma, config.seed)
                if config.clipped < 1:
                    samples.append(_single(noisy, clean, torch.tensor([[sigma / 255, 0]])))
                if config.clipped > 0:
                    noisy = as_8_bits(torch.from_numpy(noisy)).numpy()
                    samples.append(_single(noisy, clean, torch.tensor([[sigma / 255, 1]])))
        return samples


class Derain(_Pictures):
    """Rain: generated over clean pictures, as it is in pairs of pictures, or both by turns."""

    conditions = 0
    noise = False

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        summaries = []
        self.held_out: list[Path] = []
        self.crops = self.pair_crops = None
        left_out = 0
        if config.data:
            training, self.held_out = split_pictures(config)
            kept = _without_test_scenes(training)
            left_out = len(training) - len(kept)
            self.held_out = _without_test_scenes(self.held_out)
            self.crops = Crops(training_pictures(kept, config), config.patch, device)
            summaries.append(summary_of(kept) + f", {left_out} scenes of rain test sets left out")
        self.held_out_pairs: list[tuple[Path, Path]] = []
        if config.pairs:
            pairs = [pair for folder in config.pairs for pair in pair_paths(folder, "rain")]
            pairs, self.held_out_pairs = split_evenly(pairs, config.held_out)
            pictures = [np.concatenate(read_pictures(pair, config.channels, config.patch)) for pair in pairs]
            self.pair_crops = Crops(pictures, config.patch, device)
            summaries.append(summary_of([path for pair in pairs for path in pair]) + " in pairs")
        self.summary = "; ".join(summaries)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        batch = self.config.batch
        paired = 0
        if self.pair_crops is not None:
            draws = torch.rand(batch, generator=generator)
            paired = batch if self.crops is None else int((draws < PAIRED_SHARE).sum())
        parts = []
        if self.crops is not None and paired < batch:
            clean = self.crops(batch - paired, generator)
            parts.append((rainy(clean, device_generator), clean))
        if self.pair_crops is not None and paired:
            parts.append(tuple(self.pair_crops(paired, generator).chunk(2, dim=1)))  # type: ignore[arg-type]
        degraded, clean = (torch.cat(images) for images in zip(*parts))
        if self.noise:
            degraded = self._noisy(degraded, clean, device_generator)
        return Sample(degraded, clean, None, torch.ones(batch, device=clean.device))

    def _noisy(self, degraded: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A third with noise instead of rain, a third with both."""
        kind = torch.rand(len(clean), 1, 1, 1, device=clean.device, generator=generator)
        noisy, _ = gaussian_noise(
            torch.where(kind < 1 / 3, clean, degraded),
            (self.config.sigma_min, self.config.sigma_max),
            generator,
        )
        return torch.where(kind < 2 / 3, noisy, degraded)

    def validation(self) -> list[Sample]:
        config = self.config
        samples = []
        for i, path in enumerate(self.held_out):
            clean = torch.from_numpy(_centre(read_channels(path, config.channels)))[None]
            generator = torch.Generator().manual_seed(config.seed + i)
            samples.append(Sample(rainy(clean, generator), clean, None, torch.ones(1)))
        for pair in self.held_out_pairs:
            rain, dry = (_centre(read_channels(path, config.channels)) for path in pair)
            samples.append(_single(rain, dry))
        if self.noise:
            for i, sample in enumerate(samples):
                generator = torch.Generator().manual_seed(config.seed + i)
                degraded = self._noisy(sample.degraded, sample.clean, generator)
                samples[i] = Sample(degraded, sample.clean, None, sample.weight)
        return samples


class Restore(Derain):
    """Noise, rain or both, of which the network is told nothing."""

    noise = True


# Of a batch, where there are both pairs and clean pictures.
PAIRED_SHARE = 0.3


def split_pictures(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    paths = [path for folder in config.data for path in picture_paths(folder)]
    if config.validation is not None:
        return paths, picture_paths(config.validation)
    return split_evenly(paths, config.held_out)


def rain_test_scenes() -> set[str]:
    """SHA-256 of pictures that are the clean side of a test set of rain.

    All of Rain100L and most of Rain100H are scenes of BSDS500; the list has the JPEG files of that set.
    """
    text = (
        resources.files("deepgsr_cli.pictures").joinpath("rain_test_scenes.txt").read_text(encoding="ascii")
    )
    return set(text.split())


def _without_test_scenes(paths: list[Path]) -> list[Path]:
    scenes = rain_test_scenes()
    kept = [path for path in paths if hashlib.sha256(path.read_bytes()).hexdigest() not in scenes]
    if not kept and paths:
        raise UsageError(f"{paths[0].parent}: all pictures are test scenes of rain; give others")
    return kept


def training_pictures(paths: list[Path], config: TrainConfig) -> list[np.ndarray]:
    """Pictures, generated scenes and smaller copies to take crops from, (C, H, W), uint8."""
    pictures = read_pictures(paths, config.channels, config.patch)
    generator = np.random.default_rng(config.seed)
    scenes = [structures(pictures, generator) for _ in range(config.scenes)]
    return pictures + scenes + smaller_copies(pictures, config.scales, config.patch)


def summary_of(paths: list[Path]) -> str:
    return f"{len(paths)} pictures, fingerprint {fingerprint(paths)}"


def _centre(pixels: np.ndarray) -> np.ndarray:
    """Centre of a picture, (C, H, W), up to 256 x 256."""
    top, left = (max(0, (size - 256) // 2) for size in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, top : top + 256, left : left + 256])


def _single(degraded: np.ndarray, clean: np.ndarray, condition: Tensor | None = None) -> Sample:
    degraded = np.asarray(degraded, np.float32)
    return Sample(torch.from_numpy(degraded)[None], torch.from_numpy(clean)[None], condition, torch.ones(1))
