"""Methods of metal artifact reduction: images and sinograms in, images out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number
from deepgsr_cli.compute.precision import autocast, check_precision, settled
from deepgsr_cli.ct.methods import gaussian_blur, no_weights
from deepgsr_cli.errors import OptionError, check_text
from deepgsr_cli.mar.network import KINDS, MetalReduction, metal_start
from deepgsr_cli.mar.nmar import linear_interpolation, nmar
from deepgsr_cli.mar.trace import METAL_HU
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import AskedPrecision
    from deepgsr_cli.weights.load import Loaded


TASK = "mar"
METHODS = ("deepgsr", "li", "nmar")
NAMES = {"deepgsr": "DeepGSR", "li": "LI", "nmar": "NMAR"}
# Of the network's image in a result from a sinogram; the rest is the reconstruction whose metal trace was
# rebuilt from it. That one is near the scan without metal, with the noise and the ringing of one; the image
# is near the slice. Over ten scans of patients that the last training held out, the mixture was 1.3 dB nearer
# to the slice than the reconstruction, and 4.1 dB nearer to the scan without metal than the image.
IMAGE_SHARE = 0.4
# Where the image alone is known, the network's stands near changes only: half of it where their root mean
# square over so many pixels is so many HU, and hardly any of it at a third of that, as it smooths texture,
# too. Over ten scans of such patients each, by the filters ram-lak and hann, the result was 1.8 and 0.3 dB
# nearer to the slice than the reconstruction, and 2.5 and 0.5 dB to the scan without metal.
_CHANGE_HU, _CHANGE_WIDTH_PX = 11.0, 3.0
# Below is bone, and above is no CT number that scanners store.
LEAST_METAL_HU, MOST_METAL_HU = 1000.0, 30000.0


def check_threshold(name: str, threshold_hu: float) -> None:
    """Refuse CT numbers that no threshold of metal has.

    Args:
        name: Name of the argument.
        threshold_hu: Its value.

    Raises:
        OptionError: It is out of range.
    """
    if not LEAST_METAL_HU <= threshold_hu <= MOST_METAL_HU:
        advice = f"give {LEAST_METAL_HU:g} to {MOST_METAL_HU:g} HU; bone reaches about 2000"
        raise OptionError(name, threshold_hu, advice, flag="--metal-threshold")


@dataclass(frozen=True)
class MetalMethod:
    """A way of metal artifact reduction and its settings.

    Attributes:
        name: Name of the method, one of `METHODS`.
        threshold_hu: Above is metal, where no mask says what is.
        keep_metal: Whether metal keeps its values; else it gets those the method has there.
        precision: Arithmetic of the network; of "auto" `compute.precision.settled` tells.
    """

    name: str = "deepgsr"
    threshold_hu: float = METAL_HU
    keep_metal: bool = True
    precision: AskedPrecision = "fp32"

    def __post_init__(self) -> None:
        check_text("method", self.name, f"known are {', '.join(METHODS)}")
        if self.name not in METHODS:
            raise OptionError("method", self.name, f"known are {', '.join(METHODS)}")
        object.__setattr__(self, "threshold_hu", as_number("threshold_hu", self.threshold_hu))
        check_threshold("threshold_hu", self.threshold_hu)
        check_precision(self.precision)

    def describe(self) -> str:
        """The method and the settings it has, in a few words."""
        said = self.name == "deepgsr" and self.precision != "auto"
        return f"{self.name}, {self.precision}" if said else self.name

    def reduction(
        self, model: torch.nn.Module | None = None, *, virtual: bool = False
    ) -> Callable[[Radon, Tensor, Tensor], Tensor]:
        """What makes attenuation without metal, (B, 1, H, W), of an operator, a sinogram and the metal.

        Args:
            model: For "deepgsr", of `load_network`.
            virtual: Whether the sinogram is that of an image, to which the correction is added. The network's
                image then has its share only where rebuilding the metal's trace changes something. Else it
                has a share of `IMAGE_SHARE` everywhere.
        """
        if self.name != "deepgsr":
            return {"li": linear_interpolation, "nmar": nmar}[self.name]
        assert isinstance(model, MetalReduction)
        network, precision = model, self.precision

        def reduce(A: Radon, y: Tensor, metal: Tensor) -> Tensor:
            with torch.no_grad():
                with autocast(y.device, settled(precision, y.device)):
                    start = metal_start(A, y, metal, virtual=virtual)
                    x, completed = network.completed(A, y, start)
                consistent = A.fbp(completed)
                if not virtual:
                    return torch.lerp(consistent, x, IMAGE_SHARE)
                return torch.lerp(consistent, x, _share_near(consistent - start.uncorrected))

        return reduce


def _share_near(change: Tensor) -> Tensor:
    """Share of the network's image near a change in 1/mm, (B, 1, H, W): from almost 0 to almost 1."""
    strength = gaussian_blur(change.square(), _CHANGE_WIDTH_PX).square()
    least = _CHANGE_HU / 1000 * WATER_ATTENUATION
    return strength / (strength + least**4)


def load_network(weights: str | None, device: str, *, offline: bool) -> Loaded[MetalReduction]:
    """Load the network of "deepgsr".

    Raises:
        WeightsError: As `load.load`.
        MissingWeightsError: There are no default weights.
        OptionError: The weights are for another task.
    """
    from deepgsr_cli.weights.load import load

    missing = no_weights(TASK, METHODS)
    return load(TASK, weights, KINDS, device=device, offline=offline, missing=missing)
