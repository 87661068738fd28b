"""Training of sparse-view CT: simulated scans of random geometry and dose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.ct.cutouts import CutOuts
from deepgsr_cli.ct.figures import PEAK_ATTENUATION
from deepgsr_cli.ct.network import (
    ATTENUATION_SCALE_MM,
    NOMINAL_SIZE,
    UNROLLED_PRESETS,
    Unrolled,
    ct_condition,
)
from deepgsr_cli.ct.simulation import SimulatedScan, noise_variance
from deepgsr_cli.ct.slices import read_hu, reduced, slice_paths
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.files import named
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.training.losses import LOSSES, STAGES_WEIGHT
from deepgsr_cli.training.task import Draw, check_held_out, preset_of, without_validation
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


TRAINED_VIEWS = 20, 360
FEWEST_PHOTONS, MOST_PHOTONS = 2e4, 1e7

# Shares of the scans that are short (of those by fans) or by a shifted detector, and the views that a short
# one has at least: of fewer, the part of the turn that is left out is hardly wider than their gaps.
_SHORT, _SHIFTED, _FEWEST_SHORT = 0.08, 0.08, 12
# Scans that a run trains on, and the size up to which their matrices are kept.
_NUM_SCANS, _MATRIX_BYTES = 24, 2**28


def random_geometry(size: int, part: float, generator: torch.Generator) -> Geometry:
    """Scan of a slice of size x size pixels: mostly a fan near that of `sparse_view`, some parallel beams.

    Fields of view are 250 to 500 mm; views start anywhere and cover a turn (half of one for parallel rays). A
    few fans are short scans, and a few detectors are shifted so far that one side sees a part of the slice
    only, over a full turn.

    Args:
        size: Rows and columns.
        part: In [0, 1), which of the numbers of views: from the fewest to the most, 70 % of them what would
            be 30 to 180 views of 512 x 512 pixels.
        generator: Of the rest.
    """
    u = torch.rand(9, generator=generator).tolist()
    nominal = float(
        np.exp(np.interp(part, (0, 0.2, 0.9, 1), np.log((TRAINED_VIEWS[0], 30, 180, TRAINED_VIEWS[1]))))
    )
    num_views = max(3, round(nominal * size / NOMINAL_SIZE))
    pixel_mm = (250 + 250 * u[0]) / size
    plain = sparse_view((size, size), (pixel_mm, pixel_mm), num_views)
    bin_mm = pixel_mm * (0.9 + 0.3 * u[1])  # at the isocentre
    radius_mm = plain.radius_mm
    short, shifted = u[7] < _SHORT and num_views >= _FEWEST_SHORT, u[7] >= 1 - _SHIFTED
    if u[2] < 0.2:
        turn, kind, source_mm, detector_mm, reach = math.pi, "parallel", 0.0, 0.0, radius_mm
    else:
        kind = "fan-flat" if u[2] < 0.8 else "fan-arc"
        source_mm, detector_mm = plain.source_mm * (0.8 + 0.8 * u[3]), plain.detector_mm * (0.6 + 1.2 * u[4])
        half = math.asin(radius_mm / source_mm)
        turn, reach = 2 * math.pi, source_mm * (math.tan(half) if kind == "fan-flat" else half)
        bin_mm *= (source_mm + detector_mm) / source_mm
        reach *= (source_mm + detector_mm) / source_mm
        if short:  # a little more than filtered backprojection needs
            turn = 1.05 * (math.pi + 2 * half)
    narrow, offset_bins = reach, 0.25 if u[6] < 0.2 else 0.0
    if shifted:
        turn, narrow = 2 * math.pi, reach * (0.25 + 0.5 * u[8])
        offset_bins = math.copysign((reach - narrow) / 2 / bin_mm, u[6] - 0.5)
    return Geometry(
        kind=kind,
        shape=(size, size),
        pixel_mm=(pixel_mm, pixel_mm),
        num_bins=math.ceil((reach + narrow) / bin_mm) + 1,
        bin_mm=bin_mm,
        angles_rad=tuple(2 * math.pi * u[5] + turn * i / num_views for i in range(num_views)),
        source_mm=source_mm,
        detector_mm=detector_mm,
        offset_bins=offset_bins,
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


@dataclass(frozen=True)
class CTSample:
    """Scans of slices, all of one geometry.

    Attributes:
        operator: From attenuation to the sinogram.
        sinogram: (B, 1, V, N).
        condition: What the network is told, (B, 2).
        clean: Attenuation in 1/mm, (B, 1, H, W).
    """

    operator: Radon
    sinogram: Tensor
    condition: Tensor
    clean: Tensor


class CTRecon:
    """Sparse-view CT: simulated scans of slices, of random geometry and dose."""

    given = "filtered backprojection"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shape = preset_of(config, UNROLLED_PRESETS)
        paths, held_out = split_slices(config)
        slices = [hu for path in paths for hu in read_hu(path)]
        self.held_out = [hu for path in held_out for hu in read_hu(path)]
        self.cut_outs = CutOuts(slices, config.patch, device)
        self.scans = Scans(config.patch, config.seed)
        self.summary = f"{counted(len(slices), 'CT slice')} of {named(paths, 'file')}"

    def network(self) -> nn.Module:
        return Unrolled(self.shape)

    def sample(self, draw: Draw) -> CTSample:
        batch = self.config.batch
        x = self.cut_outs(batch, draw.cpu)
        scan = self.scans(float(torch.rand(1, generator=draw.cpu)))
        return self._scanned(scan, x, random_photons(batch, draw.cpu), draw.device)

    def validation(self) -> list[CTSample]:
        """Slices reduced to twice the side of a crop, as by 60 views at full size, without noise and with
        that of 1e5 photons."""
        size = 2 * self.config.patch
        num_views = max(3, round(60 * size / NOMINAL_SIZE))
        scan = repeated_scan(sparse_view((size, size), (400 / size, 400 / size), num_views))
        samples = []
        for i, hu in enumerate(self.held_out):
            x = hu_to_attenuation(reduced(torch.from_numpy(hu), size))[None, None]
            for photons in (None, 1e5):
                generator = torch.Generator().manual_seed(self.config.seed + i)
                samples.append(self._scanned(scan, x, [photons], generator))
        return samples

    def _scanned(
        self, scan: Scan, x: Tensor, photons: list[float | None], generator: torch.Generator
    ) -> CTSample:
        """Scans of the images, each with its photons of a scan at full size."""
        A, y = scan.operator, scan.measure(x)
        size = max(A.domain_shape)
        conditions = []
        for i, count in enumerate(photons):
            count = None if count is None else photons_at(size, count)
            if count is not None:
                y[i] = projection_noise(y[i], count, generator)
            conditions.append(ct_condition(A.geometry.num_views, count, size))
        return CTSample(A, y, torch.cat(conditions).to(y.device), x)

    def loss(self, model: nn.Module, sample: CTSample) -> Tensor:
        """Error of the result and, with a smaller weight, of every stage, where water is about 1; more
        attenuation than the window holds counts as its end."""
        assert isinstance(model, Unrolled)
        with autocast(self.device, self.config.precision):
            *stages, result = model.iterates(sample.operator, sample.sinogram, sample.condition)
        measure = LOSSES[self.config.loss]

        def error(x: Tensor) -> Tensor:
            x = error_in_window(x, sample.clean)
            return measure(ATTENUATION_SCALE_MM * x).mean()

        return error(result) + STAGES_WEIGHT * torch.stack([error(x) for x in stages]).mean()

    def psnr(self, model: nn.Module, sample: CTSample) -> float:
        """In the window of attenuation from 0 to 0.05 / mm."""
        y, condition = sample.sinogram.to(self.device), sample.condition.to(self.device)
        return _psnr_in_window(model(sample.operator, y, condition), sample.clean)

    def psnr_given(self, sample: CTSample) -> float:
        return _psnr_in_window(sample.operator.fbp(sample.sinogram), sample.clean)


def _psnr_in_window(x: Tensor, clean: Tensor) -> float:
    found, expected = (t.cpu().numpy().clip(0, PEAK_ATTENUATION) for t in (x, clean))
    return psnr(found, expected, peak=PEAK_ATTENUATION)


def split_slices(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Files of slices to train on, and those that are held out."""
    paths = [path for folder in config.data for path in slice_paths(folder)]
    if config.validation is not None:
        held_out = slice_paths(config.validation)
        return without_validation(paths, held_out), held_out
    check_held_out(len(paths), config.held_out)
    # The last ones, so that most patients are on one side only.
    return paths[: -config.held_out], paths[-config.held_out :]


def error_in_window(x: Tensor, clean: Tensor) -> Tensor:
    """Error of attenuation in 1/mm; more than the window holds counts as its end."""
    too_much = clean > PEAK_ATTENUATION
    return torch.where(too_much, x.clamp(max=PEAK_ATTENUATION) - PEAK_ATTENUATION, x - clean)
