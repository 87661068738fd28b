"""Training of phase retrieval: coded diffraction patterns of pictures, of random masks and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.errors import InputError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.formats.image import read_channels
from deepgsr_cli.formats.resize import resized_in_8_bits
from deepgsr_cli.phase.diffraction import MASK_KINDS, Diffraction, coded_masks
from deepgsr_cli.phase.network import UNROLLED_PHASE_PRESETS, UnrolledPhase, phase_condition
from deepgsr_cli.phase.noise import PhaseNoise, alpha_noise, snr_noise, snr_sigma
from deepgsr_cli.pictures.dataset import Crops
from deepgsr_cli.pictures.training import split_pictures, summary_of, training_pictures
from deepgsr_cli.training.losses import LOSSES, STAGES_WEIGHT
from deepgsr_cli.training.task import Draw, preset_of

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


MOST_MASKS = 4
# Noise levels to train on: alpha for pictures in [0, 255], and SNR in dB.
LOWEST_ALPHA, HIGHEST_ALPHA = 3.0, 120.0
LOWEST_SNR_DB, HIGHEST_SNR_DB = 5.0, 35.0


def random_operator(size: int, generator: torch.Generator) -> Diffraction:
    """Operator of 1 to 4 random masks of one kind, for pictures of `size` x `size` pixels.

    One binary mask is left out: half of its pattern is the other half again.
    """
    kind = MASK_KINDS[int(torch.randint(len(MASK_KINDS), (), generator=generator))]
    fewest = 2 if kind == "binary" else 1
    count = int(torch.randint(fewest, MOST_MASKS + 1, (), generator=generator))
    return Diffraction(coded_masks(kind, count, (size, size), generator))


def random_noise(generator: torch.Generator) -> PhaseNoise:
    """Noise of either kind, its level even in the logarithm."""
    kind, level = torch.rand(2, generator=generator).tolist()
    if kind < 0.5:
        return PhaseNoise(alpha=LOWEST_ALPHA * (HIGHEST_ALPHA / LOWEST_ALPHA) ** level)
    return PhaseNoise(snr_db=LOWEST_SNR_DB + level * (HIGHEST_SNR_DB - LOWEST_SNR_DB))


def measure(
    A: Diffraction, x: Tensor, noises: list[PhaseNoise], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Magnitudes, (B, J, M, N), and conditions of the network, (B, 3), of pictures in [0, 1], (B, 1, H, W).

    Args:
        A: The operator.
        x: Pictures.
        noises: Of each picture.
        generator: On the CPU.
    """
    z, magnitudes, conditions = A(x), [], []
    for i, noise in enumerate(noises):
        if noise.alpha is not None:
            alpha, sigma = noise.alpha / 255, 0.0
            intensity = alpha_noise(z[i : i + 1], alpha, generator)
        else:
            alpha, sigma = 0.0, float(snr_sigma(z[i : i + 1].abs().square(), noise.snr_db))
            intensity = snr_noise(z[i : i + 1], noise.snr_db, generator)
        magnitudes.append(intensity.sqrt())
        conditions.append(phase_condition(alpha, sigma, len(A.masks)))
    return torch.cat(magnitudes), torch.cat(conditions).to(x.device)


@dataclass(frozen=True)
class PhaseSample:
    """Patterns of pictures, all of one operator.

    Attributes:
        operator: From pictures to their patterns.
        magnitudes: Measured ones, (B, J, M, N).
        condition: What the network is told, (B, 3).
        clean: The pictures, (B, 1, H, W) in [0, 1].
    """

    operator: Diffraction
    magnitudes: Tensor
    condition: Tensor
    clean: Tensor


class Phase:
    """Phase retrieval: coded diffraction patterns of pictures, of random masks and noise."""

    given = "a flat picture"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shape = preset_of(config, UNROLLED_PHASE_PRESETS)
        training, self.held_out = split_pictures(config)
        self.crops = Crops(training_pictures(training, config), config.patch, device)
        self.summary = summary_of(training)

    def network(self) -> nn.Module:
        return UnrolledPhase(self.shape)

    def sample(self, draw: Draw) -> PhaseSample:
        x = self.crops(self.config.batch, draw.cpu)
        A = random_operator(self.config.patch, draw.cpu).to(x.device)
        return _measured(A, x, [random_noise(draw.cpu) for _ in x], draw.cpu)

    def validation(self) -> list[PhaseSample]:
        """Pictures reduced to twice the side of a crop behind four uniform masks, at alpha 9, 27 and 81, and
        behind one quaternary mask at an SNR of 20 dB."""
        side = 2 * self.config.patch
        samples = []
        for i, path in enumerate(self.held_out):
            x = torch.from_numpy(_square(read_channels(path, 1), side))[None]
            for kind, count, noise in VALIDATION:
                generator = torch.Generator().manual_seed(self.config.seed + i)
                A = Diffraction(coded_masks(kind, count, (side, side), generator))
                samples.append(_measured(A, x, [noise], generator))
        return samples

    def loss(self, model: nn.Module, sample: PhaseSample) -> Tensor:
        """Error of the result and, with a smaller weight, of every stage."""
        assert isinstance(model, UnrolledPhase)
        with autocast(self.device, self.config.precision):
            *stages, result = model.iterates(sample.operator, sample.magnitudes, sample.condition)
        measure_error = LOSSES[self.config.loss]
        loss = measure_error(result - sample.clean).mean()
        if not stages:
            return loss
        return (
            loss
            + STAGES_WEIGHT * torch.stack([measure_error(x - sample.clean).mean() for x in stages]).mean()
        )

    def psnr(self, model: nn.Module, sample: PhaseSample) -> float:
        A, y = sample.operator.to(self.device), sample.magnitudes.to(self.device)
        x = model(A, y, sample.condition.to(self.device)).cpu()
        return psnr(rounded8(x.numpy()), sample.clean.numpy())

    def psnr_given(self, sample: PhaseSample) -> float:
        """Of each picture's mean: what the network starts from is as flat."""
        flat = sample.clean.mean((2, 3), keepdim=True).expand_as(sample.clean)
        return psnr(rounded8(flat.numpy()), sample.clean.numpy())


def _measured(A: Diffraction, x: Tensor, noises: list[PhaseNoise], generator: torch.Generator) -> PhaseSample:
    return PhaseSample(A, *measure(A, x, noises, generator), x)


# Masks and noise that phase retrieval is validated with.
VALIDATION = (
    *(("uniform", 4, PhaseNoise(alpha=alpha)) for alpha in (9.0, 27.0, 81.0)),
    ("quaternary", 1, PhaseNoise(snr_db=20.0)),
)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Middle square of a picture, (1, H, W), reduced to a side in pixels where it is larger, (1, side, side).

    Raises:
        InputError: The picture is smaller.
    """
    size = min(pixels.shape[1:])
    if size < side:
        raise InputError(
            f"a picture to validate on has {pixels.shape[2]} x {pixels.shape[1]} pixels, less than {side}; "
            "give a smaller --patch or another --validation"
        )
    top, left = ((length - size) // 2 for length in pixels.shape[1:])
    return resized_in_8_bits(pixels[:, top : top + size, left : left + size], (side, side))
