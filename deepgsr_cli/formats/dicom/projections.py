"""Measured projections in DICOM-CT-PD, one file a projection: headers and pixels."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import generate_uid

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import files_below
from deepgsr_cli.words import counted

# Decoded projections kept for the next slice: a turn of 2304 views by 736 x 64 elements.
_CACHE_BYTES = 2**28
# 1/mm at the energies of CT; a value in 1/cm is far beyond.
_WATER_RANGE = (0.01, 0.04)

_NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)
ANGLE = (0x7031, 0x1001)
_TAGS = {
    "NumberofDetectorRows": (0x7029, 0x1010),
    "NumberofDetectorColumns": (0x7029, 0x1011),
    "DetectorElementTransverseSpacing": (0x7029, 0x1002),
    "DetectorElementAxialSpacing": (0x7029, 0x1006),
    "DetectorShape": (0x7029, 0x100B),
    "DetectorFocalCenterAngularPosition": ANGLE,
    "DetectorFocalCenterAxialPosition": (0x7031, 0x1002),
    "DetectorFocalCenterRadialDistance": (0x7031, 0x1003),
    "ConstantRadialDistance": (0x7031, 0x1031),
    "DetectorCentralElement": (0x7031, 0x1033),
    "SourceAngularPositionShift": (0x7033, 0x100B),
    "SourceAxialPositionShift": (0x7033, 0x100C),
    "SourceRadialDistanceShift": (0x7033, 0x100D),
    "SpectrumIndex": (0x7033, 0x1063),
    "LogFlag": (0x7039, 0x1009),
    "WaterAttenuationCoefficient": (0x7041, 0x1001),
}
_SHAPES = {"CYLINDRICAL": "fan-arc", "SPHERICAL": "fan-arc", "FLAT": "fan-flat"}
# Elements of the projections that hold for the slices too.
_CARRIED = """
    SpecificCharacterSet PatientName PatientID PatientBirthDate PatientSex PatientAge PatientWeight
    PatientIdentityRemoved DeidentificationMethod StudyInstanceUID StudyID StudyDate StudyTime
    StudyDescription AccessionNumber ReferringPhysicianName SeriesInstanceUID SeriesNumber
    SeriesDescription FrameOfReferenceUID PositionReferenceIndicator Manufacturer ManufacturerModelName
    InstitutionName BodyPartExamined ProtocolName PatientPosition AcquisitionNumber AcquisitionDate
    AcquisitionTime TimezoneOffsetFromUTC KVP XRayTubeCurrent ExposureTime ContrastBolusAgent
    DataCollectionDiameter ReconstructionDiameter SpiralPitchFactor
"""


@dataclass(frozen=True)
class Detector:
    """What all projections of a scan have in common.

    Attributes:
        kind: "fan-arc" or "fan-flat".
        num_rows: Along the axis of rotation.
        num_columns: Around it.
        row_mm: Distance of two rows, on the detector.
        column_mm: Distance of two columns, on the detector.
        central_row: Row that faces the isocentre from the focal centre, from 0.
        central_column: Column that does, from 0.
        focus_mm: Distance from the focal centre, the source unless it flies, to the isocentre.
        reach_mm: Distance from the focal centre to the detector.
    """

    kind: str
    num_rows: int
    num_columns: int
    row_mm: float
    column_mm: float
    central_row: float
    central_column: float
    focus_mm: float
    reach_mm: float

    @property
    def row_at_isocentre_mm(self) -> float:
        """Distance of two rows, seen at the isocentre."""
        return self.row_mm * self.focus_mm / self.reach_mm

    def fan_angles_rad(self) -> np.ndarray:
        """Angles of the columns' rays, (N,), to the central one."""
        position = (np.arange(self.num_columns) - self.central_column) * self.column_mm / self.reach_mm
        return position if self.kind == "fan-arc" else np.arctan(position)

    def heights_per_offset(self, fan: np.ndarray) -> np.ndarray:
        """Height on the detector, over the height at the ray's point nearest to the axis."""
        along = self.reach_mm if self.kind == "fan-arc" else self.reach_mm / np.cos(fan)
        return along / (self.focus_mm * np.cos(fan))


@dataclass(frozen=True)
class View:
    """One file: where its pixels are from, and where its source was."""

    path: Path
    number: int
    series: str
    detector: Detector
    position: str
    angle: float
    z_mm: float
    shift: tuple[float, float, float]  # of the source from the focal centre: rad, mm along z, mm outwards
    slope: float
    intercept: float


class ViewPixels:
    """Reads stored values, and keeps `_CACHE_BYTES` of those asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __reduce__(self) -> tuple[type[ViewPixels], tuple[()]]:
        """Go to another process without what is kept."""
        return ViewPixels, ()

    def __call__(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """Stored values, (rows, columns) of the detector.

        Raises:
            InputError: The file cannot be read, or has another shape.
        """
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = pydicom.dcmread(path).pixel_array
        except Exception as error:  # anything, on hostile bytes
            raise InputError(
                f"{path}: the pixel data are missing, damaged or cut short; copy or export it again"
            ) from error
        if pixels.shape not in (shape, shape[::-1]):
            raise InputError(f"{path}: is {pixels.shape} now; give the folder again")
        # As the collection at TCIA has them, a row of the picture is a column of the detector.
        pixels = pixels.T if pixels.shape == shape[::-1] else pixels
        self._kept[path] = pixels
        while len(self._kept) > 1 and len(self._kept) * pixels.nbytes > _CACHE_BYTES:
            self._kept.popitem(last=False)
        return pixels


def holds_projections(path: Path, without: Path | None = None) -> bool:
    """Whether the first DICOM file with pixels of a folder, or of each below it, is a DICOM-CT-PD projection.

    Args:
        path: A file or a folder.
        without: A folder that does not count.

    Raises:
        InputError: Some are, and some are images.
    """
    kinds: dict[bool, Path] = {}
    seen: set[Path] = set()
    for file in files_below(path, [], without):  # what cannot be listed is told where the files are read
        if file.parent in seen:
            continue
        found = projection_header(file)
        if found is not None and "Rows" in found[0]:  # a report may come before
            seen.add(file.parent)
            kinds.setdefault(ANGLE in found[0], file.parent)
    if len(kinds) > 1:
        raise InputError(
            f"{path}: holds projections, in {kinds[True]}, and images, in {kinds[False]}; give one of them"
        )
    return True in kinds


def projection_header(path: Path) -> tuple[FileDataset, int] | None:
    """Elements before the pixel data, and the bytes from there on; None for what is no DICOM file."""
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(stream, stop_before_pixels=True)
            return header, path.stat().st_size - stream.tell()
    except Exception:  # anything, on hostile bytes: told where it is read as an image
        return None


def view_of(path: Path, header: FileDataset, num_bytes: int) -> View:
    """What the header of a projection says, with so many bytes after it.

    Raises:
        InputError: An element is missing or impossible, or the pixel data are cut short.
    """
    tags = _Elements(path, header)
    if tags.text("LogFlag", "YES").upper() == "NO":
        raise InputError(f"{path}: LogFlag is NO, so it has no line integrals; give them after the logarithm")
    shape = tags.text("DetectorShape").upper()
    rows, columns = tags.count("NumberofDetectorRows"), tags.count("NumberofDetectorColumns")
    if shape not in _SHAPES or (shape == "SPHERICAL" and rows > 1):
        raise InputError(
            f"{path}: DetectorShape is {shape}, with {rows} rows, which is not supported; give projections by"
            " a CYLINDRICAL or FLAT detector"
        )
    stored = (header.get("Rows"), header.get("Columns"))
    if stored not in ((rows, columns), (columns, rows)):
        raise InputError(
            f"{path}: has {stored[0]} x {stored[1]} pixels for {rows} x {columns} elements; export it again"
        )
    if header.get("BitsAllocated") != 16:
        raise InputError(f"{path}: has {header.get('BitsAllocated')} bits a pixel, not 16; export it again")
    if header.file_meta.TransferSyntaxUID in _NATIVE and num_bytes < 2 * rows * columns:
        raise InputError(f"{path}: the pixel data are cut short; copy or export it again")
    central = tags.numbers("DetectorCentralElement", 2)
    detector = Detector(
        kind=_SHAPES[shape],
        num_rows=rows,
        num_columns=columns,
        row_mm=tags.length("DetectorElementAxialSpacing"),
        column_mm=tags.length("DetectorElementTransverseSpacing"),
        central_row=central[1] - 1,
        central_column=central[0] - 1,
        focus_mm=tags.length("DetectorFocalCenterRadialDistance"),
        reach_mm=tags.length("ConstantRadialDistance"),
    )
    shift = [
        tags.numbers(f"Source{name}Shift", 1, 0.0)[0]
        for name in ("AngularPosition", "AxialPosition", "RadialDistance")
    ]
    try:
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: lacks RescaleSlope or RescaleIntercept, so its values mean nothing; export it again"
        ) from error
    spectrum = tags.count("SpectrumIndex", 1)
    return View(
        path,
        int(header.get("InstanceNumber") or 0),
        f"{header.get('SeriesInstanceUID') or path.parent.resolve()} {spectrum}",
        detector,
        str(header.get("PatientPosition") or "").strip(),
        tags.numbers("DetectorFocalCenterAngularPosition", 1)[0],
        tags.numbers("DetectorFocalCenterAxialPosition", 1)[0],
        (shift[0], shift[1], shift[2]),
        slope,
        intercept,
    )


class _Elements:
    """Private elements of a file, by name; without a dictionary their values may be the raw bytes."""

    def __init__(self, path: Path, header: Dataset) -> None:
        self._path, self._header = path, header

    def _raw(self, name: str, default: Any) -> Any:
        tag = _TAGS[name]
        value = self._header[tag].value if tag in self._header else None
        if value is None or value in (b"", ""):
            if default is None:
                raise InputError(
                    f"{self._path}: lacks {name} ({tag[0]:04X},{tag[1]:04X}), so its rays are not known;"
                    " export it again"
                )
            return default
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._raw(name, default)
        return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")

    def numbers(
        self, name: str, count: int, default: float | None = None, dtype: str = "<f4"
    ) -> tuple[float, ...]:
        """Finite numbers."""
        value = self._raw(name, default)
        try:
            numbers = np.frombuffer(value, dtype) if isinstance(value, bytes) else np.atleast_1d(value)
            listed = tuple(float(number) for number in numbers)
        except (TypeError, ValueError):
            listed = ()
        if len(listed) != count or not np.isfinite(listed).all():
            many = counted(count, "finite number")
            raise InputError(f"{self._path}: {name} is not {many}; export it again")
        return listed

    def length(self, name: str) -> float:
        (number,) = self.numbers(name, 1)
        if number <= 0:
            raise InputError(f"{self._path}: {name} is {number:g} mm, not above 0; export it again")
        return number

    def count(self, name: str, default: int | None = None) -> int:
        (number,) = self.numbers(name, 1, default, "<u2")
        return int(number)


def water_of(path: Path, header: Dataset) -> float | None:
    """Attenuation of water in 1/mm, None if the file does not say."""
    text = _Elements(path, header).text("WaterAttenuationCoefficient", "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _WATER_RANGE[0] <= value <= _WATER_RANGE[1]:
        raise InputError(
            f"{path}: WaterAttenuationCoefficient is {text}, but in 1/mm it is {_WATER_RANGE[0]} to"
            f" {_WATER_RANGE[1]}; correct it"
        )
    return value


def carried_by(path: Path, header: Dataset) -> Dataset:
    """What holds for the slices too, with UIDs where they are missing."""
    carried = Dataset()
    for keyword in _CARRIED.split():
        if keyword in header:
            carried[keyword] = header[keyword]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not carried.get(keyword):
            setattr(carried, keyword, generate_uid(entropy_srcs=[keyword, str(path.resolve().parent)]))
    return carried
