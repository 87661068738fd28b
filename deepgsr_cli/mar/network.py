"""Metal artifact reduction by an unrolled cycle: a DeepGSR network makes the image that the sinogram's metal
trace is rebuilt from, and sees the reconstruction of that again.

The cycle is that of the sinogram completion methods with a learned prior image (Yu et al., Deep sinogram
completion with image prior for metal artifact reduction in CT images, IEEE Transactions on Medical Imaging
40(1), 2021), unrolled as in InDuDoNet (Wang et al., MICCAI 2021), with one small network for all passes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepgsr_cli.ct.network import ATTENUATION_SCALE_MM
from deepgsr_cli.mar.nmar import nmar_of
from deepgsr_cli.mar.trace import interpolated, metal_trace, rebuilt
from deepgsr_cli.models import DeepGSR, DeepGSRConfig
from deepgsr_cli.models.deepgsr import config_with_prior
from deepgsr_cli.tomography.radon import Radon

# What the networks see of attenuation, in 1/mm: streaks reach beyond what tissue can be.
LOWEST_ATTENUATION, HIGHEST_ATTENUATION = -0.02, 0.1

# Four levels, as streaks cross the whole slice; groups on the second, at a quarter of the resolution.
PRIOR = DeepGSRConfig(
    conditions=2,
    widths=(32, 48, 64, 80),
    encoder=(1, 1, 1, 2),
    decoder=(1, 1, 1),
    encoder_groups=(0, 1, 0, 0),
    decoder_groups=(0, 0, 0),
    group_channels=8,
)


@dataclass(frozen=True)
class MetalReductionConfig:
    """Shape of a network for metal artifact reduction.

    Attributes:
        refinements: Number of times that the trace is rebuilt and the network sees the result.
        prior: Shape of the image network, without its channels. It is told the first pass from the others,
            and of two conditions also whether the sinogram is that of an image.
    """

    refinements: int = 1
    prior: DeepGSRConfig = PRIOR

    def __post_init__(self) -> None:
        if self.refinements < 0:
            raise ValueError(f"refinements is {self.refinements}; give 0 or more")
        if self.prior.conditions not in (1, 2):
            raise ValueError(f"the prior has {self.prior.conditions} conditions; give 1 or 2")
        prior = dataclasses.replace(self.prior, channels=4, outputs=1)
        object.__setattr__(self, "prior", prior)


METAL_PRESETS = {"small": MetalReductionConfig()}


@dataclass(frozen=True)
class MetalStart:
    """What the cycle starts from; images in 1/mm, (B, 1, H, W), without metal.

    Attributes:
        uncorrected: Filtered backprojection of the measurement.
        interpolated: Image by linear interpolation in the sinogram.
        normalised: Image by normalised metal artifact reduction.
        metal: Mask of the metal, bool, (B, 1, H, W).
        trace: Rays through it, bool, (B, 1, V, N).
        virtual: Whether the sinogram is that of an image, and nothing was measured.
    """

    uncorrected: Tensor
    interpolated: Tensor
    normalised: Tensor
    metal: Tensor
    trace: Tensor
    virtual: bool = False

    @property
    def image(self) -> Tensor:
        """The uncorrected image, metal pixels from `interpolated`."""
        return torch.where(self.metal, self.interpolated, self.uncorrected)

    def to(self, device: torch.device) -> MetalStart:
        """The same on a device."""
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in START_TENSORS})


# What `MetalStart` has of each slice.
START_TENSORS = ("uncorrected", "interpolated", "normalised", "metal", "trace")


@torch.no_grad()
def metal_start(A: Radon, y: Tensor, metal: Tensor, *, virtual: bool = False) -> MetalStart:
    """What `MetalReduction` starts from; the arguments are those of its `forward`."""
    with torch.autocast(y.device.type, enabled=False):
        trace = metal_trace(A, metal)
        x = A.fbp(interpolated(y, trace))
        return MetalStart(A.fbp(y), x, nmar_of(A, y, metal, trace, x), metal, trace, virtual)


class MetalReduction(nn.Module):
    """Unrolled cycle: x_p = b + P(x_0, s, b, metal), y_p = y with its trace rebuilt from x_p, b = FBP(y_p).

    P is a DeepGSR network, the same in all passes, told the first one from the others and, if it has two
    conditions, a measured sinogram from that of an image. x_0 is the reconstruction with its artifacts. The
    base b and the second image s are those of normalised metal artifact reduction and of linear
    interpolation at first; later, s is the x_p before. With its initial weights it is normalised metal
    artifact reduction iterated.
    """

    def __init__(self, config: MetalReductionConfig) -> None:
        super().__init__()
        self.config = config
        self.prior = DeepGSR(config.prior)

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> MetalReduction:
        """Network with random weights; fields as `config_dict` returns them, without "model"."""
        return cls(config_with_prior(MetalReductionConfig, fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "metal-reduction", **dataclasses.asdict(self.config)}

    def forward(self, A: Radon, y: Tensor, metal: Tensor, *, virtual: bool = False) -> Tensor:
        """Attenuation without metal in 1/mm, (B, 1, H, W): the last image of the network.

        Args:
            A: The operator y was measured with, in float32; its geometry may be any, also the virtual
                one that a reconstruction was projected by.
            y: Sinogram, (B, 1, V, N).
            metal: Mask of the metal, bool, (B, 1, H, W).
            virtual: Whether y is the sinogram of an image, and nothing was measured.
        """
        return self.iterates(A, y, metal_start(A, y, metal, virtual=virtual))[-1]

    def completed(self, A: Radon, y: Tensor, start: MetalStart) -> tuple[Tensor, Tensor]:
        """The last image, (B, 1, H, W), and the sinogram, (B, 1, V, N), whose metal trace is rebuilt from it.

        The sinogram is y outside the trace. Its filtered backprojection is data-consistent: all that the scan
        measured there is in it as it was. The arguments are those of `iterates`.
        """
        x = self.iterates(A, y, start)[-1]
        with torch.autocast(y.device.type, enabled=False):
            return x, completed_sinogram(A, y, start, x)

    def iterates(self, A: Radon, y: Tensor, start: MetalStart, *, unrolled: bool = True) -> list[Tensor]:
        """The network's image of every pass, `refinements` + 1 of (B, 1, H, W), in 1/mm.

        Args:
            A: Operator, as for `forward`.
            y: Sinogram, as for `forward`.
            start: Images and masks of `metal_start`.
            unrolled: Whether a pass has a gradient by the passes before it.
        """
        exact = torch.autocast(y.device.type, enabled=False)  # bfloat16 is for the network
        second, base = start.interpolated, start.normalised
        found: list[Tensor] = []
        for k in range(self.config.refinements + 1):
            if k:
                second = found[-1] if unrolled else found[-1].detach()
                with exact:
                    base = A.fbp(completed_sinogram(A, y, start, second))
            found.append(base + self._change(start, second, base, refining=k > 0))
        return found

    def _change(self, start: MetalStart, second: Tensor, base: Tensor, *, refining: bool) -> Tensor:
        """What the network adds to the base, (B, 1, H, W)."""
        images = torch.cat((start.image, second, base), dim=1)
        images = ATTENUATION_SCALE_MM * images.clamp(LOWEST_ATTENUATION, HIGHEST_ATTENUATION)
        images = torch.cat((images, start.metal.to(images)), dim=1)
        told = [float(refining), float(start.virtual)][: self.prior.config.conditions]
        condition = images.new_tensor([told])
        return self.prior.residual(images, condition).float() / ATTENUATION_SCALE_MM


# By the name in its configuration.
KINDS = {"metal-reduction": MetalReduction}


def completed_sinogram(A: Radon, y: Tensor, start: MetalStart, x: Tensor) -> Tensor:
    """Sinogram, (B, 1, V, N), with its trace rebuilt from an image of the network, x, (B, 1, H, W).

    What is negative in the image counts as zero. The other arguments are those of `MetalReduction.iterates`.
    """
    return rebuilt(A, y, start.trace, x.clamp(min=0))
