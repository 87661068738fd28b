"""Objects wider than the detector sees: recognised by its ends, and continued as water beyond them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import Geometry

# A view is cut off where the mean of its last bins is above this, and above this share of the largest values.
_END_BINS, _LEAST_INTEGRAL, _LEAST_SHARE = 3, 0.1, 0.05
# So many of the views must be: fewer are noise.
_LEAST_VIEWS = 0.02
# The shape of the object is read off an eighth of the bins, at each end.
_FITTED = 8
# The slice grows in steps, so that slices of a scan share an operator, and to three times its side at most.
_STEP_PX, _NEAREST_SOURCE = 32, 0.9


@dataclass(frozen=True)
class WholeScan:
    """A scan with what its detector did not see; as it is, if it saw all.

    Attributes:
        geometry: Of the scan with a wider detector, and of a slice that holds all of the object.
        y: Sinogram, (B, 1, V, N'), of the wider detector.
        before: Bins that were added at the beginning.
        margin: Pixels, (rows, columns), that were added on each side of the slice.
        share: Views that cut off the object, of all.
        seen_mm: Diameter of the disk that every view sees.
    """

    geometry: Geometry
    y: Tensor
    before: int
    margin: tuple[int, int]
    share: float
    seen_mm: float

    def padded(self, image: Tensor) -> Tensor:
        """An image of the slice, (B, 1, H, W), with zeros around it, as large as what holds all."""
        rows, columns = self.margin
        return F.pad(image, (columns, columns, rows, rows))

    def measured(self, y: Tensor, num_bins: int) -> Tensor:
        """The bins there are, (B, 1, V, N), of a sinogram of the wider detector."""
        return y[..., self.before : self.before + num_bins]

    def cropped(self, x: Tensor) -> Tensor:
        """The slice, (B, 1, H, W), within the one that holds all of the object."""
        rows, columns = self.margin
        return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]

    @property
    def note(self) -> str:
        """What there is to know, in words; empty if the detector saw all."""
        if not self.share:
            return ""
        return (
            f"the object is wider than the detector sees in {self.share:.0%} of the views; it is taken to go"
            f" on as water, and values are less sure, the more so beyond {self.seen_mm / 2:.0f} mm from the"
            " isocentre"
        )


def whole_scan(y: Tensor, geometry: Geometry) -> WholeScan:
    """Continue a sinogram, (B, 1, V, N), beyond the detector's ends where they cut off the object.

    At each end each view goes on as that of a disk of water which has its value and its slope there.

    Args:
        y: Line integrals.
        geometry: Of the scan.

    Source:
        Hsieh et al., A novel reconstruction algorithm to extend the CT scan field-of-view, Medical Physics
        31(9), 2004, eq. 4 to 6. Mirrored values (Ohnesorge et al., Medical Physics 27(1), 2000) leave 30 to
        80 HU in water, these 10 (ellipses of 60 to 110 mm, 60 to 75 % of which are seen).
    """
    reach_mm = _reaches_mm(geometry)
    # The narrow side of a shifted detector ends within the object, where opposite rays make up for it.
    counted = [reach == max(reach_mm) or abs(geometry.offset_bins) <= 2 for reach in reach_mm]
    largest = float(y.quantile(0.99)) if y.numel() < 2**24 else float(y.max())
    least = max(_LEAST_INTEGRAL, _LEAST_SHARE * largest)
    cut = [_end_values(side) > least for side in (y.flip(-1), y)]
    share = [float(views.float().mean()) if known else 0.0 for views, known in zip(cut, counted)]
    if max(share) < _LEAST_VIEWS:
        return WholeScan(geometry, y, 0, (0, 0), 0.0, 2 * min(reach_mm))
    iso_mm = geometry.bin_mm / geometry.magnification
    tails, radius_mm = [], 0.0
    for side, part, reach in zip((y.flip(-1), y), share, reach_mm):
        tail = _water_tail(side, iso_mm) if part >= _LEAST_VIEWS else side[..., :0]
        tails.append(tail)
        filled = int((tail > 0).any(0).any(0).any(0).sum())
        radius_mm = max(radius_mm, reach + filled * iso_mm)
    before, after = tails[0].shape[-1], tails[1].shape[-1]
    wide = torch.cat((tails[0].flip(-1), y, tails[1]), dim=-1)
    margin = _margin(geometry, radius_mm)
    shape = geometry.shape[0] + 2 * margin[0], geometry.shape[1] + 2 * margin[1]
    widened = replace(geometry.padded(before, after), shape=shape)
    return WholeScan(widened, wide, before, margin, max(share), 2 * min(reach_mm))


def _reaches_mm(geometry: Geometry) -> tuple[float, float]:
    """Distance from the isocentre, in mm, of the first and of the last bin's ray."""
    first, last = geometry.bin_positions_mm()[[0, -1]]
    if geometry.kind != "parallel":
        first, last = geometry.source_mm * torch.tensor(geometry.fan_angles_rad()[[0, -1]]).sin().numpy()
    return -float(first), float(last)


def _end_values(y: Tensor) -> Tensor:
    """Means of the last bins of each view and its neighbours, (B, V)."""
    ends = y[..., -_END_BINS:].mean(-1)  # (B, 1, V)
    if ends.shape[-1] < _END_BINS:
        return ends[:, 0]
    return F.avg_pool1d(ends, _END_BINS, 1, _END_BINS // 2, count_include_pad=False)[:, 0]


def _water_tail(y: Tensor, bin_mm: float) -> Tensor:
    """What follows the last bin of each view, (B, 1, V, N): as many bins, chords of a disk of water.

    Chords are 2 sqrt(R² - (s - c)²), so their squares over four, plus s², are a line in s, the distance from
    the last bin: its value there is R² - c², its slope 2 c.
    """
    num_bins = y.shape[-1]
    count = min(num_bins, max(4, num_bins // _FITTED))
    at = bin_mm * torch.arange(1 - count, 1, dtype=y.dtype, device=y.device)
    squares = (y[..., -count:].clamp(min=0) / (2 * WATER_ATTENUATION)) ** 2 + at**2
    slope = (squares * (at - at.mean())).sum(-1, keepdim=True) / ((at - at.mean()) ** 2).sum()
    end = (y[..., -_END_BINS:].mean(-1, keepdim=True).clamp(min=0) / (2 * WATER_ATTENUATION)) ** 2
    beyond = bin_mm * torch.arange(1, num_bins + 1, dtype=y.dtype, device=y.device)
    # The centre of the disk is within the detector, or it would not end.
    inside = end + slope.clamp(max=0) * beyond - beyond**2
    return 2 * WATER_ATTENUATION * inside.clamp(min=0).sqrt()


def _margin(geometry: Geometry, radius_mm: float) -> tuple[int, int]:
    """Pixels to add on each side, of the rows and of the columns, to reach so far from the isocentre."""
    if geometry.kind != "parallel":
        radius_mm = min(radius_mm, _NEAREST_SOURCE * geometry.source_mm / math.sqrt(2))
    lacking = [radius_mm / d - n / 2 for n, d in zip(geometry.shape, geometry.pixel_mm)]
    steps = [math.ceil(max(0.0, px) / _STEP_PX) * _STEP_PX for px in lacking]
    rows, columns = (min(px, n) for px, n in zip(steps, geometry.shape))
    return rows, columns
