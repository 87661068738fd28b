"""Reconstruction of one slice: read, simulated where no scanner measured it, reconstructed, written."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.ct.display import ERROR_WINDOW_HU, slice_images, windowed
from deepgsr_cli.ct.figures import compare, residual
from deepgsr_cli.ct.jobs import ProjectionJob, SinogramJob, SliceJob
from deepgsr_cli.ct.methods import NAMES, Method, reconstruct
from deepgsr_cli.ct.projections import SIZE
from deepgsr_cli.ct.results import ResultWriter
from deepgsr_cli.ct.simulation import SimulatedScan, estimated_photons
from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.formats.dicom.slices import AIR_HU, Slice, read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.reports.report import ReportImage
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry, scanner_view, sparse_view
from deepgsr_cli.tomography.radon import Radon


@dataclass
class ScanResult:
    """What was done to one slice.

    Attributes:
        facts: Views, photons, method and figures; JSON types.
        images: Pictures for the report.
        note: What the report says of the slice.
    """

    facts: dict[str, Any]
    images: list[ReportImage] = field(default_factory=list)
    note: str = ""


@dataclass
class Reconstruction:
    """Reconstruction of one slice after another, with one operator as long as the geometry stays.

    Attributes:
        method: How.
        device: Where.
        model: For the method "deepgsr".
        num_views: Over a turn.
        geometry: Of measured sinograms; of simulated scans, but for the slice, if it was given.
        scanner: Whether simulated scans have the distances of the scanner that each slice states.
        measured: Whether the scans are.
        estimating: Whether the photons of measured scans, for want of better, are estimated from each.
        seed: Of the simulated noise, which differs from slice to slice.
        derivation: What was done, for DICOM.
        window_hu: Centre and width of the pictures for the report.
    """

    method: Method
    device: torch.device
    model: torch.nn.Module | None = None
    num_views: int = 60
    geometry: Geometry | None = None
    scanner: bool = False
    measured: bool = False
    estimating: bool = False
    seed: int = 0
    derivation: str = ""
    window_hu: tuple[float, float] = (40.0, 400.0)
    _A: Radon | None = field(default=None, init=False)
    _scan: SimulatedScan | None = field(default=None, init=False)
    _write: ResultWriter = field(init=False)

    def __post_init__(self) -> None:
        views = f"{'' if self.measured else 'simulated '}{self.num_views}"
        self._write = ResultWriter(
            f"deepgsr {self.method.name}, {views} views", self.derivation, self.geometry
        )

    def __call__(
        self, job: Job, *, for_report: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> ScanResult:
        """Reconstruct and write the slice of a `SliceJob`, a `SinogramJob` or a `ProjectionJob`.

        Raises:
            InputError: It cannot be read.
            OutputError: The result cannot be written.
        """
        if isinstance(job, SliceJob):
            return self._simulated(job, for_report, progress)
        assert isinstance(job, SinogramJob | ProjectionJob)
        return self._of_measurement(job, for_report, progress)

    def _simulated(
        self, job: SliceJob, for_report: bool, progress: Callable[[int, int], None] | None
    ) -> ScanResult:
        slice = read_slice(job.series, job.index)
        A = self._operator(self._simulated_geometry(job, slice))
        if self._scan is None:
            self._scan = SimulatedScan(A.geometry, self.method.photons)
        reference = to_attenuation(slice.hu, self.device)
        # By the slice and not by its number: it does not matter which others are done with it.
        y = self._scan(reference, (self.seed, zlib.crc32(slice.stored.tobytes())))
        x, hu, seconds = self._reconstruct(A, y, self.method, progress)
        figures = compare(x, reference, slice.pixel_mm)
        self._write(job, hu, slice.pixel_mm, slice)
        facts: dict[str, Any] = {"scan": "simulated", "views": self.num_views, "photons": self.method.photons}
        facts |= {"method": self.method.name, **asdict(figures), "residual": residual(A, x, y)}
        facts["seconds"] = seconds  # without the pictures
        result = ScanResult(facts)
        if for_report:
            shown = self._for_report(A, y, x, self.method)
            others = {name: image for name, image in shown.items() if image is not x}
            for name, image in others.items():
                facts[f"psnr_{name.lower()}"] = compare(image, reference, slice.pixel_mm).psnr
            reconstructions = {name: to_hu(image) for name, image in shown.items()}
            result.images = slice_images(to_hu(reference), reconstructions, self.window_hu)
            result.note = f"{self._window_text()}; errors: gray 0, white +{ERROR_WINDOW_HU:g} HU"
        return result

    def _simulated_geometry(self, job: SliceJob, slice: Slice) -> Geometry:
        """Of the scan of a slice.

        Raises:
            InputError: The slice does not state the scanner's distances, or does not fit into the scan.
        """
        shape, pixel_mm = job.series.shape, slice.pixel_mm
        if self.geometry is None and not self.scanner:
            return sparse_view(shape, pixel_mm, self.num_views)
        try:
            if self.geometry is not None:
                return replace(self.geometry, shape=shape, pixel_mm=pixel_mm)
            source_mm, detector_mm = (
                float(slice.header.get(keyword) or 0)
                for keyword in ("DistanceSourceToPatient", "DistanceSourceToDetector")
            )
            if not (source_mm > 0 and detector_mm > 0):
                raise UserError(
                    "does not state DistanceSourceToPatient and DistanceSourceToDetector; leave --geometry"
                    " scanner out for the fan beam of the sparse-view papers"
                )
            return scanner_view(shape, pixel_mm, self.num_views, source_mm, detector_mm)
        except UserError as error:
            raise InputError(f"{job.label}: {error}") from error

    def _of_measurement(
        self, job: SinogramJob | ProjectionJob, for_report: bool, progress: Callable[[int, int], None] | None
    ) -> ScanResult:
        outside: np.ndarray | None = None
        if isinstance(job, SinogramJob):
            assert self.geometry is not None
            geometry, sinogram = self.geometry, job.sinograms.read(job.index)
        else:
            # Only filtered backprojection can leave out a part of what was measured.
            diameter_mm = job.projections.reconstruction_mm if self.method.name == "fbp" else None
            geometry, sinogram = job.projections.fan_beam(job.index, diameter_mm)
            # Then water is in the result what it is in all results.
            sinogram *= WATER_ATTENUATION / (job.projections.water_attenuation or WATER_ATTENUATION)
            grid_mm = (np.arange(SIZE) - (SIZE - 1) / 2) * geometry.pixel_mm[0]
            outside = np.hypot(grid_mm[:, None], grid_mm) > job.projections.diameter_mm / 2
        A = self._operator(geometry)
        y = torch.from_numpy(sinogram).to(self.device)[None, None]
        method = replace(self.method, photons=estimated_photons(y)) if self.estimating else self.method
        x, hu, seconds = self._reconstruct(A, y, method, progress)
        if outside is not None:
            hu[outside] = AIR_HU
        self._write(job, hu, geometry.pixel_mm)
        facts: dict[str, Any] = {
            "scan": "measured",
            "views": geometry.num_views,
            "photons": method.photons,
        }
        facts |= {"method": self.method.name, "residual": residual(A, x, y), "seconds": seconds}
        result = ScanResult(facts)
        if for_report:
            result.images = [
                ReportImage(name, windowed(to_hu(image), self.window_hu))
                for name, image in self._for_report(A, y, x, method).items()
            ]
            result.note = self._window_text()
        return result

    def _reconstruct(
        self, A: Radon, y: Tensor, method: Method, progress: Callable[[int, int], None] | None
    ) -> tuple[Tensor, np.ndarray, float]:
        """Attenuation in 1/mm, (1, 1, H, W), the same in HU, (H, W), and the seconds it took."""
        started = time.perf_counter()
        x = reconstruct(A, y, method, model=self.model, progress=progress)
        return x, to_hu(x), round(time.perf_counter() - started, 3)

    def _window_text(self) -> str:
        centre, width = self.window_hu
        return f"window {centre - width / 2:g} to {centre + width / 2:g} HU"

    def _for_report(self, A: Radon, y: Tensor, x: Tensor, method: Method) -> dict[str, Tensor]:
        """Reconstructions to show by name, (1, 1, H, W) each: FBP, x itself, TV."""
        shown = {}
        for name in dict.fromkeys(("fbp", method.name, "tv")):
            if name == method.name:
                shown[NAMES[name]] = x
                continue
            with suppress(UserError):  # views that do not suffice for FBP
                beside = Method(name, method.photons, method.filter)
                shown[NAMES[name]] = reconstruct(A, y, beside)
        return shown

    def _operator(self, geometry: Geometry) -> Radon:
        if self._A is None or self._A.geometry != geometry:
            self._A, self._scan = Radon(geometry), None
        return self._A
