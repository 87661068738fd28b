"""Reconstruction of sparse-view CT by an unrolled iteration: steps of filtered backprojection, each followed
by a DeepGSR network.

The iteration is that of the learned unrolled methods (Chen et al., LEARN, IEEE Transactions on Medical
Imaging 37(6), 2018; Shi et al., PromptCT, 2023), with filtered backprojection of the residual where they take
the gradient, its transpose: one step goes where dozens of gradient steps would.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepgsr_cli.models import DeepGSR, DeepGSRConfig
from deepgsr_cli.models.deepgsr import config_with_prior
from deepgsr_cli.tomography.radon import Radon

# Attenuation times this, in mm, is what the networks see: water is about 1.
ATTENUATION_SCALE_MM = 50.0
# Size of the slices that numbers of views and photons are meant for.
NOMINAL_SIZE = 512
# At these, the condition's entries are one half.
MIDDLE_VIEWS, MIDDLE_PHOTONS = 90, 1e5
# Training starts from this step for many views, and less for few. The norm of FBP after A is about 1.9 times
# the pixels across the slice over the views (measured, 5 to 90 views of 128 x 128 pixels), and a larger step
# than two over it would let the iteration diverge before the networks have learned anything.
INITIAL_STEP = 0.25


def ct_condition(num_views: int, photons: float | None, size: int = NOMINAL_SIZE) -> Tensor:
    """What the networks are told of a scan, (1, 2): sparsity of the views and noise, both within [0, 1].

    Logistic functions of the logarithms of views and photons, for a slice of 512 x 512 pixels. Another size
    counts as the scan of 512 x 512 pixels that is alike pixel by pixel: with as many views per pixel across
    the slice, and as much noise in a pixel of the filtered backprojection.

    Args:
        num_views: Views over a turn.
        photons: Photons a ray without attenuation, None for a scan without noise.
        size: Pixels across the slice, the larger of rows and columns.
    """
    scale = NOMINAL_SIZE / size
    sparsity = 1 / (1 + scale * num_views / MIDDLE_VIEWS)
    noise = 0.0 if photons is None else 1 / (1 + math.sqrt(scale * photons / MIDDLE_PHOTONS))
    return torch.tensor([[sparsity, noise]], dtype=torch.float32)


# Three levels for little, as streaks are long; groups on the second, at a quarter of the resolution.
PRIOR = DeepGSRConfig(
    widths=(32, 32, 48),
    encoder=(2, 1, 1),
    decoder=(2, 1),
    encoder_groups=(0, 1, 0),
    decoder_groups=(0, 0),
    group_channels=8,
)


@dataclass(frozen=True)
class UnrolledConfig:
    """Shape of an unrolled network.

    Attributes:
        stages: Steps that a network follows.
        shared: Whether one network follows them all; it is then told the stage.
        prior: Shape of a stage's network, without its channels and conditions.
    """

    stages: int = 4
    shared: bool = False
    prior: DeepGSRConfig = PRIOR

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages is {self.stages}; give 1 or more")
        prior = dataclasses.replace(self.prior, channels=2, outputs=1, conditions=3 if self.shared else 2)
        object.__setattr__(self, "prior", prior)


UNROLLED_PRESETS = {"small": UnrolledConfig()}


class Unrolled(nn.Module):
    """Unrolled iteration, x <- x + eta_k r + P_k(x, r) with r = FBP(y - A x), from x = FBP(y).

    P_k are DeepGSR networks that see the image and the filtered residual. The steps eta_k depend on the
    condition. A last step has no network, so that nothing stands between the result and the data.
    """

    def __init__(self, config: UnrolledConfig) -> None:
        super().__init__()
        self.config = config
        count = 1 if config.shared else config.stages
        self.priors = nn.ModuleList(DeepGSR(config.prior) for _ in range(count))
        self.step = nn.Linear(2, config.stages + 1)
        with torch.no_grad():
            self.step.weight.copy_(torch.tensor([-INITIAL_STEP, 0.0]))  # the sparsity, the noise
            self.step.bias.fill_(INITIAL_STEP)

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> Unrolled:
        """Network with random weights; fields as `config_dict` returns them, without "model"."""
        return cls(config_with_prior(UnrolledConfig, fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "unrolled", **dataclasses.asdict(self.config)}

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that `forward` takes at its peak for a pixel of a slice, roughly."""
        prior = self.priors[0]
        assert isinstance(prior, DeepGSR)
        return prior.bytes_per_pixel + 4 * self.config.stages

    def forward(self, A: Radon, y: Tensor, condition: Tensor) -> Tensor:
        """Attenuation in 1/mm, (B, 1, H, W).

        Args:
            A: The operator y was measured with, in float32; its geometry may be any.
            y: Sinogram, (B, 1, V, N).
            condition: (B, 2), or (1, 2) for all, of `ct_condition`.
        """
        return self.iterates(A, y, condition)[-1]

    def iterates(self, A: Radon, y: Tensor, condition: Tensor) -> list[Tensor]:
        """Attenuation after each stage and after the last step, `stages` + 1 of (B, 1, H, W).

        The arguments are those of `forward`.
        """
        stages = self.config.stages
        steps = self.step(condition).float()[..., None, None, None]  # (B or 1, stages + 1, 1, 1, 1)
        exact = torch.autocast(y.device.type, enabled=False)  # bfloat16 is for the networks
        with exact:
            x = A.fbp(y)
        found = []
        for k in range(stages + 1):
            with exact:
                r = A.fbp(y - A(x))
            change = steps[:, k] * r
            if k < stages:
                images = ATTENUATION_SCALE_MM * torch.cat((x, r), dim=1)
                change = change + self._prior(k, images, condition) / ATTENUATION_SCALE_MM
            x = x + change
            found.append(x)
        return found

    def _prior(self, stage: int, images: Tensor, condition: Tensor) -> Tensor:
        """What the network of a stage, counted from 0, adds, (B, 1, H, W); images are (B, 2, H, W)."""
        if self.config.shared:
            progress = torch.full_like(condition[:, :1], stage / self.config.stages)
            condition, stage = torch.cat((condition, progress), dim=1), 0
        prior = self.priors[stage]
        assert isinstance(prior, DeepGSR)
        return prior.residual(images, condition)


# By the name in its configuration.
KINDS = {"unrolled": Unrolled}
