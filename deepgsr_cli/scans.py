"""Reconstruction of files: DICOM slices whose scan is simulated, measured sinograms and projections."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset
from torch import Tensor

from deepgsr_cli.batch import Job, make_folder, refuse_collisions
from deepgsr_cli.ct_recon import (
    NAMES,
    Method,
    SimulatedScan,
    compare,
    estimated_photons,
    reconstruct,
    residual,
    to_attenuation,
    to_hu,
)
from deepgsr_cli.dicom import (
    AIR_HU,
    DerivedSeries,
    Series,
    Slice,
    SliceFile,
    find_series,
    read_slice,
    write_new,
)
from deepgsr_cli.errors import InputError, UsageError, UserError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.geometry import Geometry, scanner_view, sparse_view
from deepgsr_cli.physics import WATER_ATTENUATION, Radon
from deepgsr_cli.projections import SIZE, Projections, find_projections, holds_projections
from deepgsr_cli.report import ReportImage
from deepgsr_cli.sinograms import SUFFIXES, Sinograms

FORMATS = {"dicom": ".dcm", "tiff": ".tif", "npy": ".npy"}
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
ERROR_WINDOW_HU = 200.0
# What the SeriesDescription of a derived series has, after the source's; see `ResultWriter.description`.
RESULT_MARK = "[deepgsr "


@dataclass(frozen=True)
class SliceJob(Job):
    """A slice of a DICOM series, whose scan is to be simulated."""

    series: Series
    index: int

    @property
    def label(self) -> str:
        frame = self.series.slices[self.index].frame
        return str(self.source) + ("" if frame is None else f" frame {frame + 1}")


@dataclass(frozen=True)
class SinogramJob(Job):
    """A slice of a measured sinogram."""

    sinograms: Sinograms
    index: int

    @property
    def label(self) -> str:
        return str(self.source) + (f" slice {self.index + 1}" if self.sinograms.num_slices > 1 else "")


@dataclass(frozen=True)
class ProjectionJob(Job):
    """A slice of a scan in DICOM-CT-PD files."""

    projections: Projections
    index: int

    @property
    def label(self) -> str:
        return f"{self.source} z={self.projections.z_mm[self.index]:.2f} mm"


@dataclass(frozen=True)
class ScanPlan:
    """What is to be reconstructed.

    Attributes:
        jobs: One for each slice, all of one kind.
        measured: Whether they are sinograms or projections.
        failures: Files and series that cannot be used.
        notes: What the user should know, one sentence each.
        projections: The scans, where they are projections.
    """

    jobs: list[Job]
    measured: bool
    failures: list[InputError]
    notes: list[str]
    projections: tuple[Projections, ...] = ()


def plan_scans(
    inputs: Iterable[str],
    output: str,
    *,
    format: str | None = None,
    geometry: Geometry | None = None,
    pixel_mm: float | None = None,
    simulation: bool = False,
) -> ScanPlan:
    """Jobs for DICOM files and folders, or for sinograms.

    The output is a file for one slice, if it has the suffix of a format; else a folder, below which the trees
    of input folders are kept. What lies in an output folder below an input folder is not taken as input, nor
    are derived series of ours in a folder that holds others.

    Args:
        inputs: DICOM files or folders, or sinogram files.
        output: File or folder.
        format: Of `FORMATS`; None for what the output's suffix says, or DICOM.
        geometry: Of the sinograms; of the simulated scan, if there is one, for DICOM.
        pixel_mm: Distance of rows and columns for DICOM files that do not state it.
        simulation: Whether a scan of DICOM slices is simulated, which a geometry may be for; inputs that are
            projections have then gone to `plan_projections`.

    Raises:
        UsageError: Both kinds, a geometry for DICOM that is not for a simulation, none for sinograms,
            projections, two results for one path, or a result in place of an input.
        InputError: Nothing that can be used.
    """
    paths = [Path(text) for text in inputs]
    kinds = {path.suffix.lower() in SUFFIXES and not path.is_dir() for path in paths}
    if len(kinds) > 1:
        raise UsageError("DICOM and sinograms do not go together; reconstruct them in two runs")
    measured = kinds == {True}
    if measured and geometry is None:
        raise UsageError(f"{paths[0]}: a measured sinogram needs --geometry FILE, which says how it was made")
    if geometry is not None and not measured and not simulation:
        raise UsageError("--geometry is for measured sinograms; leave it out for DICOM slices")
    suffix = _output_suffix(output, format)
    folder = Path(output)
    # Before a simulation, `plan_projections` has looked.
    for path in () if measured or simulation else paths:
        if holds_projections(path, folder):
            raise UsageError(f"{path}: holds DICOM-CT-PD projections; reconstruct them first, with ct-recon")
    failures: list[InputError] = []
    notes: list[str] = []
    found: list[tuple[Path, Series | Sinograms, int, Path]] = []  # source, its collection, slice, name
    for path in paths:
        try:
            if measured:
                assert geometry is not None
                sinograms = Sinograms(path, geometry)
                found += [(path, sinograms, i, name) for i, name in enumerate(_stack_names(sinograms))]
            else:
                found += _slices(path, folder, pixel_mm, failures, notes)
        except InputError as error:
            failures.append(error)
    if not found:
        raise (
            failures[0]
            if failures
            else InputError(
                f"{paths[0]}: all its CT slices are in {output}, where results go; give another -o"
            )
        )
    as_file = _is_one_file(output, len(found))
    jobs: list[Job] = []
    for source, collection, i, name in found:
        target = folder if as_file else folder / f"{name}{suffix}"
        if isinstance(collection, Series):
            jobs.append(SliceJob(source, target, name, collection, i))
        else:
            jobs.append(SinogramJob(source, target, name, collection, i))
    refuse_collisions(jobs, {Path(job.source).resolve() for job in jobs if job.source})
    return ScanPlan(jobs, measured, failures, list(dict.fromkeys(notes)))


def plan_projections(
    inputs: Iterable[str], output: str, *, format: str | None = None, num_views: int | None = None
) -> ScanPlan | None:
    """Jobs for folders of DICOM-CT-PD projections, one a slice; None if no input is one.

    Args:
        inputs: Folders.
        output: As of `plan_scans`; no folder that the projections are in.
        format: Of `FORMATS`; None for what the output's suffix says, or DICOM.
        num_views: Projections a turn to take; None for all.

    Raises:
        UsageError: Other inputs among them, more views than there are, or results among the projections.
        InputError: Nothing that can be used.
    """
    paths, folder = [Path(text) for text in inputs], Path(output)
    sinograms = {path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()}
    kinds = {path not in sinograms and path.exists() and holds_projections(path, folder) for path in paths}
    if True not in kinds:
        return None
    if len(kinds) > 1:
        raise UsageError(
            "projections, DICOM slices and sinograms do not go together; reconstruct each in its own run"
        )
    suffix = _output_suffix(output, format)
    failures: list[InputError] = []
    scans: list[tuple[Path, Projections]] = []
    for path in paths:
        if folder.resolve() == path.resolve():
            raise UsageError(f"-o {output}: is the folder of the projections; give another -o")
        found, unusable = find_projections(path, folder)
        failures += unusable
        for scan in found:
            try:
                scans.append((path, scan if num_views is None else scan.thinned(num_views)))
            except InputError as error:
                failures.append(error)
    if not scans:
        raise failures[0]
    as_file = _is_one_file(output, sum(scan.num_slices for _, scan in scans))
    jobs: list[Job] = []
    for number, (path, scan) in enumerate(scans):
        stem = (path if path.is_dir() else path.parent).resolve().name
        stem += f"_scan{number + 1}" if len(scans) > 1 else ""
        for i in range(scan.num_slices):
            name = Path(f"{stem}_{i + 1:04}")
            jobs.append(ProjectionJob(path, folder if as_file else folder / f"{name}{suffix}", name, scan, i))
    notes = [note for _, scan in scans for note in scan.notes]
    return ScanPlan(jobs, True, failures, notes, tuple(scan for _, scan in scans))


def _is_file_name(output: str) -> bool:
    return Path(output).suffix.lower() in (*FORMATS.values(), ".tiff") and not Path(output).is_dir()


def _is_one_file(output: str, num_slices: int) -> bool:
    """Whether the output is a file and no folder; a UsageError if it is and the slices do not fit."""
    if _is_file_name(output) and num_slices > 1:
        raise UsageError(f"-o {output}: {num_slices} slices do not fit one file; give a folder")
    return _is_file_name(output)


def _output_suffix(output: str, format: str | None) -> str:
    if format is not None and format not in FORMATS:
        raise UsageError(f"--format {format}: known are {', '.join(FORMATS)}")
    if not _is_file_name(output):
        return FORMATS[format or "dicom"]
    suffix = Path(output).suffix.lower().replace(".tiff", ".tif")
    if format is not None and FORMATS[format] != suffix:
        raise UsageError(f"-o {output} and --format {format} name two formats; give one")
    return suffix


def _slices(
    path: Path, folder: Path, pixel_mm: float | None, failures: list[InputError], notes: list[str]
) -> list[tuple[Path, Series, int, Path]]:
    """Slices of a DICOM file or folder that are no results of ours."""
    found = find_series(path, pixel_mm=None if pixel_mm is None else (pixel_mm, pixel_mm))
    sources = [series for series in found.series if RESULT_MARK not in series.description]
    if sources and len(sources) < len(found.series):
        notes.append(f"{path}: {len(found.series) - len(sources)} series that deepgsr made are passed over")
    # A result that lacks slices, as after a failure, is no fault of the input; its sentence has its name.
    failures += [error for error in found.failures if not (sources and RESULT_MARK in str(error))]
    outputs_below = path.resolve() in folder.resolve().parents
    passed_over = len(found.skipped) + found.num_ignored
    if passed_over:
        notes.append(f"{path}: {passed_over} files passed over that are no CT slices")
    slices = []
    for series in sources or found.series:
        notes += [f"series {series.description!r}: {note}" for note in series.notes]
        for i, file in enumerate(series.slices):
            if outputs_below and file.path.resolve().is_relative_to(folder.resolve()):
                continue
            name = file.path.relative_to(path) if path.is_dir() else Path(file.path.name)
            if name.suffix.lower() in _DICOM_SUFFIXES:  # others are part of the name, as in 1.2.840.10008
                name = name.with_suffix("")
            frame = "" if file.frame is None else f"_{file.frame + 1:04}"
            slices.append((file.path, series, i, name.with_name(name.name + frame)))
    return slices


def _stack_names(sinograms: Sinograms) -> list[Path]:
    stem, count = sinograms.path.stem, sinograms.num_slices
    return [Path(stem)] if count == 1 else [Path(f"{stem}_{i + 1:04}") for i in range(count)]


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
class ResultWriter:
    """Writes the results of jobs in HU, as DICOM, TIFF or NPY by the suffix of their targets.

    Attributes:
        description: What was done, in a few words from "deepgsr" on, for the SeriesDescription.
        derivation: What was done, with all it takes to repeat it, for DICOM.
        geometry: Of measured scans.
    """

    description: str
    derivation: str
    geometry: Geometry | None = None
    _measurement: tuple[Path, str] | None = field(default=None, init=False)

    def __call__(
        self, job: Job, hu: np.ndarray, pixel_mm: tuple[float, float], slice: Slice | None = None
    ) -> None:
        """Write the result, (H, W), of a `SliceJob`, from `slice`, a `SinogramJob` or a `ProjectionJob`.

        Raises:
            OutputError: It cannot be written.
        """
        target = job.target
        assert target is not None
        make_folder(target.parent)
        if target.suffix.lower() == ".npy":
            with atomic_write(target) as temporary, temporary.open("wb") as file:
                np.save(file, hu)
        elif target.suffix.lower() in (".tif", ".tiff"):
            _write_tiff(hu, pixel_mm, target)
        elif isinstance(job, SliceJob):
            assert slice is not None
            DerivedSeries(job.series, self.description, self.derivation).write(slice, hu, target)
        elif isinstance(job, ProjectionJob):
            new, series = _reconstructed_slice(job.projections, job.index, hu.shape, pixel_mm)
            DerivedSeries(series, self.description, self.derivation).write(new, hu, target)
        else:
            assert isinstance(job, SinogramJob)
            assert self.geometry is not None
            # Square elements, as the sinogram does not say how far its slices are apart.
            apart_mm = self.geometry.bin_mm / self.geometry.magnification
            write_new(
                hu,
                pixel_mm,
                target,
                measurement=self._checksum(job.sinograms),
                description=self.description,
                derivation=self.derivation,
                number=job.index + 1,
                z_mm=job.index * apart_mm,
            )

    def _checksum(self, sinograms: Sinograms) -> str:
        if self._measurement is None or self._measurement[0] != sinograms.path:
            self._measurement = sinograms.path, sinograms.checksum()
        return self._measurement[1]


def _reconstructed_slice(
    projections: Projections, i: int, shape: tuple[int, int], pixel_mm: tuple[float, float]
) -> tuple[Slice, Series]:
    """A slice with the header of a scan's projections, and the series of it, to write pixels into."""
    header = Dataset()
    header.update(projections.header)
    z_mm = projections.z_mm[i]
    header.Modality = "CT"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PixelRepresentation, header.BitsStored = 1, 16
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = "1", "0", "HU"
    header.WindowCenter, header.WindowWidth = "40", "400"
    header.InstanceNumber = i + 1
    header.PixelSpacing = [f"{mm:.8g}" for mm in pixel_mm]
    rows_mm, columns_mm = ((size - 1) * mm for size, mm in zip(shape, pixel_mm))
    header.ImagePositionPatient = [f"{mm:.8g}" for mm in (-columns_mm / 2, -rows_mm / 2, z_mm)]
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.SliceThickness = f"{projections.spacing_mm:.8g}"
    header.ReconstructionDiameter = f"{shape[1] * pixel_mm[1]:.8g}"
    header.DistanceSourceToPatient = f"{projections.detector.focus_mm:.8g}"
    header.DistanceSourceToDetector = f"{projections.detector.reach_mm:.8g}"
    file = SliceFile(projections.nearest_file(i))
    nothing = np.zeros(shape, np.int16)
    new = Slice(nothing.astype(np.float32), nothing > 0, nothing, pixel_mm, (0.0, 0.0, z_mm), header, file)
    description = str(header.get("SeriesDescription", ""))
    return new, Series(str(header.SeriesInstanceUID), description, shape, pixel_mm, (file,))


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


def _write_tiff(hu: np.ndarray, pixel_mm: tuple[float, float], path: Path) -> None:
    """Write float32 HU, with unit and pixel size as JSON in the description."""
    import tifffile

    description = json.dumps({"unit": "HU", "pixel_mm": pixel_mm})
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, hu, photometric="minisblack", description=description, metadata=None)


def windowed(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Gray values, uint8, (H, W), of HU in a window of a centre and a width."""
    centre, width = window_hu
    return np.rint(((hu - centre) / width + 0.5).clip(0, 1) * 255).astype(np.uint8)


def slice_images(
    reference: np.ndarray, methods: dict[str, np.ndarray], window_hu: tuple[float, float]
) -> list[ReportImage]:
    """Pictures of a slice, (H, W) in HU, for the report: reconstructions, the reference, errors."""
    images = [ReportImage(name, windowed(hu, window_hu)) for name, hu in methods.items()]
    images.append(ReportImage("Reference", windowed(reference, window_hu)))
    for name, hu in methods.items():
        label = f"Error of {name}, ±{ERROR_WINDOW_HU:g} HU"
        images.append(ReportImage(label, windowed(hu - reference, (0.0, 2 * ERROR_WINDOW_HU))))
    return images
