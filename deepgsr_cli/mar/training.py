"""Training of metal artifact reduction: simulated scans of slices with metal in them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepgsr_cli.ct.network import ATTENUATION_SCALE_MM
from deepgsr_cli.ct.slices import read_hu, reduced
from deepgsr_cli.ct.training import MAX_ATTENUATION, error_in_window, split_slices
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.files import fingerprint
from deepgsr_cli.mar.cases import NOMINAL_FIELD_MM, CaseScan, MetalCase, MetalCases, Setting, implanted_metal
from deepgsr_cli.mar.masks import read_shapes
from deepgsr_cli.mar.network import METAL_PRESETS, MetalReduction
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.training.losses import LOSSES, STAGES_WEIGHT
from deepgsr_cli.training.task import Sample, autocast

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


class MAR:
    """Metal artifact reduction: simulated scans of slices with metal in them, half of them known by their
    sinograms and half by their images alone. The truth is the slice itself."""

    presets = METAL_PRESETS

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        paths, held_out = split_slices(config)
        slices = [hu for path in paths for hu in read_hu(path)]
        self.held_out = [hu for path in held_out for hu in read_hu(path)]
        self.shapes = [shape for folder in config.masks for shape in read_shapes(folder)]
        self.cases = MetalCases(slices, self.shapes, config.patch, config.seed, device)
        self.summary = (
            f"{len(slices)} CT slices of {len(paths)} files, fingerprint {fingerprint(paths)};"
            f" {len(self.shapes)} metal shapes beside generated ones"
        )

    def network(self) -> nn.Module:
        shape = METAL_PRESETS[self.config.preset]
        if self.config.without_groups:
            shape = dataclasses.replace(shape, prior=shape.prior.without_groups())
        return MetalReduction(shape)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        return self._sample(self.cases(self.config.batch, generator))

    def validation(self) -> list[Sample]:
        """Slices reduced to 13/8 of the side of a case (416 of 256 pixels), with titanium of a random shape,
        by turns from the sinogram and from the image alone."""
        size = self.config.patch * 13 // 8
        scans = [
            CaseScan(size, Setting(NOMINAL_FIELD_MM, "titanium", kernel)) for kernel in (None, "ram-lak")
        ]
        samples = []
        for i, hu in enumerate(self.held_out):
            x = hu_to_attenuation(reduced(torch.from_numpy(hu), size))[None, None]
            generator = torch.Generator().manual_seed(self.config.seed + i)
            metal = implanted_metal(x, self.shapes, generator)
            samples.append(self._sample(scans[i % 2](x, metal, generator)))
        return samples

    def _sample(self, case: MetalCase) -> Sample:
        """The error of each image counts in proportion to that of normalised metal artifact reduction."""
        sample = Sample(case.sinogram, case.clean, None, torch.ones(len(case.clean)), case.operator, case)
        weight = 1 / self._errors(case.start.normalised, sample)
        return dataclasses.replace(sample, weight=weight)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """Error outside metal of the last image and, with a smaller weight, of those before it, over that of
        normalised metal artifact reduction, which has a loss of 1."""
        assert isinstance(model, MetalReduction)
        assert sample.operator is not None
        assert sample.case is not None
        with autocast(self.config, self.device):
            *passes, result = model.iterates(
                sample.operator, sample.degraded, sample.case.start, unrolled=False
            )
        loss = (self._errors(result, sample) * sample.weight).mean()
        if not passes:
            return loss
        before = torch.stack([(self._errors(x, sample) * sample.weight).mean() for x in passes]).mean()
        return (loss + STAGES_WEIGHT * before) / (1 + STAGES_WEIGHT)

    def _errors(self, x: Tensor, sample: Sample) -> Tensor:
        """Errors of images outside metal, (B,), where water is about 1."""
        assert sample.case is not None
        x = torch.where(sample.clean > 0, x, x.clamp(min=0))  # in air, nothing is less than air
        error = error_in_window(x, sample.clean) * ~sample.case.metal
        return LOSSES[self.config.loss](ATTENUATION_SCALE_MM * error)

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        """Outside metal, in the window of attenuation from 0 to 0.05 / mm."""
        assert isinstance(model, MetalReduction)
        assert sample.operator is not None
        assert sample.case is not None
        start = sample.case.start.to(self.device)
        x = model.iterates(sample.operator, sample.degraded.to(self.device), start)[-1].cpu()
        outside = (t[~sample.case.metal].numpy().clip(0, MAX_ATTENUATION) for t in (x, sample.clean))
        return psnr(*outside, peak=MAX_ATTENUATION)
