"""Reconstruction of slices: read, simulated where no scanner measured them, reconstructed, written."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.device import wait
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.ct.batches import ON_THREADS, AtOnce, grouped
from deepgsr_cli.ct.display import ERROR_WINDOW_HU, slice_images, window_text, windowed
from deepgsr_cli.ct.figures import body, compare, residual
from deepgsr_cli.ct.jobs import ProjectionJob, SinogramJob, SliceJob
from deepgsr_cli.ct.methods import NAMES, TASK, Method, Reconstructed, reconstruct_each
from deepgsr_cli.ct.plausibility import doubt_result, doubt_slice
from deepgsr_cli.ct.projections import SIZE, FanBeams
from deepgsr_cli.ct.results import ResultWriter, derivation_of, read_result, remark
from deepgsr_cli.ct.simulation import Seed, SimulatedScan, estimated_photons
from deepgsr_cli.ct.uncertainty import UNCERTAINTY, expected_error
from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.formats.dicom.slices import AIR_HU, Slice, read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import BatchWork, Column, Facts, Progress, Result
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
_UNCERTAINTY = (Column("uncertainty_hu", "expected error in body (HU)"),)


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


@dataclass(frozen=True)
class _Case:
    """A slice to be reconstructed.

    Attributes:
        job: Where it is from, and where the result goes.
        for_report: Whether pictures are made of it.
        geometry: Geometry of its scan.
        slice: The slice, whose scan is to be simulated; None for a measurement.
        sinogram: What was measured, (V, N); None for a slice.
        outside: Where nothing was measured, bool, (H, W); None for nowhere.
    """

    job: SliceJob | SinogramJob | ProjectionJob
    for_report: bool
    geometry: Geometry
    slice: Slice | None = None
    sinogram: np.ndarray | None = None
    outside: np.ndarray | None = None


@dataclass(frozen=True)
class _Computed:
    """What was computed of a case.

    Attributes:
        case: The case.
        y: Its sinogram, (1, 1, V, N).
        method: Method with the photons of this scan.
        result: What came of it.
        beside: Reconstructions by other methods to show in a report, (1, 1, H, W), by their names.
        seconds: Time that the result took.
        uncertainty: Standard deviation in HU, (1, 1, H, W), that is expected of its error; None if it was not
            asked for.
    """

    case: _Case
    y: Tensor
    method: Method
    result: Reconstructed
    beside: dict[str, Tensor]
    seconds: float
    uncertainty: Tensor | None = None


@dataclass
class Reconstruction(BatchWork[_Case, _Computed]):
    """Reconstruction of slices, with one operator as long as the geometry stays.

    Attributes:
        method: Method and its settings.
        scan: How the slices are measured.
        device: Device that the arrays are on.
        network: Network of the method "deepgsr", with its weights.
        geometry_sha256: Checksum of the geometry's file.
        window_hu: Centre and width of the pictures for the report.
        at_once: How many slices are reconstructed at once.
        uncertain: Whether the error that is expected of the network is written beside each result.
    """

    method: Method
    scan: Scan
    device: torch.device
    network: Loaded[Unrolled] | None = None
    geometry_sha256: str | None = None
    window_hu: tuple[float, float] = (40.0, 400.0)
    at_once: AtOnce = field(default_factory=AtOnce)
    uncertain: bool = False
    _A: Radon | None = field(default=None, init=False)
    _scan: SimulatedScan | None = field(default=None, init=False)
    _write: ResultWriter = field(init=False)
    _write_uncertainty: ResultWriter = field(init=False)

    def __post_init__(self) -> None:
        views = f"{'' if self.scan.measured else 'simulated '}{self.scan.num_views} views"
        derivation = derivation_of(TASK, self.protocol)
        self._write = ResultWriter(f"deepgsr {self.method.name}, {views}", derivation)
        derivation = f"standard deviation in HU expected of the error of {derivation}"
        self._write_uncertainty = ResultWriter(f"deepgsr uncertainty, {views}", derivation)

    @property
    def title(self) -> str:
        """Heading of the report."""
        if not self.scan.measured:
            return "CT from a simulated sparse-view scan"
        return f"CT from {'measured projections' if self.scan.projections else 'a measured sinogram'}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the report's table."""
        columns = (Column("residual", "residual"),) if self.scan.measured else _FIGURES
        return (*columns, *(_UNCERTAINTY if self.uncertain else ()))

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
        if self.uncertain:
            protocol["uncertainty"] = UNCERTAINTY
        return {**protocol, "window": window_text(self.window_hu), "notice": NOTICE}

    def read(self, job: Job, *, for_report: bool) -> _Case:
        """Read a `SliceJob`, a `SinogramJob` or a `ProjectionJob`.

        Raises:
            InputError: It cannot be read, or does not fit into the scan.
        """
        if isinstance(job, SliceJob):
            slice = read_slice(job.series, job.index)
            return _Case(job, for_report, self._simulated_geometry(job, slice), slice)
        if isinstance(job, SinogramJob):
            return _Case(job, for_report, job.geometry, sinogram=job.sinograms.read(job.index))
        assert isinstance(job, ProjectionJob)
        # Only filtered backprojection can leave out a part of what was measured.
        diameter_mm = job.projections.reconstruction_mm if self.method.name == "fbp" else None
        geometry, sinogram = job.projections.fan_beam(job.index, diameter_mm)
        # Then water is in the result what it is in all results.
        sinogram *= WATER_ATTENUATION / (job.projections.water_attenuation or WATER_ATTENUATION)
        grid_mm = (np.arange(SIZE) - (SIZE - 1) / 2) * geometry.pixel_mm[0]
        outside = np.hypot(grid_mm[:, None], grid_mm) > job.projections.diameter_mm / 2
        return _Case(job, for_report, geometry, sinogram=sinogram, outside=outside)

    def room(self, case: _Case) -> int:
        """Return how many slices like this one are to be reconstructed at once."""
        if self.network is None:
            return self.at_once(case.geometry, self.device, None)
        return self.at_once(case.geometry, self.device, self.network.model.bytes_per_pixel, ON_THREADS)

    def compute(self, cases: Sequence[_Case], progress: Progress | None) -> list[_Computed]:
        """Reconstruct slices, those of equal geometry at once.

        Raises:
            UserError: The views do not suffice for the method.
        """
        found: dict[int, _Computed] = {}
        for group in grouped([case.geometry for case in cases]):
            results = self._compute_alike([cases[i] for i in group], progress)
            found |= zip(group, results, strict=True)
        return [found[i] for i in range(len(cases))]

    def finish(self, computed: _Computed) -> Result:
        """Measure and write what came of a slice; make pictures where they are asked for.

        Raises:
            OutputError: The result cannot be written.
        """
        # Before the result, which tells that a job is finished.
        facts, images = self._finish_uncertainty(computed)
        try:
            if computed.case.slice is not None:
                done = self._of_slice(computed, computed.case.slice)
            else:
                done = self._of_measurement(computed)
        except BaseException:
            # A file that is there without the result may be anyone's, and another run would refuse it.
            if computed.uncertainty is not None and computed.case.job.beside is not None:
                computed.case.job.beside.unlink(missing_ok=True)
            raise
        done.facts |= facts
        done.images += images
        return done

    def _finish_uncertainty(self, computed: _Computed) -> tuple[Facts, list[ReportImage]]:
        """Write the uncertainty of a result, if there is one; facts and pictures of it."""
        case = computed.case
        if computed.uncertainty is None:
            return {}, []
        hu = computed.uncertainty[0, 0].cpu().numpy()
        pixel_mm = case.geometry.pixel_mm
        inside = body(computed.result.x, pixel_mm)
        job = replace(case.job, target=case.job.beside)
        self._write_uncertainty(job, hu, pixel_mm, case.slice)
        facts = {"uncertainty_hu": float(hu[inside].mean()) if inside.any() else math.nan}
        if not case.for_report:
            return facts, []
        label = f"Expected error, black 0, white {ERROR_WINDOW_HU:g} HU"
        return facts, [ReportImage(label, windowed(hu, (ERROR_WINDOW_HU / 2, ERROR_WINDOW_HU)))]

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

    def _compute_alike(self, cases: list[_Case], progress: Progress | None) -> list[_Computed]:
        """What comes of slices whose geometry is one."""
        A = self._operator(cases[0].geometry)
        y, photons = self._measured(cases)
        started = time.perf_counter()
        model = None if self.network is None else self.network.model
        results = reconstruct_each(A, y, self.method, photons, model=model, progress=progress)
        uncertainties: list[Tensor | None] = [None] * len(cases)
        if self.uncertain:
            assert model is not None
            uncertainties = [
                expected_error(A, one, result.x, replace(self.method, photons=dose), model)
                for one, result, dose in zip(y.split(1), results, photons, strict=True)
            ]
        wait(self.device)
        seconds = round((time.perf_counter() - started) / len(cases), 3)
        shown = [i for i, case in enumerate(cases) if case.for_report]
        beside = self._beside(A, y[shown], [photons[i] for i in shown]) if shown else {}
        found = []
        for i, (case, result) in enumerate(zip(cases, results, strict=True)):
            result.misfit()  # while the operator has no other work
            others = {name: x[shown.index(i)][None] for name, x in beside.items()} if case.for_report else {}
            method = replace(self.method, photons=photons[i])
            found.append(_Computed(case, y[i : i + 1], method, result, others, seconds, uncertainties[i]))
        return found

    def _measured(self, cases: list[_Case]) -> tuple[Tensor, list[float | None]]:
        """Sinograms, (B, 1, V, N), of cases whose geometry is one, and the photons a ray of each."""
        slices = [case.slice for case in cases if case.slice is not None]
        if slices:
            if self._scan is None:
                self._scan = SimulatedScan(cases[0].geometry, self.method.photons)
            x = torch.cat([to_attenuation(slice.hu, self.device) for slice in slices])
            # By the slice and not by its number: it does not matter which others are done with it.
            seeds: list[Seed] = [(self.scan.seed, zlib.crc32(slice.stored.tobytes())) for slice in slices]
            return self._scan(x, seeds), [self.method.photons] * len(cases)
        sinograms = [torch.from_numpy(case.sinogram) for case in cases if case.sinogram is not None]
        y = torch.stack(sinograms).to(self.device)[:, None]
        if self.scan.estimating:
            return y, [estimated_photons(one) for one in y.split(1)]
        return y, [self.method.photons] * len(cases)

    def _of_slice(self, computed: _Computed, slice: Slice) -> Result:
        """Measure and write what came of the simulated scan of a slice."""
        case, result = computed.case, computed.result
        reference = to_attenuation(slice.hu, self.device)
        figures = compare(result.x, reference, slice.pixel_mm)
        # Against the slice that is known, CT numbers need no check; its own may be of no slice.
        warnings = doubt_slice(slice.hu)
        hu = to_hu(result.x)
        self._write(case.job, hu, slice.pixel_mm, slice, remark(result.note, warnings))
        facts: dict[str, Any] = {
            "scan": "simulated",
            "views": self.scan.num_views,
            "photons": self.method.photons,
        }
        misfit = residual(result.misfit(), computed.y)
        facts |= {"method": self.method.name, **asdict(figures), "residual": misfit}
        facts["seconds"] = computed.seconds  # without the pictures
        done = Result(facts, result.note, warnings)
        if case.for_report:
            for name, image in computed.beside.items():
                facts[f"psnr_{name.lower()}"] = compare(image, reference, slice.pixel_mm).psnr
            done.images = slice_images(to_hu(reference), self._shown(computed), self.window_hu)
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

    def _of_measurement(self, computed: _Computed) -> Result:
        """Check and write what came of a measured scan."""
        case, result, y = computed.case, computed.result, computed.y
        warnings = doubt_result(result, y, case.geometry, computed.method)
        hu = to_hu(result.x)
        if case.outside is not None:
            hu[case.outside] = AIR_HU
        self._write(case.job, hu, case.geometry.pixel_mm, remark=remark(result.note, warnings))
        facts: dict[str, Any] = {
            "scan": "measured",
            "views": case.geometry.num_views,
            "photons": computed.method.photons,
        }
        facts |= {"method": self.method.name, "residual": residual(result.misfit(), y)}
        facts["seconds"] = computed.seconds
        done = Result(facts, result.note, warnings)
        if case.for_report:
            shown = self._shown(computed)
            done.images = [ReportImage(name, windowed(hu, self.window_hu)) for name, hu in shown.items()]
            done.caption = self._window_text()
        return done

    def _caption(self) -> str:
        return f"{self._window_text()}; errors: gray 0, white +{ERROR_WINDOW_HU:g} HU"

    def _window_text(self) -> str:
        centre, width = self.window_hu
        return f"window {centre - width / 2:g} to {centre + width / 2:g} HU"

    def _beside(self, A: Radon, y: Tensor, photons: list[float | None]) -> dict[str, Tensor]:
        """Reconstructions, (B, 1, H, W), by the methods that a report shows beside the one asked for."""
        found = {}
        for name in ("fbp", "tv"):
            if name != self.method.name:
                with suppress(UserError):  # views that do not suffice for FBP
                    results = reconstruct_each(A, y, Method(name, filter=self.method.filter), photons)
                    found[NAMES[name]] = torch.cat([result.x for result in results])
        return found

    def _shown(self, computed: _Computed) -> dict[str, np.ndarray]:
        """Reconstructions to show by name, in HU, (H, W) each: FBP, the result, TV."""
        images = {NAMES[self.method.name]: computed.result.x, **computed.beside}
        order = dict.fromkeys(NAMES[name] for name in ("fbp", self.method.name, "tv"))
        return {name: to_hu(images[name]) for name in order if name in images}

    def _operator(self, geometry: Geometry) -> Radon:
        if self._A is None or self._A.geometry != geometry:
            self._A, self._scan = Radon(geometry), None
        return self._A
