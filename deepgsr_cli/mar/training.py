"""Training of metal artifact reduction: simulated scans of slices with metal in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.ct.figures import PEAK_ATTENUATION
from deepgsr_cli.ct.network import ATTENUATION_SCALE_MM
from deepgsr_cli.ct.slices import read_hu, reduced
from deepgsr_cli.ct.training import error_in_window, split_slices
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.files import named
from deepgsr_cli.mar.cases import NOMINAL_FIELD_MM, CaseScan, MetalCase, MetalCases, Setting, implanted_metal
from deepgsr_cli.mar.masks import read_shapes
from deepgsr_cli.mar.network import METAL_PRESETS, MetalReduction, completed_sinogram
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.training.losses import LOSSES, STAGES_WEIGHT
from deepgsr_cli.training.task import Draw, preset_of
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


@dataclass(frozen=True)
class MetalSample:
    """A case, and the errors of each of its slices that a network has to beat.

    Attributes:
        case: The slices as they are scanned.
        error: That of normalised metal artifact reduction from the truth, by the loss, (B,).
        error_from_clean: The same from the reconstruction of the scan without metal.
    """

    case: MetalCase
    error: Tensor
    error_from_clean: Tensor

    @property
    def clean(self) -> Tensor:
        """What an image should be, in 1/mm, (B, 1, H, W)."""
        return self.case.truth


class MAR:
    """Metal artifact reduction: simulated scans of slices with metal in them, half of them known by their
    sinograms and half by their images alone. The image of the network learns the truth of the cases; the
    sinogram whose metal trace is rebuilt from it, the scan without metal, both as they are reconstructed.
    """

    given = "normalised metal artifact reduction"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shape = preset_of(config, METAL_PRESETS)
        paths, held_out = split_slices(config)
        slices = [hu for path in paths for hu in read_hu(path)]
        self.held_out = [hu for path in held_out for hu in read_hu(path)]
        self.shapes = [shape for folder in config.masks for shape in read_shapes(folder)]
        self.cases = MetalCases(slices, self.shapes, config.patch, config.seed, device)
        self.summary = (
            f"{counted(len(slices), 'CT slice')} of {named(paths, 'file')};"
            f" {counted(len(self.shapes), 'metal shape')} beside generated ones"
        )

    def network(self) -> nn.Module:
        return MetalReduction(self.shape)

    def sample(self, draw: Draw) -> MetalSample:
        return self._sample(self.cases(self.config.batch, draw.cpu, draw.step))

    def validation(self) -> list[MetalSample]:
        """Slices reduced to 13/8 of the side of a case (416 of 256 pixels), with titanium of a random shape,
        by turns from the sinogram and from the image alone."""
        size = self.config.patch * 13 // 8
        scans = [
            CaseScan(size, Setting(NOMINAL_FIELD_MM, ("titanium",), kernel)) for kernel in (None, "ram-lak")
        ]
        samples = []
        for i, hu in enumerate(self.held_out):
            x = hu_to_attenuation(reduced(torch.from_numpy(hu), size))[None, None]
            generator = torch.Generator().manual_seed(self.config.seed + i)
            metal = implanted_metal(x, self.shapes, generator)
            samples.append(self._sample(scans[i % 2](x, metal, generator)))
        return samples

    def _sample(self, case: MetalCase) -> MetalSample:
        nmar = case.start.normalised
        return MetalSample(case, *(self._errors(nmar, case, t) for t in (case.truth, case.clean)))

    def loss(self, model: nn.Module, sample: MetalSample) -> Tensor:
        """Errors outside metal, over those of normalised metal artifact reduction, which has a loss of 1; of
        the psnr loss, a logarithm, 0.

        The mean of those of the last image and of the reconstruction whose metal trace is rebuilt from it,
        and, with a smaller weight, of the images before it.
        """
        assert isinstance(model, MetalReduction)
        case = sample.case
        A, y, start = case.operator, case.sinogram, case.start
        with autocast(self.device, self.config.precision):
            *passes, result = model.iterates(A, y, start, unrolled=False)
        consistent = A.fbp(completed_sinogram(A, y, start, result))
        loss = (self._loss_of_image(result, sample) + self._loss_of_sinogram(consistent, sample)) / 2
        if not passes:
            return loss
        before = torch.stack([self._loss_of_image(x, sample) for x in passes]).mean()
        return (loss + STAGES_WEIGHT * before) / (1 + STAGES_WEIGHT)

    def _loss_of_image(self, x: Tensor, sample: MetalSample) -> Tensor:
        return self._relative(self._errors(x, sample.case, sample.case.truth), sample.error)

    def _loss_of_sinogram(self, x: Tensor, sample: MetalSample) -> Tensor:
        """That of the sinogram that x is the filtered backprojection of."""
        return self._relative(self._errors(x, sample.case, sample.case.clean), sample.error_from_clean)

    def _relative(self, error: Tensor, to_beat: Tensor) -> Tensor:
        return (error - to_beat if self.config.loss == "psnr" else error / to_beat).mean()

    def _errors(self, x: Tensor, case: MetalCase, expected: Tensor) -> Tensor:
        """Errors of images outside metal, (B,), where water is about 1."""
        x = torch.where(expected > 0, x, x.clamp(min=0))  # in air, nothing is less than air
        error = error_in_window(x, expected.clamp(min=0)) * ~case.metal
        return LOSSES[self.config.loss](ATTENUATION_SCALE_MM * error)

    def psnr(self, model: nn.Module, sample: MetalSample) -> float:
        """Outside metal, in the window of attenuation from 0 to 0.05 / mm."""
        assert isinstance(model, MetalReduction)
        case = sample.case
        y, start = case.sinogram.to(self.device), case.start.to(self.device)
        return _psnr_outside_metal(model.iterates(case.operator, y, start)[-1], case)

    def psnr_given(self, sample: MetalSample) -> float:
        return _psnr_outside_metal(sample.case.start.normalised, sample.case)


def _psnr_outside_metal(x: Tensor, case: MetalCase) -> float:
    outside = (t[~case.metal].numpy().clip(0, PEAK_ATTENUATION) for t in (x.cpu(), case.truth))
    return psnr(*outside, peak=PEAK_ATTENUATION)
