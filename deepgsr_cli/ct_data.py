"""CT slices as training data: files, random cut-outs of them with drawn objects, and random scans.

A cut-out of 128 x 128 pixels stands for a slice of 512 x 512 that is alike pixel by pixel: the views per
pixel across it, and the noise of a pixel of its filtered backprojection, are those of the larger slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.ct_recon import SimulatedScan, noise_variance
from deepgsr_cli.dicom import AIR_HU, find_series, read_slice
from deepgsr_cli.errors import InputError
from deepgsr_cli.geometry import Geometry, sparse_view
from deepgsr_cli.models.unrolled import NOMINAL_SIZE
from deepgsr_cli.physics import WATER_ATTENUATION, Radon, hu_to_attenuation

PNG_OFFSET_HU = 1024
FEWEST_VIEWS, MOST_VIEWS = 20, 360
FEWEST_PHOTONS, MOST_PHOTONS = 2e4, 1e7

# Share of the cut-outs that are neither turned nor scaled.
_EXACT = 0.5
# Cut-outs lie in this middle part of the range they could; at a slice's rim is air.
_MIDDLE = 0.8
_MOST_OBJECTS = 6
_LARGEST_HU = 8000.0
# Scans that a run trains on, and the size up to which their matrices are kept.
_NUM_SCANS, _MATRIX_BYTES = 24, 2**28


def slice_paths(folder: Path) -> list[Path]:
    """PNG files below a folder, hidden ones left out, else DICOM files of CT; in the order of their paths.

    Raises:
        InputError: No such folder, or neither in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".png"
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if paths:
        return paths
    found = find_series(folder)
    if not found.series:
        raise found.failures[0]
    return sorted({file.path for series in found.series for file in series.slices})


def read_hu(path: Path) -> list[np.ndarray]:
    """Slices of a file in HU, (H, W), float32, -1000 or more: one of a 16-bit PNG of HU + 1024, or those of a
    DICOM file.

    Raises:
        InputError: The file cannot be read, or is a PNG of another kind.
    """
    if path.suffix.lower() != ".png":
        slices = []
        for series in find_series(path).series:
            slices += [read_slice(series, i).hu for i in range(len(series.slices))]
        return [hu.clip(AIR_HU, _LARGEST_HU) for hu in slices]
    try:
        with PIL.Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a PNG; export it again or leave it out") from error
    if not mode.startswith("I"):
        raise InputError(f"{path}: its pixels are {mode}; give 16-bit gray PNG with the value HU + 1024")
    return [(pixels.astype(np.float32) - PNG_OFFSET_HU).clip(AIR_HU, _LARGEST_HU)]


def reduced(hu: Tensor, size: int) -> Tensor:
    """Whole slice, (size, size), of a slice (H, W), filled up with air to a square and reduced by area."""
    height, width = hu.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(hu, (left, side - width - left, top, side - height - top), value=AIR_HU)
    return F.adaptive_avg_pool2d(square[None], size)[0]


class CutOuts:
    """Random square cut-outs of slices, a function of the generator alone.

    A cut-out shows a slice at its own, half or a quarter of the resolution, half of them pixel by pixel, the
    others turned and scaled. It may be cut to an ellipse, with air around; contrast varies; ellipses from air
    to metal are drawn into some.

    Args:
        slices: In HU, (H, W) each.
        size: Side of a cut-out in pixels.
        device: Where the slices are kept and the cut-outs are made.
        masked: Share of the cut-outs that are cut to an ellipse.
        with_objects: Share of those that ellipses are drawn into.
    """

    def __init__(
        self,
        slices: list[np.ndarray],
        size: int,
        device: torch.device,
        *,
        masked: float = 0.5,
        with_objects: float = 0.4,
    ) -> None:
        self.size, self.device = size, device
        self._masked, self._with_objects = masked, with_objects
        self.levels: list[list[Tensor]] = []  # of each slice, int16
        for hu in slices:
            image = torch.from_numpy(hu)[None]
            levels = [image, F.avg_pool2d(image, 2), F.avg_pool2d(image, 4)]
            self.levels.append([level[0].round().short().to(device) for level in levels])

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Attenuation in 1/mm, (batch, 1, size, size), float32.

        Args:
            batch: Number of cut-outs.
            generator: On the CPU.
        """
        return torch.stack([self._cut_out(generator) for _ in range(batch)])

    def _cut_out(self, generator: torch.Generator) -> Tensor:
        u = torch.rand(16, generator=generator).tolist()
        levels = self.levels[int(u[0] * len(self.levels))]
        levels = [level for level in levels if max(level.shape) >= self.size] or levels[:1]
        hu = levels[int(u[1] * len(levels))].float()
        turn = int(u[2] * 4) * math.pi / 2
        scale = 1.0
        if u[3] > _EXACT:
            turn, scale = 2 * math.pi * u[2], 0.7 * 2 ** u[4]
        flip = 1 if u[5] < 0.5 else -1
        x, y = self._grid()
        # Pixels of the slice; whole numbers where the cut-out is exact.
        centre_x, centre_y = (self._centre(n, v) for n, v in zip(hu.shape[::-1], u[6:8]))
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        column = centre_x + flip * (cos * x - sin * y)
        row = centre_y + sin * x + cos * y
        image = _sample(hu - AIR_HU, row, column) + AIR_HU
        attenuation = hu_to_attenuation(image).clamp(min=0) * (0.85 + 0.3 * u[8])
        if u[9] < self._masked:
            radii = (0.6 + 0.4 * u[10]), (0.6 + 0.4 * u[11])
            attenuation = attenuation * self._ellipse(0, 0, *radii, math.pi * u[12], 1 + 2 * u[13])
        if u[14] < self._with_objects:
            for _ in range(1 + int(u[15] * _MOST_OBJECTS)):
                attenuation = self._with_object(attenuation, generator)
        return attenuation[None]

    def _with_object(self, attenuation: Tensor, generator: torch.Generator) -> Tensor:
        """Air, soft tissue, bone or metal in an ellipse of a random size, from a rod's to an organ's."""
        u = torch.rand(8, generator=generator).tolist()
        kind = u[0]
        if kind < 0.25:
            value = 0.3 * u[1]
        elif kind < 0.6:
            value = 0.9 + 0.2 * u[1]
        elif kind < 0.95:
            value = 1.1 + 1.2 * u[1]
        else:
            value = 2.5 + 2.0 * u[1]
        longest = 0.02 * 20 ** u[2] if kind < 0.6 else 0.015 * 10 ** u[2]
        radii = longest, longest * (0.3 + 0.7 * u[3])
        inside = self._ellipse(1.4 * u[4] - 0.7, 1.4 * u[5] - 0.7, *radii, math.pi * u[6], 1.0)
        inside = inside * (0.4 + 0.6 * u[7] if kind < 0.95 else 1.0)
        return torch.lerp(attenuation, torch.full_like(attenuation, value * WATER_ATTENUATION), inside)

    def _grid(self) -> tuple[Tensor, Tensor]:
        """Coordinates of the pixels from the centre, to the right (1, size) and down (size, 1)."""
        axis = torch.arange(self.size, device=self.device) - (self.size - 1) / 2
        return axis[None], axis[:, None]

    def _centre(self, length: int, v: float) -> float:
        """Centre of a cut-out along an axis of a slice: within it, or the slice's own if that is less."""
        room = length - self.size
        start = int((0.5 + _MIDDLE * (v - 0.5)) * (room + 1)) if room > 0 else room // 2
        return start + (self.size - 1) / 2

    def _ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, turn: float, edge_px: float
    ) -> Tensor:
        """1 inside an ellipse and 0 outside, (size, size); centre and radii in halves of the side."""
        column, row = (2 * axis / self.size for axis in self._grid())
        cos, sin = math.cos(turn), math.sin(turn)
        along = ((column - x) * cos + (row - y) * sin) / radius_x
        across = ((row - y) * cos - (column - x) * sin) / radius_y
        distance_px = (1 - (along**2 + across**2).sqrt()) * min(radius_x, radius_y) * self.size / 2
        return (distance_px / edge_px + 0.5).clamp(0, 1)


def _sample(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Image, (H, W), at positions in pixels, bilinear, 0 beyond its edges; shape of row + column."""
    row, column = torch.broadcast_tensors(row, column)
    height, width = image.shape
    grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), dim=-1)
    return F.grid_sample(image[None, None], grid[None].to(image.dtype), align_corners=False)[0, 0]


def random_geometry(size: int, part: float, generator: torch.Generator) -> Geometry:
    """Scan of a slice of size x size pixels: mostly a fan near that of `sparse_view`, some parallel beams.

    Fields of view are 250 to 500 mm; views start anywhere and cover a turn (half of one for parallel rays).

    Args:
        size: Rows and columns.
        part: In [0, 1), which of the numbers of views: from the fewest to the most, 80 % of them what would
            be 30 to 180 views of 512 x 512 pixels.
        generator: Of the rest.
    """
    u = torch.rand(8, generator=generator).tolist()
    nominal = float(np.exp(np.interp(part, (0, 0.1, 0.9, 1), np.log((FEWEST_VIEWS, 30, 180, MOST_VIEWS)))))
    num_views = max(3, round(nominal * size / NOMINAL_SIZE))
    pixel_mm = (250 + 250 * u[0]) / size
    plain = sparse_view((size, size), (pixel_mm, pixel_mm), num_views)
    bin_mm = pixel_mm * (0.9 + 0.3 * u[1])  # at the isocentre
    radius_mm = plain.radius_mm
    if u[2] < 0.2:
        turn, kind, source_mm, detector_mm, reach = math.pi, "parallel", 0.0, 0.0, radius_mm
    else:
        kind = "fan-flat" if u[2] < 0.8 else "fan-arc"
        source_mm, detector_mm = plain.source_mm * (0.8 + 0.8 * u[3]), plain.detector_mm * (0.6 + 1.2 * u[4])
        half = math.asin(radius_mm / source_mm)
        turn, reach = 2 * math.pi, source_mm * (math.tan(half) if kind == "fan-flat" else half)
        bin_mm *= (source_mm + detector_mm) / source_mm
        reach *= (source_mm + detector_mm) / source_mm
    return Geometry(
        kind=kind,
        shape=(size, size),
        pixel_mm=(pixel_mm, pixel_mm),
        num_bins=math.ceil(2 * reach / bin_mm) + 1,
        bin_mm=bin_mm,
        angles_rad=tuple(2 * math.pi * u[5] + turn * i / num_views for i in range(num_views)),
        source_mm=source_mm,
        detector_mm=detector_mm,
        offset_bins=0.25 if u[6] < 0.2 else 0.0,
    )


@dataclass(frozen=True)
class Scan:
    """What measures slices, on a finer grid, and the operator to reconstruct with."""

    measure: SimulatedScan
    operator: Radon


class Scans:
    """Scans of random geometries, a function of the seed; each is made on first use and kept.

    Args:
        size: Rows and columns of the slices.
        seed: Of the geometries.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._scans: dict[int, Scan] = {}

    def __call__(self, u: float) -> Scan:
        """The scan that a number in [0, 1) stands for."""
        i = int(u * _NUM_SCANS)
        if i not in self._scans:
            stream = int(np.random.SeedSequence([self.seed, i]).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(stream)
            self._scans[i] = repeated_scan(random_geometry(self.size, (i + 0.5) / _NUM_SCANS, generator))
        return self._scans[i]


def repeated_scan(geometry: Geometry) -> Scan:
    """Scan for many small batches: the operator works with matrices, unless they would be large."""
    rows, columns = geometry.shape
    samples = geometry.num_views * (geometry.num_bins * max(rows, columns) + rows * columns)
    # Two entries a sample, in a matrix and in its transpose, of eight bytes.
    engine = "csr" if 32 * samples <= _MATRIX_BYTES else "auto"
    return Scan(SimulatedScan(geometry), Radon(geometry, engine=engine))


def random_photons(batch: int, generator: torch.Generator) -> list[float | None]:
    """Photons a ray for each of a batch, logarithmically uniform; None, no noise, for a quarter of them."""
    low, high = math.log(FEWEST_PHOTONS), math.log(MOST_PHOTONS)
    draws = torch.rand(batch, 2, generator=generator).tolist()
    return [None if u < 0.25 else math.exp(low + (high - low) * v) for u, v in draws]


def projection_noise(y: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Sinogram with the noise of counting photons, of the shape of y.

    Gaussian, with the variance that Poisson's has where the counts are large.

    Args:
        y: Line integrals.
        photons: Photons a ray without attenuation.
        generator: On the device of y.
    """
    noise = torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
    return y + noise_variance(y, photons).sqrt() * noise


def photons_at(size: int, photons: float) -> float:
    """Photons a ray that leave the noise in size x size pixels that `photons` leave in 512 x 512.

    With as many views per pixel: the noise of a pixel of the filtered backprojection goes with its inverse
    side, and with the inverse roots of views and photons.
    """
    return photons * size / NOMINAL_SIZE
