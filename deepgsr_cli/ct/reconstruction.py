"""Reconstruction of one slice: read, simulated where no scanner measured it, reconstructed, written."""

from __future__ import annotations

import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.ct import NOTICE
from deepgsr_cli.ct.display import ERROR_WINDOW_HU, slice_images, window_text, windowed
from deepgsr_cli.ct.figures import compare, residual
from deepgsr_cli.ct.jobs import ProjectionJob, SinogramJob, SliceJob
from deepgsr_cli.ct.methods import NAMES, TASK, Method, Reconstructed, reconstruct, reconstructed
from deepgsr_cli.ct.plausibility import doubt_result, doubt_slice
from deepgsr_cli.ct.projections import SIZE, FanBeams
from deepgsr_cli.ct.results import ResultWriter, derivation_of, read_result, remark
from deepgsr_cli.ct.simulation import SimulatedScan, estimated_photons
from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.formats.dicom.slices import AIR_HU, Slice, read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.reports.report import ReportImage
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry, scanner_view, sparse_view
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from deepgsr_cli.ct.network import Unrolled
    from deepgsr_cli.weights.load import Loaded


_FIGURES = (
    Column("psnr", "PSNR (dB)"),
    Column("psnr_fbp", "PSNR FBP (dB)"),
    Column("psnr_tv", "PSNR TV (dB)"),
    Column("ssim", "SSIM"),
    Column("rmse_hu", "RMSE in body (HU)"),
    Column("bias_hu", "bias in body (HU)"),
)


@dataclass(frozen=True)
class Scan:
    """How the slices of a run are measured, or were.

    Attributes:
        num_views: Views over a turn.
        geometry: Geometry of measured sinograms; of simulated scans, but for the slice, if it was given.
        scanner: Whether simulated scans have the distances of the scanner that each slice states.
        measured: Whether the slices were measured.
        projections: The scans, where DICOM-CT-PD projections were measured.
        estimating: Whether the photons of measured scans, for want of better, are estimated from each.
        seed: Seed of the simulated noise, which differs from slice to slice.
    """

    num_views: int = 60
    geometry: Geometry | None = None
    scanner: bool = False
    measured: bool = False
    projections: tuple[FanBeams, ...] = ()
    estimating: bool = False
    seed: int = 0

    def describe(self, photons: float | None) -> str:
        """Return the scan in words, with the photons a ray that leave the source; None for no noise."""
        dose = "" if photons is None else f", {photons:g} photons a ray"
        if self.measured:
            text = f"{self._measurement()}{dose}"
            return text + ", photons a ray estimated from the noise of each slice" * self.estimating
        kind = "fan-beam"
        of = " at the scanner's distances" if self.scanner else ""
        if self.geometry is not None:
            kind = "parallel-beam" if self.geometry.kind == "parallel" else kind
            of = " of the geometry file"
        return f"simulated {self.num_views}-view {kind} scan{of}{dose or ' without noise'}, no measurement"

    def _measurement(self) -> str:
        if not self.projections:
            return "measured sinogram"
        stated = {projections.water_attenuation for projections in self.projections} - {None}
        water = f"attenuation of water is not in the files, {WATER_ATTENUATION} /mm taken"
        if stated:
            water = f"water {', '.join(f'{value:g}' for value in stated)} /mm by the files"
        scans = "; ".join(dict.fromkeys(projections.describe() for projections in self.projections))
        return f"measured DICOM-CT-PD projections, {scans}; {water}"


@dataclass
class Reconstruction:
    """Reconstruction of one slice after another, with one operator as long as the geometry stays.

    Attributes:
        method: Method and its settings.
        scan: How the slices are measured.
        device: Device that the arrays are on.
        network: Network of the method "deepgsr", with its weights.
        geometry_sha256: Checksum of the geometry's file.
        window_hu: Centre and width of the pictures for the report.
    """

    method: Method
    scan: Scan
    device: torch.device
    network: Loaded[Unrolled] | None = None
    geometry_sha256: str | None = None
    window_hu: tuple[float, float] = (40.0, 400.0)
    _A: Radon | None = field(default=None, init=False)
    _scan: SimulatedScan | None = field(default=None, init=False)
    _write: ResultWriter = field(init=False)

    def __post_init__(self) -> None:
        views = f"{'' if self.scan.measured else 'simulated '}{self.scan.num_views}"
        derivation = derivation_of(TASK, self.protocol)
        self._write = ResultWriter(f"deepgsr {self.method.name}, {views} views", derivation)

    @property
    def title(self) -> str:
        """Heading of the report."""
        if not self.scan.measured:
            return "CT from a simulated sparse-view scan"
        return f"CT from {'measured projections' if self.scan.projections else 'a measured sinogram'}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the report's table."""
        return (Column("residual", "residual"),) if self.scan.measured else _FIGURES

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run."""
        scan, method = self.scan, self.method
        protocol = {"scan": scan.describe(method.photons), "method": method.describe()}
        if self.geometry_sha256 is not None:
            protocol["geometry"] = f"sha256 {self.geometry_sha256}"
        if not scan.measured and method.photons is not None:
            protocol["seed"] = str(scan.seed)
        if self.network is not None:
            protocol["weights"] = self.network.weights.citation
        return {**protocol, "window": window_text(self.window_hu), "notice": NOTICE}

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Reconstruct and write the slice of a `SliceJob`, a `SinogramJob` or a `ProjectionJob`.

        Raises:
            InputError: It cannot be read.
            OutputError: The result cannot be written.
        """
        if isinstance(job, SliceJob):
            return self._simulated(job, for_report, progress)
        assert isinstance(job, SinogramJob | ProjectionJob)
        return self._of_measurement(job, for_report, progress)

    def review(self, job: Job) -> Result:
        """Compare a slice with what an earlier run has made of it; of a measured one, there is the result.

        Raises:
            InputError: The slice or its result cannot be read.
        """
        assert job.target is not None
        hu = read_result(job.target)
        if not isinstance(job, SliceJob):
            return Result({}, images=[ReportImage("Result", windowed(hu, self.window_hu))])
        slice = read_slice(job.series, job.index)
        if hu.shape != slice.hu.shape:
            raise InputError(f"{job.target}: is no result of {job.label}, as it has another size")
        x, reference = (to_attenuation(values, self.device) for values in (hu, slice.hu))
        images = slice_images(to_hu(reference), {"Result": hu}, self.window_hu)
        return Result(asdict(compare(x, reference, slice.pixel_mm)), caption=self._caption(), images=images)

    def _simulated(self, job: SliceJob, for_report: bool, progress: Progress | None) -> Result:
        slice = read_slice(job.series, job.index)
        A = self._operator(self._simulated_geometry(job, slice))
        if self._scan is None:
            self._scan = SimulatedScan(A.geometry, self.method.photons)
        reference = to_attenuation(slice.hu, self.device)
        # By the slice and not by its number: it does not matter which others are done with it.
        y = self._scan(reference, (self.scan.seed, zlib.crc32(slice.stored.tobytes())))
        result, hu, seconds = self._reconstruct(A, y, self.method, progress)
        x, figures = result.x, compare(result.x, reference, slice.pixel_mm)
        # Against the slice that is known, CT numbers need no check; its own may be of no slice.
        warnings = doubt_slice(slice.hu)
        self._write(job, hu, slice.pixel_mm, slice, remark(result.note, warnings))
        facts: dict[str, Any] = {
            "scan": "simulated",
            "views": self.scan.num_views,
            "photons": self.method.photons,
        }
        facts |= {"method": self.method.name, **asdict(figures), "residual": residual(result.misfit(), y)}
        facts["seconds"] = seconds  # without the pictures
        done = Result(facts, result.note, warnings)
        if for_report:
            shown = self._for_report(A, y, x, self.method)
            others = {name: image for name, image in shown.items() if image is not x}
            for name, image in others.items():
                facts[f"psnr_{name.lower()}"] = compare(image, reference, slice.pixel_mm).psnr
            reconstructions = {name: to_hu(image) for name, image in shown.items()}
            done.images = slice_images(to_hu(reference), reconstructions, self.window_hu)
            done.caption = self._caption()
        return done

    def _simulated_geometry(self, job: SliceJob, slice: Slice) -> Geometry:
        """Of the scan of a slice.

        Raises:
            InputError: The slice does not state the scanner's distances, or does not fit into the scan.
        """
        shape, pixel_mm = job.series.shape, slice.pixel_mm
        if self.scan.geometry is None and not self.scan.scanner:
            return sparse_view(shape, pixel_mm, self.scan.num_views)
        try:
            if self.scan.geometry is not None:
                return replace(self.scan.geometry, shape=shape, pixel_mm=pixel_mm)
            source_mm, detector_mm = (
                float(slice.header.get(keyword) or 0)
                for keyword in ("DistanceSourceToPatient", "DistanceSourceToDetector")
            )
            if not (source_mm > 0 and detector_mm > 0):
                raise UserError(
                    "does not state DistanceSourceToPatient and DistanceSourceToDetector; leave --geometry"
                    " scanner out for the fan beam of the sparse-view papers"
                )
            return scanner_view(shape, pixel_mm, self.scan.num_views, source_mm, detector_mm)
        except UserError as error:
            raise InputError(f"{job.label}: {error.for_command_line()}") from error

    def _of_measurement(
        self, job: SinogramJob | ProjectionJob, for_report: bool, progress: Progress | None
    ) -> Result:
        outside: np.ndarray | None = None
        if isinstance(job, SinogramJob):
            geometry, sinogram = job.geometry, job.sinograms.read(job.index)
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
        method = replace(self.method, photons=estimated_photons(y)) if self.scan.estimating else self.method
        result, hu, seconds = self._reconstruct(A, y, method, progress)
        warnings = doubt_result(result, y, geometry, method)
        if outside is not None:
            hu[outside] = AIR_HU
        self._write(job, hu, geometry.pixel_mm, remark=remark(result.note, warnings))
        facts: dict[str, Any] = {
            "scan": "measured",
            "views": geometry.num_views,
            "photons": method.photons,
        }
        facts |= {"method": self.method.name, "residual": residual(result.misfit(), y), "seconds": seconds}
        done = Result(facts, result.note, warnings)
        if for_report:
            done.images = [
                ReportImage(name, windowed(to_hu(image), self.window_hu))
                for name, image in self._for_report(A, y, result.x, method).items()
            ]
            done.caption = self._window_text()
        return done

    def _reconstruct(
        self, A: Radon, y: Tensor, method: Method, progress: Progress | None
    ) -> tuple[Reconstructed, np.ndarray, float]:
        """What came of a sinogram, the same in HU, (H, W), and the seconds it took."""
        started = time.perf_counter()
        model = None if self.network is None else self.network.model
        result = reconstructed(A, y, method, model=model, progress=progress)
        return result, to_hu(result.x), round(time.perf_counter() - started, 3)

    def _caption(self) -> str:
        return f"{self._window_text()}; errors: gray 0, white +{ERROR_WINDOW_HU:g} HU"

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
