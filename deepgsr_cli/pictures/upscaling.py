"""Training of a network that enlarges pictures, at all its scales at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.errors import OptionError
from deepgsr_cli.evaluation.metrics import luma_inside, psnr
from deepgsr_cli.models import NSR
from deepgsr_cli.pictures.resampling import RIM, clean_part, resized
from deepgsr_cli.pictures.training import PictureSample, PictureTraining
from deepgsr_cli.training.losses import LOSSES

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


class UpscaleTraining(PictureTraining):
    """Pictures reduced on the fly: a batch has an equal part for each scale, of one size after reduction.

    The network so sees one batch, whose shape never changes, and a step is an example of each scale.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        scales = self.task.scales
        if config.batch < len(scales):
            raise OptionError("batch", config.batch, f"give {len(scales)} or more, one for each scale")
        if (least := max(scales) * (2 * RIM + 1)) > config.patch:
            raise OptionError("patch", config.patch, f"give {least} or more, of which enough is left reduced")

    def loss(self, model: nn.Module, sample: PictureSample) -> Tensor:
        assert isinstance(model, NSR)
        with autocast(self.device, self.config.precision):
            planes = model(sample.degraded)
        side, scales = sample.degraded.shape[-1], self.task.scales
        parts = zip(scales, planes.float().tensor_split(len(scales)), sample.clean.tensor_split(len(scales)))
        errors = [
            model.shuffled(part, scale) - clean_part(crops, scale, side) for scale, part, crops in parts
        ]
        return torch.cat([LOSSES[self.config.loss](error) for error in errors]).mean()

    def psnr(self, model: nn.Module, sample: PictureSample) -> float:
        assert isinstance(model, NSR)
        scale = _scale_of(sample)
        return _mean_psnr(model.enlarge(sample.degraded.to(self.device), scale), sample.clean, scale)

    def psnr_given(self, sample: PictureSample) -> float:
        scale = _scale_of(sample)
        height, width = (scale * length for length in sample.degraded.shape[-2:])
        return _mean_psnr(resized(sample.degraded, height, width), sample.clean, scale)


def _scale_of(sample: PictureSample) -> int:
    """Scale that pictures to validate on were reduced by."""
    return sample.clean.shape[-1] // sample.degraded.shape[-1]


def _mean_psnr(enlarged: Tensor, clean: Tensor, scale: int) -> float:
    """Mean PSNR in dB of `luma_inside` of pictures, (B, 3, H, W), whose clean version may be larger."""
    height, width = enlarged.shape[-2:]
    pairs = zip(enlarged.cpu().numpy(), clean[..., :height, :width].numpy())
    return float(np.mean([psnr(luma_inside(x, scale), luma_inside(y, scale)) for x, y in pairs]))
