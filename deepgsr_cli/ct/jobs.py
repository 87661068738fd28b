"""What there is to reconstruct: DICOM slices whose scan is simulated, measured sinograms and projections."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from deepgsr_cli.ct.projections import FanBeams, find_projections
from deepgsr_cli.errors import InputError, OptionError, ShapeError, UsageError, UserError
from deepgsr_cli.formats.dicom.mark import DICOM_SUFFIXES
from deepgsr_cli.formats.dicom.projections import holds_projections
from deepgsr_cli.formats.dicom.series import Series, find_series
from deepgsr_cli.formats.sinograms import SUFFIXES, VALUES, Sinograms
from deepgsr_cli.jobs.plan import Job, Plan, expanded, refuse_collisions, told_apart
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.geometry_files import geometry_of
from deepgsr_cli.words import counted

FORMATS = {"dicom": ".dcm", "tiff": ".tif", "npy": ".npy"}
# Of sinograms that may say their geometry themselves.
_WITH_PARAMETERS = ".mat"
# What the SeriesDescription of a derived series has, after the source's; see `ResultWriter.description`.
RESULT_MARK = "[deepgsr "
# What files that are no slices of ours are called, and hardly ever folders.
_FOREIGN = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jp2",
    ".webp",
    ".gif",
    ".bmp",
    ".npz",
    ".h5",
    ".mat",
    ".nii",
    ".nrrd",
    ".mha",
)


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
    """A slice of a measured sinogram, and the geometry it was measured with."""

    sinograms: Sinograms
    index: int
    geometry: Geometry

    @property
    def label(self) -> str:
        return str(self.source) + (f" slice {self.index + 1}" if self.sinograms.num_slices > 1 else "")


@dataclass(frozen=True)
class ProjectionJob(Job):
    """A slice of a scan in DICOM-CT-PD files."""

    projections: FanBeams
    index: int

    @property
    def label(self) -> str:
        return f"{self.source} z={self.projections.z_mm[self.index]:.2f} mm"


# Source of a slice, its collection, its index there, name.
_Found: TypeAlias = tuple[Path, Series | tuple[Sinograms, Geometry], int, Path]


@dataclass(frozen=True)
class ScanPlan(Plan):
    """What is to be reconstructed.

    Attributes:
        measured: Whether the jobs, which are of one kind, are sinograms or projections.
        geometry: What was given, of the sinograms or of the scan that is simulated; that of the first
            sinogram, if the files say it.
        projections: The scans, where they are projections.
    """

    measured: bool = False
    geometry: Geometry | None = None
    projections: tuple[FanBeams, ...] = ()


def plan_scans(
    inputs: Iterable[str],
    output: str,
    *,
    format: str | None = None,
    geometry: Geometry | None = None,
    pixel_mm: float | None = None,
    simulation: bool = False,
    values: str | None = None,
) -> ScanPlan:
    """Plan jobs for DICOM files and folders, or for sinograms.

    The output is a file for one slice, if it has the suffix of a format; else a folder, below which the trees
    of input folders are kept. What lies in an output folder below an input folder is not taken as input, nor
    are derived series of ours in a folder that holds others.

    Args:
        inputs: DICOM files or folders, or sinogram files; glob patterns of them.
        output: File or folder.
        format: Of `FORMATS`; None for what the output's suffix says, or DICOM.
        geometry: Of the sinograms; of the simulated scan, if there is one, for DICOM.
        pixel_mm: Distance of rows and columns for DICOM files that do not state it.
        simulation: Whether a scan of DICOM slices is simulated, which a geometry may be for; inputs that are
            projections have then gone to `plan_projections`.
        values: What the numbers of sinograms are, of `sinograms.VALUES`; None to tell by the file.

    Raises:
        UsageError: Both kinds, a geometry for DICOM that is not for a simulation, none for sinograms which do
            not say it,
            `values` for DICOM or unknown, projections, two results for one path, or a result in place of an
            input.
        InputError: Nothing that can be used.
    """
    paths = expanded(inputs)
    kinds = {path.suffix.lower() in SUFFIXES and not path.is_dir() for path in paths}
    if len(kinds) > 1:
        raise UsageError("DICOM and sinograms do not go together; reconstruct them in two runs")
    measured = kinds == {True}
    unknown = [path for path in paths if path.suffix.lower() != _WITH_PARAMETERS]
    if measured and geometry is None and unknown:
        raise UsageError(
            f"{unknown[0]}: a measured sinogram needs --geometry FILE, which says how it was made; if these"
            " are slices in HU, give them as DICOM"
        )
    if geometry is not None and not measured and not simulation:
        raise UsageError("--geometry is for measured sinograms; leave it out for DICOM slices")
    if values is not None and (not measured or values not in VALUES):
        advice = f"known are {', '.join(VALUES)}" if measured else "is for measured sinograms; leave it out"
        raise OptionError("values", values, advice)
    suffix = _output_suffix(output, format)
    folder = Path(output)
    # Before a simulation, `plan_projections` has looked.
    for path in () if measured or simulation else paths:
        if holds_projections(path, folder):
            raise UsageError(f"{path}: holds DICOM-CT-PD projections; reconstruct them first, with ct-recon")
    plan = ScanPlan([], measured=measured, geometry=geometry)
    listed: list[_Found] = []
    for path in paths:
        try:
            if measured:
                scan = _read_sinograms(path, geometry, values)
                listed += [(path, scan, i, name) for i, name in enumerate(_stack_names(scan[0]))]
            else:
                listed += _slices(path, folder, pixel_mm, plan)
        except InputError as error:
            plan.failures.append(error)
    # A slice that is in two inputs, as a file and its folder, is done once.
    once: dict[tuple[str, int | None], _Found] = {}
    for each in listed:
        once.setdefault(_identity(*each[:3]), each)
    found = list(once.values())
    if not found and plan.failures:
        raise plan.failures[0]
    if not found:
        raise InputError(f"{paths[0]}: all its CT slices are in {output}, where results go; give another -o")
    as_file = _is_one_file(output, len(found))
    for source, collection, i, name in found:
        target = folder if as_file else folder / f"{name}{suffix}"
        if isinstance(collection, Series):
            plan.jobs.append(SliceJob(source, target, name, collection, i))
        else:
            sinograms, of_file = collection
            plan.jobs.append(SinogramJob(source, target, name, sinograms, i, of_file))
    jobs, apart = told_apart(plan.jobs)
    refuse_collisions(jobs)
    notes = list(dict.fromkeys([*plan.notes, *apart]))
    if measured and geometry is None:
        geometry = next(job.geometry for job in jobs if isinstance(job, SinogramJob))
        notes.append("the geometry is that of the files' parameters")
    return replace(plan, jobs=jobs, notes=notes, geometry=geometry)


def plan_projections(
    inputs: Iterable[str], output: str, *, format: str | None = None, num_views: int | None = None
) -> ScanPlan | None:
    """Plan jobs for folders of DICOM-CT-PD projections, one a slice; None if no input is one.

    Args:
        inputs: Folders, or glob patterns of them.
        output: As of `plan_scans`; no folder that the projections are in.
        format: Of `FORMATS`; None for what the output's suffix says, or DICOM.
        num_views: Projections a turn to take; None for all.

    Raises:
        UsageError: Other inputs among them, more views than there are, or results among the projections.
        InputError: Nothing that can be used.
    """
    paths, folder = expanded(inputs), Path(output)
    sinograms = {path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()}
    kinds = {path not in sinograms and path.exists() and holds_projections(path, folder) for path in paths}
    if True not in kinds:
        return None
    if len(kinds) > 1:
        raise UsageError(
            "projections, DICOM slices and sinograms do not go together; reconstruct each in its own run"
        )
    suffix = _output_suffix(output, format)
    failures: list[UserError] = []
    scans: list[tuple[Path, FanBeams]] = []
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
    return ScanPlan(jobs, notes, failures, measured=True, projections=tuple(scan for _, scan in scans))


def _identity(
    source: Path, collection: Series | tuple[Sinograms, Geometry], index: int
) -> tuple[str, int | None]:
    """What is one slice, however it is named: the real path of its file, and its number there."""
    number = collection.slices[index].frame if isinstance(collection, Series) else index
    return os.path.realpath(source), number


def _is_file_name(output: str) -> bool:
    """Whether the output is a file by its name; a UsageError if it is one of another kind."""
    path = Path(output)
    if path.is_dir():
        return False
    if path.suffix.lower() in _FOREIGN and not output.endswith("/"):
        raise UsageError(f"-o {output}: give a slice a name in .dcm, .tif or .npy; for a folder, {output}/")
    return path.suffix.lower() in (*FORMATS.values(), ".tiff")


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
    path: Path, folder: Path, pixel_mm: float | None, plan: ScanPlan
) -> list[tuple[Path, Series, int, Path]]:
    """Find the slices of a DICOM file or folder that are no results of ours; the plan gets what is told."""
    found = find_series(path, pixel_mm=None if pixel_mm is None else (pixel_mm, pixel_mm))
    sources = [series for series in found.series if RESULT_MARK not in series.description]
    if sources and len(sources) < len(found.series):
        plan.notes.append(
            f"{path}: {len(found.series) - len(sources)} series that deepgsr made are passed over"
        )
    # A result that lacks slices, as after a failure, is no fault of the input; its sentence has its name.
    plan.failures.extend(error for error in found.failures if not (sources and RESULT_MARK in str(error)))
    outputs_below = path.resolve() in folder.resolve().parents
    if found.passed_over:
        plan.notes.append(f"{path}: {counted(len(found.passed_over), 'file')} passed over, no CT slices")
        plan.passed_over.extend(found.passed_over)
    slices = []
    for series in sources or found.series:
        plan.notes.extend(f"series {series.description!r}: {note}" for note in series.notes)
        for i, file in enumerate(series.slices):
            if outputs_below and file.path.resolve().is_relative_to(folder.resolve()):
                continue
            name = file.path.relative_to(path) if path.is_dir() else Path(file.path.name)
            if name.suffix.lower() in DICOM_SUFFIXES:  # others are part of the name, as in 1.2.840.10008
                name = name.with_suffix("")
            frame = "" if file.frame is None else f"_{file.frame + 1:04}"
            slices.append((file.path, series, i, name.with_name(name.name + frame)))
    return slices


def _read_sinograms(path: Path, geometry: Geometry | None, values: str | None) -> tuple[Sinograms, Geometry]:
    """Open a file of sinograms; its geometry is the one given, or that of its parameters.

    Raises:
        InputError: It cannot be read, or has neither.
    """
    if geometry is None:
        sinograms = Sinograms(path, None, None, values)
        if not sinograms.parameters:
            raise InputError(f"{path}: says nothing of its geometry; give --geometry FILE")
        try:
            geometry = geometry_of(sinograms.parameters)
        except (InputError, ShapeError) as error:
            raise InputError(f"{path}: {error.for_command_line()}") from error
    sinograms = Sinograms(path, geometry.num_views, geometry.num_bins, values)
    _check_angles(sinograms, geometry)
    return sinograms, geometry


def _check_angles(sinograms: Sinograms, geometry: Geometry) -> None:
    """Refuse a sinogram that states angles which its geometry does not have.

    They may differ by the first, by the sense and by full turns.

    Raises:
        InputError: The angles run otherwise.
    """
    if sinograms.theta is None:
        return
    since = np.array(geometry.angles_rad) - geometry.angles_rad[0]
    theta = sinograms.theta.astype(float)  # whole numbers without a sign have no differences below 0
    theta -= theta[:1]
    if theta.shape == since.shape:
        step = np.abs(since).max() / max(len(since) - 1, 1)
        # Files do not always say whether they mean degrees.
        for turned in (np.radians(theta), -np.radians(theta), theta, -theta):
            apart = (turned - since + math.pi) % math.tau - math.pi
            if np.abs(apart).max() <= step / 2:
                return
    ours_deg, its_deg = math.degrees(np.abs(since).max()), np.abs(theta).max(initial=0)
    raise InputError(
        f"{sinograms.path}: its theta is of {len(theta)} views over {its_deg:g} degrees, the"
        f" geometry of {len(since)} over {ours_deg:g}; correct num_views, range_deg or angles_deg"
    )


def _stack_names(sinograms: Sinograms) -> list[Path]:
    stem, count = sinograms.path.stem, sinograms.num_slices
    return [Path(stem)] if count == 1 else [Path(f"{stem}_{i + 1:04}") for i in range(count)]
