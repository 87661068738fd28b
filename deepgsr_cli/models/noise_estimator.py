"""A small network that tells what noise is in a picture: how strong, and of which kind.

Where a picture is flat its noise is plain to see, where it has texture it is not. So the picture is cut into
cells of 8 x 8 pixels, and means over the cells are taken with weights that a network learns: of the energy in
wavelet bands, and of features of its own. Coarse noise is looked for in differences of colours, where
pictures have little texture. What these means come to is judged at once, for all of the picture: a cell alone
cannot tell white noise from noise that is a little correlated, a thousand can. Levels are the energy of the
finest diagonal band, as the median estimator has it, times what the network corrects.

Sources:
    Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81(3), 1994: the finest
    diagonal band. Liu, Tanaka and Okutomi, Single-image noise level estimation for blind denoising, IEEE
    Transactions on Image Processing 22(12), 2013, and Chen, Zhu and Heng, An efficient statistical method for
    image noise level estimation, ICCV 2015: weakly textured patches. Guo et al., Toward convolutional blind
    denoising of real photographs, CVPR 2019: noise of cameras, estimated by a small network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepgsr_cli.models.wavelets import dwt2

# Pixels on a side of a cell, of which the sides of a picture must be multiples.
CELL = 8
# Means that are taken with other weights each, and features of the network's own in a mean.
_MEANS, _FEATURES = 8, 20
# Of a cell: logarithms of the energy in three bands of two scales of three channels, the three means, and
# such energies of two differences of colours at the second scale, and of these and the gray at the third.
_KNOWN = 36
# Standard deviation of a band, on the [0, 1] scale, that counts as none: that of rounding to 8 bits.
_NONE = 0.29 / 255


class Estimate(NamedTuple):
    """What noise there is in pictures.

    Attributes:
        sigma: Standard deviation by channel, as before clipping and JPEG, on the 0-255 scale, (B, 3).
        level: Root mean square of all that differs from the clean picture, on the 0-255 scale, (B,).
        noisy: Logit of there being noise, (B,), as those below.
        correlated: Logit of noise that is another at each frequency.
        dependent: Logit of noise that grows with the light.
    """

    sigma: Tensor
    level: Tensor
    noisy: Tensor
    correlated: Tensor
    dependent: Tensor


class NoiseEstimator(nn.Module):
    """Network that tells what noise is in pictures, 92,000 parameters at the default widths.

    Args:
        widths: Channels at a half, a quarter and an eighth of the pictures' resolution.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 40, 64)) -> None:
        super().__init__()
        self.widths = widths
        first, second, third = widths
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(24, first, 3, padding=1),
                nn.Conv2d(first, second, 3, stride=2, padding=1),
                nn.Conv2d(second, third, 3, stride=2, padding=1),
                nn.Conv2d(third, second, 3, padding=1),
            ]
        )
        self.cell = nn.Conv2d(second, _MEANS + _FEATURES, 1)
        self.judge = nn.Sequential(
            nn.Linear(_MEANS * (_KNOWN + _FEATURES), 64),
            nn.ReLU(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Linear(32, 7),
        )

    def forward(self, x: Tensor) -> Estimate:
        """What noise is in pictures, (B, 3, H, W) in [0, 1], H and W multiples of `CELL`."""
        return self.judged(self.cells(x).flatten(2))

    def cells(self, x: Tensor) -> Tensor:
        """Of each cell its weights, as logarithms, and what is known of it, (B, 64, H / 8, W / 8)."""
        bands = dwt2(x - 0.5)  # (B, 3, 4, H / 2, W / 2)
        # Weak noise and strong edges differ a hundred times: a logarithm brings them together.
        y = torch.cat((bands, (255 * bands).asinh() / 4), dim=2).flatten(1, 2)
        for layer in self.layers:
            y = F.relu(layer(y))
        coarse = dwt2(bands[:, :, 0])
        gray, green = coarse.mean(1, keepdim=True), coarse[:, 1:2]
        colours = torch.cat((gray, coarse[:, ::2] - green), dim=1)
        coarsest = dwt2(colours[:, :, 0])
        fine, medium, differences, last = (
            (F.avg_pool2d(part[:, :, 1:].flatten(1, 2).square(), size) + _NONE**2).log() / 2
            for part, size in ((bands, 4), (coarse, 2), (colours[:, 1:], 2), (coarsest, 1))
        )
        return torch.cat((self.cell(y), fine, medium, F.avg_pool2d(x, CELL), differences, last), dim=1)

    def judged(self, cells: Tensor) -> Estimate:
        """What all cells of a picture, (B, 64, cells), come to."""
        return self.of_means(self.means(cells))

    def means(self, cells: Tensor) -> Tensor:
        """Weighted means over cells, (B, 64, cells), of what is known of them: (B, 8, 56)."""
        weights, features = cells.split((_MEANS, _FEATURES + _KNOWN), dim=1)
        return weights.softmax(-1) @ features.mT

    def of_means(self, means: Tensor) -> Estimate:
        """What the means come to; the energies of the finest diagonal bands are levels, to be corrected."""
        diagonal = means[:, 0, _FEATURES + 2 : _FEATURES + 9 : 3]  # (B, 3)
        corrections = self.judge(means.flatten(1))
        sigma = 255 * (diagonal + corrections[:, :3]).exp()
        level = 255 * (diagonal.logsumexp(1) - math.log(3) + corrections[:, 3]).exp()
        return Estimate(sigma, level, *corrections[:, 4:].unbind(1))

    def config_dict(self) -> dict[str, Any]:
        return {"model": "noise-estimator", "widths": list(self.widths)}

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> NoiseEstimator:
        """Network of a configuration's fields; ValueError for unknown ones."""
        if set(fields) != {"widths"} or len(fields["widths"]) != 3:
            raise ValueError(f"its fields are {', '.join(sorted(fields))}, not widths, three numbers")
        return cls(tuple(fields["widths"]))
