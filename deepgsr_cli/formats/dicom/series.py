"""Series of CT slices found in DICOM files and folders, in the order of their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.files import files_below
from deepgsr_cli.formats.dicom.header import (
    NotCTError,
    count_frames,
    damaged,
    decimal_text,
    frame_groups,
    frame_position,
    numbers_of,
    quiet_pydicom,
    read_header,
    rescale_of,
    text_of,
    values_of,
)
from deepgsr_cli.formats.dicom.mark import DICOM_SUFFIXES
from deepgsr_cli.words import counted

_TOLERANCE_MM = 1e-2
# No slice and no metal has more HU; the cosine of the largest tilt from the axis that a gantry is not near.
_MOST_HU, _LEAST_AXIAL = 1e8, 0.5
_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
# Sides that slices have, from those of small animals to those of large ones.
_SIDES_MM = (5.0, 2000.0)
# Maps of what two energies tell, whose values are not HU unless RescaleType says so (PS3.3 C.8.2.1).
_NO_HU = ("MAT_SPECIFIC", "MAT_FRACTIONAL", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY")
# What one frame differs from another in, as far as finding and ordering slices goes.
_OF_A_FILE = ("ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType")
_OF_A_FRAME = (*_OF_A_FILE, "ImagePositionPatient", "SliceLocation", "InstanceNumber")
# What slices are ordered by, the best first, and the unit of their distances.
_ORDERS = (("ImagePositionPatient", "mm"), ("SliceLocation", "mm"), ("InstanceNumber", "instance numbers"))


@dataclass(frozen=True, slots=True)
class SliceFile:
    """Where a slice is: a file, and the frame in it from 0; None if the file holds no more than one."""

    path: Path
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Slices of one series with one orientation, shape and pixel size, sorted along their normal.

    Attributes:
        uid: SeriesInstanceUID, made up from the folder's path where the files have none.
        description: SeriesDescription, empty where there is none.
        shape: Rows and columns.
        pixel_mm: Distance between rows and between columns.
        slices: Files of the slices, in the order of their positions along the normal.
        notes: What was assumed or is unusual, one sentence each.
    """

    uid: str
    description: str
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    slices: tuple[SliceFile, ...]
    notes: tuple[str, ...] = ()
    # The last header of a multi-frame file: parsing one of 1000 frames anew for each frame is quadratic.
    _header: dict[Path, Dataset] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Series], tuple[object, ...]]:
        """Go to another process without the header, which that one reads itself."""
        return Series, (self.uid, self.description, self.shape, self.pixel_mm, self.slices, self.notes)


@dataclass(frozen=True, slots=True)
class Found:
    """What a file or folder holds.

    Attributes:
        series: CT series, in the order of their first files.
        failures: One a file or series that cannot be used; each message names it.
        skipped: DICOM files that are no CT slices, each with its reason.
        passed_over: Those files, and files that are not DICOM.
    """

    series: list[Series]
    failures: list[InputError]
    skipped: list[NotCTError]
    passed_over: list[Path]


class _Place(NamedTuple):
    """A coordinate slices are ordered by, and the unit of the last decimal it is written with."""

    at: float
    last_decimal: float


class _Candidate(NamedTuple):
    """A slice before it is put in order."""

    file: SliceFile
    key: tuple[Any, ...]
    description: str
    pixel_mm: tuple[float, float]
    places: tuple[_Place | None, ...]  # one for each of _ORDERS
    notes: tuple[str, ...]
    instance: tuple[str, int]  # SOPInstanceUID and frame
    has_position: bool  # in its file, if not for itself


@quiet_pydicom()
def find_series(path: Path, *, pixel_mm: tuple[float, float] | None = None) -> Found:
    """Find the CT series in a file or, at any depth, in a folder, by headers only.

    A series is what shares SeriesInstanceUID, orientation, shape and pixel size. Slices are ordered by
    ImagePositionPatient along their normal; where one has none by SliceLocation, or else InstanceNumber.
    Slices at one place are refused. Gaps and mixed spacing are noted: distances may differ by 0.01 mm, or by
    one unit of the last decimal the positions are written with, but by a quarter of the distance at most.
    Suffixes do not matter; hidden files are passed over.

    Args:
        path: A file or a folder.
        pixel_mm: Distance between rows and between columns for files that do not state it.

    Raises:
        InputError: A single file that cannot be used, nothing to report in a folder, or a path that cannot
            be read.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; check the path")
    failures: list[InputError] = []
    skipped: list[NotCTError] = []
    files = files_below(path, failures)
    candidates: dict[tuple[Any, ...], list[_Candidate]] = {}
    passed_over: list[Path] = []
    for file in files:
        try:
            header = read_header(file)
            if header is None:
                if path.is_dir() and file.suffix.lower() in DICOM_SUFFIXES:
                    # Of a copy that broke off, as others of the series are whole.
                    raise InputError(f"{file}: is not a DICOM file, whose suffix it has; copy it again")
                passed_over.append(file)
                continue
            for candidate in _candidates(file, header, pixel_mm):
                candidates.setdefault(candidate.key, []).append(candidate)
        except NotCTError as error:
            skipped.append(error)
            passed_over.append(file)
        except InputError as error:
            failures.append(error)
    series = []
    for group in candidates.values():
        try:
            series.append(_series(group))
        except InputError as error:
            failures.append(error)
    refused = [*failures, *skipped]
    if not series and not path.is_dir():
        if refused:
            raise refused[0]
        if path.suffix.lower() in _ARCHIVES and ".nii" not in path.suffixes:
            raise InputError(f"{path}: is an archive; unpack it, and give the folder")
        raise InputError(
            f"{path}: is not a DICOM file; give a CT slice as DICOM (NIfTI and NRRD are not read)"
        )
    if not files and not failures:
        raise InputError(f"{path}: has no files; give a folder with DICOM files")
    if not series and not failures:
        reason = f"; the first refused: {skipped[0]}" if skipped else "; give a folder with DICOM files"
        raise InputError(f"{path}: none of its files is a CT slice ({counted(len(files), 'file')}){reason}")
    return Found(series, failures, skipped, passed_over)


def _candidates(path: Path, header: Dataset, pixel_mm: tuple[float, float] | None) -> list[_Candidate]:
    try:
        num_frames = count_frames(header)
        groups = header.get("PerFrameFunctionalGroupsSequence")
        if groups and len(groups) != num_frames:
            raise ValueError(f"{num_frames} frames, but functional groups of {len(groups)}")
        return [_candidate(path, header, frame, pixel_mm) for frame in range(num_frames)]
    except UserError:
        raise
    except Exception as error:  # a value that is not what its VR says
        raise damaged(path, error) from error


def _candidate(path: Path, header: Dataset, index: int, pixel_mm: tuple[float, float] | None) -> _Candidate:
    frame = frame_groups(header, index)
    several = count_frames(header) > 1
    if several:
        frame.InstanceNumber = index + 1
    of_all = header.get("PerFrameFunctionalGroupsSequence") or not several
    for keyword in _OF_A_FRAME if of_all else _OF_A_FILE:  # one position cannot be that of several frames
        if keyword in header and keyword not in frame:
            frame[keyword] = header[keyword]
    notes = []
    if (stepped := frame_position(header, index)) is not None:
        frame.ImagePositionPatient = [decimal_text(mm) for mm in stepped]
        notes.append(
            "its frames have one ImagePositionPatient, taken as that of the first; the others follow by"
            " SpacingBetweenSlices or SliceThickness, along the normal"
        )
    kind = str(frame.get("RescaleType") or "HU").strip().upper()
    if frame.get("RescaleType") is None or kind == "US":
        kind = next((name for name in values_of(header, "ImageType") if name in _NO_HU), kind)
    if kind not in ("HU", "US"):
        raise InputError(f"{path}: holds values of type {kind}, not HU; give slices in Hounsfield units")
    if frame.get("RescaleSlope") is None or frame.get("RescaleIntercept") is None:
        notes.append("RescaleSlope or RescaleIntercept is missing; 1 and 0 are taken")
    slope, intercept = rescale_of(frame)
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0, so all pixels are equal; export it again")
    if not max(abs(slope) * 2**16, abs(intercept)) < _MOST_HU:
        raise InputError(
            f"{path}: RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}, which no HU need;"
            " export it again"
        )
    spacing = numbers_of(frame, "PixelSpacing", 2) or pixel_mm
    if spacing is None:
        raise InputError(f"{path}: does not state its PixelSpacing; give it in mm with --pixel-mm")
    row_mm, column_mm = spacing
    if not min(row_mm, column_mm) > 0:
        raise InputError(f"{path}: PixelSpacing is {row_mm} x {column_mm} mm, not positive; export it again")
    sides_mm = int(header.Rows) * row_mm, int(header.Columns) * column_mm
    if not _SIDES_MM[0] <= min(sides_mm) <= max(sides_mm) <= _SIDES_MM[1]:
        notes.append(
            f"PixelSpacing is {row_mm:g} x {column_mm:g} mm, so the slice is {sides_mm[0]:g} x"
            f" {sides_mm[1]:g} mm large: is it in mm?"
        )
    if str(header.get("BurnedInAnnotation") or "").upper() == "YES":
        notes.append("Text is burnt into the pixels and is treated as anatomy")
    if (modality := text_of(header, "Modality")) not in ("", "CT"):
        notes.append(f"Modality is {modality}, in a file of class CT; it is taken as CT in HU")
    if kind == "US":
        notes.append("RescaleType says that the values have no unit; they are taken as HU")
    orientation = numbers_of(frame, "ImageOrientationPatient", 6) or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    normal = np.cross(orientation[:3], orientation[3:])
    if abs(normal[2]) < _LEAST_AXIAL * np.linalg.norm(normal):
        notes.append(
            "its planes are not axial; if they are reformatted, and not as the scanner measured them, rays"
            " and streaks run otherwise than is taken"
        )
    key = (
        str(header.SeriesInstanceUID),
        (int(header.Rows), int(header.Columns)),
        tuple(round(x, 3) + 0.0 for x in orientation),
        (round(row_mm, 5), round(column_mm, 5)),
    )
    return _Candidate(
        SliceFile(path, index if several else None),
        key,
        text_of(header, "SeriesDescription"),
        (row_mm, column_mm),
        _places(frame, orientation),
        tuple(notes),
        (str(header.get("SOPInstanceUID")), index),
        bool(header.get("ImagePositionPatient")),
    )


def _places(frame: Dataset, orientation: Sequence[float]) -> tuple[_Place | None, ...]:
    """Where the frame is by each of `_ORDERS`."""
    normal = np.cross(orientation[:3], orientation[3:])
    position = numbers_of(frame, "ImagePositionPatient", 3)
    steepest = int(np.abs(normal).argmax())
    places: list[_Place | None] = [None]
    if position:
        places = [_Place(float(normal @ position), _last_decimal(frame.ImagePositionPatient[steepest]))]
    for keyword, _ in _ORDERS[1:]:
        number = numbers_of(frame, keyword, 1)
        places.append(_Place(number[0], _last_decimal(frame.get(keyword))) if number else None)
    return tuple(places)


def _last_decimal(number: object) -> float:
    """Unit of the last decimal that a decimal string is written with."""
    return 10.0 ** int(Decimal(str(number)).as_tuple().exponent)


def _series(group: list[_Candidate]) -> Series:
    """The group in order.

    Raises:
        InputError: Slices are doubled, or their order is not known.
    """
    first = group[0]
    folder_or_file = first.file.path.parent if len(group) > 1 else first.file.path
    where = f"{folder_or_file}: series {first.description or first.key[0]!r}"
    notes = [note for candidate in group for note in candidate.notes]
    orders = [
        (keyword, unit, [place for place in places if place is not None])
        for (keyword, unit), places in zip(_ORDERS, zip(*(candidate.places for candidate in group)))
    ]
    complete = [order for order in orders if len(order[2]) == len(group)]
    if not complete and len(group) > 1:
        raise InputError(f"{where} does not say how its slices are ordered; give its files one by one")
    keyword, unit, known = complete[0] if complete else ("", "", [_Place(0, 1)])
    if keyword != _ORDERS[0][0] and len(group) > 1:
        stated = any(candidate.has_position for candidate in group)
        fault = "is one for several slices" if stated else "is missing"
        notes.append(f"ImagePositionPatient {fault}; slices are ordered by {keyword}")
    if len({candidate.instance for candidate in group}) < len(group):
        notes.append("slices share a SOPInstanceUID; the results have one each")
    order = np.argsort([place.at for place in known], kind="stable")
    files = tuple(group[j].file for j in order)
    notes += _spacing_notes(where, files, [known[j] for j in order], unit)
    uid, shape, *_ = first.key
    return Series(uid, first.description, shape, first.pixel_mm, files, tuple(dict.fromkeys(notes)))


def _spacing_notes(where: str, files: Sequence[SliceFile], places: Sequence[_Place], unit: str) -> list[str]:
    """A sentence about slices that are missing or unevenly spaced; none where they are not.

    Raises:
        InputError: Two slices are at one place.
    """
    distances = np.diff([place.at for place in places])
    if not len(distances):
        return []

    def between(j: int) -> str:
        return " and ".join(
            file.path.name + ("" if file.frame is None else f" frame {file.frame + 1}")
            for file in files[j : j + 2]
        )

    nearest, farthest = int(distances.argmin()), int(distances.argmax())
    spacing, gap = distances[nearest], distances[farthest]
    if spacing < _TOLERANCE_MM:
        raise InputError(
            f"{where} has two slices at {places[nearest].at:g} {unit}, {between(nearest)}; "
            "take one away, or give its files one by one"
        )
    rounding = min(min(place.last_decimal for place in places), spacing / 4)
    if gap - spacing <= max(_TOLERANCE_MM, rounding) + 1e-6:
        return []
    steps = gap / spacing
    missing = round(steps) - 1
    fault = "has slices of mixed spacing"
    if missing and abs(steps - round(steps)) < 0.1:
        fault = f"lacks {counted(missing, 'slice')}"
    return [
        f"{fault}: {between(farthest)} are {gap:g} {unit} apart, others {spacing:g}; each slice is done for"
        " itself"
    ]
