"""CT slices in HU from DICOM files and folders, and derived series back.

Finding a series reads headers only and keeps a few numbers a slice; a slice's pixels are decoded when it is
read, so memory does not grow with the length of a series. What is written is a new series of single-frame
CT images: patient, study, geometry, window and rescaling are the source's, the identity is new.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import STR_VR, VR, DSfloat

from deepgsr_cli import __version__
from deepgsr_cli.errors import InputError, OutputError, ShapeError, UserError
from deepgsr_cli.files import atomic_write

AIR_HU = -1000.0

# Values below the HU scale's usual end stand for "not measured" where a scanner fills the corners with them.
_SCALE_END_HU = -1024.0
_TOLERANCE_MM = 1e-2
_DISCLAIMER = "; research use only, not for diagnosis"
_SERIES_NUMBER_OFFSET = 1000
_LONG_STRING, _SHORT_TEXT = 64, 1024  # characters an LO and an ST hold
_PADDING_KEYWORDS = ("PixelPaddingValue", "PixelPaddingRangeLimit")
_NATIVE_SYNTAXES = {  # by (implicit VR, little endian)
    (True, True): uids.ImplicitVRLittleEndian,
    (False, True): uids.ExplicitVRLittleEndian,
    (False, False): uids.ExplicitVRBigEndian,
}
_MULTI_FRAME_CLASSES = (uids.EnhancedCTImageStorage, uids.LegacyConvertedEnhancedCTImageStorage)
_CT_CLASSES = (uids.CTImageStorage, *_MULTI_FRAME_CLASSES)
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
_LOSSY_SYNTAXES = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLSNearLossless)
# What one frame differs from another in, as far as finding and ordering slices goes.
_OF_A_FILE = ("ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType")
_OF_A_FRAME = (*_OF_A_FILE, "ImagePositionPatient", "SliceLocation", "InstanceNumber")
# What slices are ordered by, the best first, and the unit of their distances.
_ORDERS = (("ImagePositionPatient", "mm"), ("SliceLocation", "mm"), ("InstanceNumber", "instance numbers"))
# Functional groups whose attributes have the same meaning in a single-frame image (PS3.3 C.7.6.16, C.8.15.3).
_FRAME_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "FrameContentSequence",
    "CTAcquisitionDetailsSequence",
    "CTGeometrySequence",
    "CTReconstructionSequence",
    "CTExposureSequence",
    "CTXRayDetailsSequence",
    "IrradiationEventIdentificationSequence",
)
_SINGLE_FRAME_NAMES = {
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "DistanceSourceToDataCollectionCenter": "DistanceSourceToPatient",
}
_MULTI_FRAME_ONLY = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence",
    "DimensionOrganizationType",
    "DimensionIndexSequence",
    "DimensionIndexValues",
    "ConcatenationUID",
    "SOPInstanceUIDOfConcatenationSource",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "FrameReferenceDateTime",
    "PixelPresentation",
    "VolumetricProperties",
    "VolumeBasedCalculationTechnique",
    "MultienergyCTAcquisition",
    "StackID",
    "InStackPositionNumber",
    "TemporalPositionIndex",
    "FrameAcquisitionDuration",
    "FrameComments",
    "FrameLabel",
)
# True of the source's pixels, encoding or series only.
_STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelDataProviderURL",
    "DerivationCodeSequence",
    "SeriesDate",
    "SeriesTime",
    "InstanceCreatorUID",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "OriginalAttributesSequence",
    "EncryptedAttributesSequence",
    "InstanceCoercionDateTime",
)
# Type 2 in the CT Image object: present, empty where unknown.
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientPosition",
    "PositionReferenceIndicator",
    "Manufacturer",
    "SliceThickness",
    "KVP",
    "AcquisitionNumber",
)
# Body parts there is one of, where Laterality must be absent; elsewhere it must be present, if empty.
_UNPAIRED = (
    "ABDOMEN ABDOMENPELVIS AORTA BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COCCYX COLON CSPINE "
    "ESOPHAGUS FACE HEAD HEADNECK HEART JAW LARYNX LIVER LSPINE NECK NECKCHEST NOSE PANCREAS PELVIS PROSTATE "
    "RECTUM SKULL SPINE SSPINE STERNUM STOMACH TSPINE UTERUS WHOLEBODY"
)


class NotCTError(InputError):
    """A sound DICOM file that is no CT slice: another modality, a localizer, a colour picture."""


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
        slices: In order.
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


@dataclass(frozen=True, slots=True)
class Found:
    """What a file or folder holds.

    Attributes:
        series: In the order of their first files.
        failures: One a file or series that cannot be used; each message names it.
        skipped: DICOM files that are no CT slices, each with its reason.
        num_ignored: Files that are not DICOM.
    """

    series: list[Series]
    failures: list[InputError]
    skipped: list[NotCTError]
    num_ignored: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice in HU, with what is needed to write it back.

    Attributes:
        hu: float32, (H, W); padding is set to air.
        padding: bool, (H, W): pixels that were not measured, written back with their stored values.
        stored: Stored values as in the file, (H, W).
        pixel_mm: Distance between rows and between columns.
        position_mm: Centre of the first pixel in the patient's coordinates (x, y, z), None if not known.
        header: Of a single-frame CT image, a frame's functional groups at the top level; no private elements.
        file: Where it is from.
    """

    hu: np.ndarray
    padding: np.ndarray
    stored: np.ndarray
    pixel_mm: tuple[float, float]
    position_mm: tuple[float, float, float] | None
    header: Dataset
    file: SliceFile


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


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns of each oddity in a header; what matters here is told in notes and errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Reading


@_quiet()
def find_series(path: Path, *, pixel_mm: tuple[float, float] | None = None) -> Found:
    """CT series in a file or, at any depth, in a folder; reads headers only.

    A series is what shares SeriesInstanceUID, orientation, shape and pixel size. Slices are ordered by
    ImagePositionPatient along their normal; where one has none by SliceLocation, or else InstanceNumber.
    Gaps and duplicates are refused: distances may differ by 0.01 mm, or by one unit of the last decimal
    the positions are written with, but by a quarter of the distance at most. Suffixes do not matter;
    hidden files are passed over.

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
    num_ignored = 0
    for file in files:
        try:
            header = _read_header(file)
            if header is None:
                num_ignored += 1
                continue
            for candidate in _candidates(file, header, pixel_mm):
                candidates.setdefault(candidate.key, []).append(candidate)
        except NotCTError as error:
            skipped.append(error)
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
        raise refused[0] if refused else InputError(f"{path}: is not a DICOM file; give a CT slice")
    if not series and not failures:
        reason = f"; the first refused: {skipped[0]}" if skipped else "; give a folder with DICOM files"
        raise InputError(f"{path}: none of its {len(files)} files is a CT slice{reason}")
    return Found(series, failures, skipped, num_ignored)


@_quiet()
def read_slice(series: Series, i: int) -> Slice:
    """Slice `i` of `series` in HU, by its own slope and intercept.

    Stored values are taken as the header says: sign, and BitsStored of BitsAllocated bits whatever the
    others hold. MONOCHROME1 does not invert: it says how values are shown, after the rescaling to HU and the
    window (PS3.3 C.7.6.3.1.2). Padding is what PixelPaddingValue (and its range) marks; and, where most of
    the pixels outside the largest circle in the slice are below -1024 HU, those pixels and all that share
    their median value, as the data do not always use the value the header states.

    Raises:
        InputError: The file is gone or unreadable, its pixel data are missing, damaged or cut short, or
            compressed in a way that nothing installed can decode.
    """
    file = series.slices[i]
    source = _source_header(series, i)
    header = _single_frame(source, file.frame or 0)
    if file.frame is not None or header.get("InstanceNumber") is None:
        header.InstanceNumber = i + 1
    if source.file_meta.get("TransferSyntaxUID") in _LOSSY_SYNTAXES:
        header.LossyImageCompression = "01"
    stored = _decode(file, source)
    if stored.shape != series.shape:
        raise InputError(f"{file.path}: is {stored.shape} now and was {series.shape}; give the folder again")
    slope, intercept = _rescale(header)
    hu = stored * slope + intercept
    padding = _padding(header, stored, hu, series.pixel_mm)
    hu[padding] = AIR_HU
    position = _numbers(header, "ImagePositionPatient", 3)
    position_mm = (position[0], position[1], position[2]) if position else None
    if _numbers(header, "PixelSpacing", 2) is None:
        header.PixelSpacing = [_decimal(mm) for mm in series.pixel_mm]
    return Slice(hu.astype(np.float32), padding, stored, series.pixel_mm, position_mm, header, file)


@_quiet()
def slice_header(series: Series, i: int) -> Dataset:
    """Header of slice `i` of `series`, as `Slice.header`; reads no pixels.

    Raises:
        InputError: The file is gone or unreadable.
    """
    return _single_frame(_source_header(series, i), series.slices[i].frame or 0)


def _source_header(series: Series, i: int) -> Dataset:
    """Header of the file of a slice; that of the last multi-frame file is kept."""
    file = series.slices[i]
    source = series._header.get(file.path)
    if source is None:
        source = _read_header(file.path)
        if source is None:
            raise InputError(f"{file.path}: is no DICOM file any more; give the folder again")
        series._header.clear()
        if file.frame is not None:
            series._header[file.path] = source
    return source


def files_below(path: Path, failures: list[InputError], without: Path | None = None) -> list[Path]:
    """The file that a path is, or files at any depth that are not hidden, in order.

    Args:
        path: A file or a folder.
        failures: Folders that cannot be listed are added to these.
        without: A folder that does not count.
    """
    if not path.is_dir():
        return [path]
    pruned = None if without is None else without.resolve()

    def refuse(error: OSError) -> None:
        failures.append(InputError(f"{error.filename}: cannot be listed, {error.strerror}; change its mode"))

    files = []
    for root, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(root, name).resolve() != pruned
        )
        files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
    return [file for file in files if file.is_file()]


def _read_header(path: Path) -> Dataset | None:
    """All elements before the pixel data, parsed as far as needed; None for a file that is not DICOM.

    A missing SOP class or instance is taken from the file meta information; a missing series or study is made
    up from the folder, the same on every run.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
            stream.seek(0)
            marked = head[128:] == b"DICM"
            # Without the mark, a file of the first standards: group 2 or 8 comes first, in either byte order.
            if not marked and head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08"):
                return None
            try:
                header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
                if not marked and not any(key in header for key in ("SOPClassUID", "Modality", "Rows")):
                    return None
                _complete_uids(header, path)
                # Inflating leaves the stream at its end.
                inflated = header.file_meta.get("TransferSyntaxUID") == uids.DeflatedExplicitVRLittleEndian
                _check_kind(path, header, has_pixels=inflated or stream.read(1) != b"")
            except (UserError, OSError):
                raise
            except Exception as error:  # anything, on hostile bytes
                if not marked:
                    return None
                raise _damaged(path, error) from error
            return header
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path}: there is no permission to read it; change its mode") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror or error}; check the path") from error


def _damaged(path: Path, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{path}: the DICOM header is damaged ({detail}); copy or export it again")


def _complete_uids(header: Dataset, path: Path) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, header.file_meta.get(f"MediaStorage{keyword}"))
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, generate_uid(entropy_srcs=[keyword, str(path.resolve().parent)]))


def _check_kind(path: Path, header: Dataset, *, has_pixels: bool) -> None:
    """Refuse what is no CT slice in gray values that can be turned into HU."""
    kind = header.SOPClassUID
    modality = header.get("Modality")
    if kind == uids.MediaStorageDirectoryStorage:
        raise NotCTError(f"{path}: is a DICOMDIR, a table of contents; give the folder it is in")
    if kind not in _CT_CLASSES and (kind or modality != "CT"):
        name = UID(kind).name if kind else f"of modality {modality or 'unknown'}"
        raise NotCTError(f"{path}: is {name}, not a CT image; give CT slices")
    if "LOCALIZER" in _values(header, "ImageType"):
        raise NotCTError(f"{path}: is a localizer, a projection and no slice; leave it out")
    photometric = header.get("PhotometricInterpretation") or "MONOCHROME2"
    if (header.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotCTError(f"{path}: is in colour ({photometric}), CT slices are gray; leave it out")
    if not has_pixels:
        raise InputError(f"{path}: has no pixel data, or was cut short before them; copy or export it again")
    missing = [keyword for keyword in _REQUIRED if header.get(keyword) is None]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}, so its pixels cannot be read; export it again")
    allocated, stored = header.BitsAllocated, header.BitsStored
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise InputError(
            f"{path}: has {stored} of {allocated} bits a pixel, CT slices up to 16 of 16; export it anew"
        )
    if header.get("HighBit") not in (None, stored - 1):
        raise InputError(
            f"{path}: HighBit is {header.HighBit}, for {stored} bits it must be {stored - 1}; export it anew"
        )
    if header.get("ModalityLUTSequence"):
        raise InputError(f"{path}: its values become HU by a table, not by RescaleSlope; export it anew")


def _num_frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _frame_groups(header: Dataset, frame: int) -> Dataset:
    """The functional groups of a frame, shared ones too, as one flat dataset; empty if there are none."""
    flat = Dataset()
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    for groups in [*shared[:1], *([per_frame[frame]] if per_frame else [])]:
        for name in _FRAME_GROUPS:
            for item in list(groups.get(name) or ())[:1]:
                flat.update(item)
    return flat


def _single_frame(header: Dataset, frame: int) -> Dataset:
    """Header of `frame` as a single-frame CT image has it, without what is private or cannot be parsed."""
    single = _cleaned(header, _MULTI_FRAME_ONLY)
    if header.SOPClassUID not in _MULTI_FRAME_CLASSES:
        return single
    single.update(_cleaned(_frame_groups(header, frame), _MULTI_FRAME_ONLY))
    for keyword, classic in _SINGLE_FRAME_NAMES.items():
        if keyword in single:
            setattr(single, classic, single.pop(keyword).value)
    single.ImageType = [*_values(single, "ImageType")[:2], "AXIAL"]
    return single


def _cleaned(source: Dataset, without: Collection[str] = ()) -> Dataset:
    """Copy of `source` without private elements, group lengths and what cannot be parsed, at any depth.

    Items that are empty, and groups below 8, which come before a dataset, are left out too. What is parsed
    can be written in another encoding: raw values of a big-endian file could not.
    """
    clean = Dataset()
    for tag in source.keys():  # noqa: SIM118, iterating over a Dataset parses its elements
        if tag.is_private or tag.element == 0 or tag.group < 8 or keyword_for_tag(tag) in without:
            continue
        try:
            element = copy.copy(source[tag])
            if element.VR == VR.SQ:
                items = [_cleaned(item) for item in element.value]
                element.value = [item for item in items if len(item)]
                if items and not element.value:
                    continue
            elif element.VR in STR_VR and dictionary_has_tag(tag) and dictionary_VR(tag) in STR_VR:
                element = DataElement(tag, dictionary_VR(tag), element.value)
        except Exception:  # a converter's own kind, on a value that is not what its VR says
            continue
        clean[tag] = element
    if clean.get("CodeValue"):  # a coded entry: it must have a meaning and no empty part (PS3.3 8.8)
        for element in [element for element in clean if element.is_empty]:
            del clean[element.tag]
        clean.CodeMeaning = clean.get("CodeMeaning", clean.CodeValue)
    return clean


def _candidates(path: Path, header: Dataset, pixel_mm: tuple[float, float] | None) -> list[_Candidate]:
    try:
        num_frames = _num_frames(header)
        groups = header.get("PerFrameFunctionalGroupsSequence")
        if groups and len(groups) != num_frames:
            raise ValueError(f"{num_frames} frames, but functional groups of {len(groups)}")
        return [_candidate(path, header, frame, pixel_mm) for frame in range(num_frames)]
    except UserError:
        raise
    except Exception as error:  # a value that is not what its VR says
        raise _damaged(path, error) from error


def _candidate(path: Path, header: Dataset, index: int, pixel_mm: tuple[float, float] | None) -> _Candidate:
    frame = _frame_groups(header, index)
    several = _num_frames(header) > 1
    if several:
        frame.InstanceNumber = index + 1
    of_all = header.get("PerFrameFunctionalGroupsSequence") or not several
    for keyword in _OF_A_FRAME if of_all else _OF_A_FILE:  # one position cannot be that of several frames
        if keyword in header and keyword not in frame:
            frame[keyword] = header[keyword]
    notes = []
    kind = str(frame.get("RescaleType") or "HU").strip().upper()
    if kind not in ("HU", "US"):
        raise InputError(f"{path}: holds values of type {kind}, not HU; give slices in Hounsfield units")
    if frame.get("RescaleSlope") is None or frame.get("RescaleIntercept") is None:
        notes.append("RescaleSlope or RescaleIntercept is missing; 1 and 0 are taken")
    slope, _ = _rescale(frame)
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0, so all pixels are equal; export it again")
    spacing = _numbers(frame, "PixelSpacing", 2) or pixel_mm
    if spacing is None:
        raise InputError(f"{path}: does not state its PixelSpacing; give it in mm with --pixel-mm")
    row_mm, column_mm = spacing
    if not min(row_mm, column_mm) > 0:
        raise InputError(f"{path}: PixelSpacing is {row_mm} x {column_mm} mm, not positive; export it again")
    if str(header.get("BurnedInAnnotation") or "").upper() == "YES":
        notes.append("Text is burnt into the pixels and is treated as anatomy")
    orientation = _numbers(frame, "ImageOrientationPatient", 6) or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    key = (
        str(header.SeriesInstanceUID),
        (int(header.Rows), int(header.Columns)),
        tuple(round(x, 3) + 0.0 for x in orientation),
        (round(row_mm, 5), round(column_mm, 5)),
    )
    return _Candidate(
        SliceFile(path, index if several else None),
        key,
        _text(header, "SeriesDescription"),
        (row_mm, column_mm),
        _places(frame, orientation),
        tuple(notes),
    )


def _places(frame: Dataset, orientation: Sequence[float]) -> tuple[_Place | None, ...]:
    """Where the frame is by each of `_ORDERS`."""
    normal = np.cross(orientation[:3], orientation[3:])
    position = _numbers(frame, "ImagePositionPatient", 3)
    steepest = int(np.abs(normal).argmax())
    places: list[_Place | None] = [None]
    if position:
        places = [_Place(float(normal @ position), _last_decimal(frame.ImagePositionPatient[steepest]))]
    for keyword, _ in _ORDERS[1:]:
        number = _numbers(frame, keyword, 1)
        places.append(_Place(number[0], _last_decimal(frame.get(keyword))) if number else None)
    return tuple(places)


def _values(header: Dataset, keyword: str) -> list[Any]:
    """Values of an element; none if it is missing or empty."""
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _text(header: Dataset, keyword: str) -> str:
    return " ".join(map(str, _values(header, keyword)))


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of an element; None if it is missing or empty."""
    numbers = tuple(float(value) for value in _values(header, keyword))
    if numbers and (len(numbers) != count or not np.isfinite(numbers).all()):
        raise ValueError(f"{keyword} is {header.get(keyword)}")
    return numbers or None


def _rescale(header: Dataset) -> tuple[float, float]:
    """Slope and intercept, 1 and 0 where they are missing."""
    slope, intercept = _numbers(header, "RescaleSlope", 1), _numbers(header, "RescaleIntercept", 1)
    return (slope or (1.0,))[0], (intercept or (0.0,))[0]


def _last_decimal(number: object) -> float:
    """Unit of the last decimal that a decimal string is written with."""
    return 10.0 ** int(Decimal(str(number)).as_tuple().exponent)


def _series(group: list[_Candidate]) -> Series:
    """The group in order.

    Raises:
        InputError: Slices are missing, doubled, unevenly spaced, or their order is not known.
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
        notes.append(f"ImagePositionPatient is missing; slices are ordered by {keyword}")
    order = np.argsort([place.at for place in known], kind="stable")
    files = tuple(group[j].file for j in order)
    _check_spacing(where, files, [known[j] for j in order], unit)
    uid, shape, *_ = first.key
    return Series(uid, first.description, shape, first.pixel_mm, files, tuple(dict.fromkeys(notes)))


def _check_spacing(where: str, files: Sequence[SliceFile], places: Sequence[_Place], unit: str) -> None:
    distances = np.diff([place.at for place in places])
    if not len(distances):
        return

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
        return
    steps = gap / spacing
    missing = round(steps) - 1
    if missing and abs(steps - round(steps)) < 0.1:
        fault = f"lacks {missing} slice{'s' if missing > 1 else ''}"
        cure = "add the missing files"
    else:
        fault, cure = "has slices of mixed spacing", "part them into folders"
    raise InputError(
        f"{where} {fault}: {between(farthest)} are {gap:g} {unit} apart, others {spacing:g}; "
        f"{cure}, or give its files one by one"
    )


def _decode(file: SliceFile, header: Dataset) -> np.ndarray:
    """Stored values of a slice, (H, W), of 8 or 16 bits, signed as the header says."""
    path = file.path
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little = header.original_encoding
        syntax = _NATIVE_SYNTAXES[bool(implicit), bool(little)]
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(
            f"{path}: is compressed as {UID(syntax).name}, which cannot be read; "
            "convert it to Explicit VR Little Endian, with dcmconv or gdcmconv --raw"
        ) from error
    package, plugin = "python-gdcm", ""
    if syntax in uids.JPEG2000TransferSyntaxes:
        # The other decoders print to stderr when a codestream is damaged.
        package, plugin = "pylibjpeg pylibjpeg-openjpeg", "pylibjpeg"
    elif syntax == uids.RLELossless:
        plugin = "pydicom"  # on damaged data pylibjpeg-rle panics, which is no Exception
    if not decoder.is_available or (plugin and plugin not in decoder.available_plugins):
        raise InputError(f"{path}: is compressed as {UID(syntax).name}; to read it, pip install {package}")
    try:
        source: Any = path
        if syntax == uids.DeflatedExplicitVRLittleEndian:
            source = pydicom.dcmread(path)  # an offset into deflated data means nothing
        stored = pixel_array(
            source, index=file.frame or 0, raw=True, decoding_plugin=plugin, transfer_syntax_uid=syntax
        )
    except MemoryError as error:
        raise InputError(f"{path}: there is not enough memory to decode it; free some") from error
    except Exception as error:  # the decoders' own kinds: anything, on hostile bytes
        raise InputError(
            f"{path}: the pixel data are missing, damaged or cut short; copy or export it again"
        ) from error
    # The header's sign and bits hold: a codestream may contradict them, and unused bits hold anything.
    kind = "i" if header.PixelRepresentation else "u"
    unused = 8 * stored.itemsize - header.BitsStored
    return (stored.astype(f"{kind}{stored.itemsize}") << unused) >> unused


def _padding(
    header: Dataset, stored: np.ndarray, hu: np.ndarray, pixel_mm: tuple[float, float]
) -> np.ndarray:
    """Pixels that were not measured, bool, (H, W)."""
    padding = np.zeros(stored.shape, bool)
    values = [_as_stored(header.get(keyword), header.PixelRepresentation) for keyword in _PADDING_KEYWORDS]
    limits = [value for value in values if value is not None]
    if limits:
        padding = (stored >= min(limits)) & (stored <= max(limits))
    sides_mm = [size * mm for size, mm in zip(stored.shape, pixel_mm)]
    y, x = (np.arange(size) * mm - (size - 1) * mm / 2 for size, mm in zip(stored.shape, pixel_mm))
    outside = np.hypot(y[:, None], x) > min(sides_mm) / 2
    unmeasured = outside & (hu < _SCALE_END_HU)
    if 2 * unmeasured.sum() > outside.sum():
        padding |= unmeasured | (stored == np.median(stored[unmeasured]))
    return padding


def _as_stored(value: Any, signed: bool) -> int | None:
    """A padding value as a stored value: files often give it the sign that the pixels do not have."""
    if not isinstance(value, int):
        return None
    bits = value & 0xFFFF
    return bits - 0x10000 if signed and bits >= 0x8000 else bits


# Writing


class DerivedSeries:
    """A new series made from the slices of a source series.

    Its UIDs follow from those of the source and from `derivation`: a run that is interrupted and started
    again with the same parameters completes the same series. Files of one source series given one by one
    also make one series. A frame of a multi-frame file becomes a single-frame CT image, which every viewer
    opens.

    Attributes:
        uid: The new SeriesInstanceUID.
    """

    def __init__(self, series: Series, description: str, derivation: str) -> None:
        """
        Args:
            series: The source.
            description: Appended to the source's SeriesDescription in brackets: "deepgsr ct-recon 60 views".
            derivation: What was done: the command, the weights and their checksum, every parameter that
                changes the result.
        """
        self._description = _ascii(description).replace("\\", "/")
        self._derivation = _derivation(derivation)
        self._entropy = [derivation, __version__]
        self.uid = generate_uid(entropy_srcs=[series.uid, *self._entropy])

    @_quiet()
    def write(self, slice: Slice, hu: np.ndarray, path: Path) -> None:
        """Write `hu`, float, (H, W), as the derived image of `slice`, uncompressed.

        Values go through the source's slope and intercept, rounded and clipped to its stored range; padding
        gets its stored values back. Unchanged HU are written as the source's stored values.

        Raises:
            OutputError: `path` is the source itself or cannot be written.
            ShapeError: `hu` has not the shape of the slice.
            ValueError: `hu` is not finite.
        """
        if path.exists() and path.samefile(slice.file.path):
            raise OutputError(f"{path}: is the source, which is never written over; give another folder")
        if hu.shape != slice.stored.shape:
            raise ShapeError(
                f"{path}: the result is {hu.shape}, its slice {slice.stored.shape}; keep one shape"
            )
        header = _cleaned(slice.header)
        for keyword in _STALE:
            header.pop(keyword, None)
        _drop_overlays_in_pixels(header)
        signed, bits = bool(header.PixelRepresentation), max(12, header.BitsStored)  # CT Image: 12 to 16
        slope, intercept = _rescale(header)
        for keyword, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            if not _values(header, keyword):
                setattr(header, keyword, _decimal(number))
        stored = _quantised(hu, slope, intercept, bits, signed)
        stored[slice.padding] = slice.stored[slice.padding]
        for keyword in _PADDING_KEYWORDS:
            value = _as_stored(header.pop(keyword).value if keyword in header else None, signed)
            if value is not None:
                header.add_new(keyword, "SS" if signed else "US", value)
        source_uid = _text(header, "SOPInstanceUID")
        header.pop("SourceImageSequence", None)
        if source_uid:
            header.SourceImageSequence = [_source_reference(header, slice.file.frame)]
        header.SOPInstanceUID = generate_uid(
            entropy_srcs=[
                source_uid or str(slice.file.path.resolve()),
                str(slice.file.frame or 0),
                *self._entropy,
            ]
        )
        header.SeriesInstanceUID = self.uid
        header.SeriesNumber = int(header.get("SeriesNumber") or 0) + _SERIES_NUMBER_OFFSET
        suffix = f" [{self._description}]"[:_LONG_STRING]
        description = _text(header, "SeriesDescription")[: _LONG_STRING - len(suffix)]
        header.SeriesDescription = (description + suffix).strip()
        earlier = _text(header, "DerivationDescription")
        both = f"{earlier}; then {self._derivation}"
        header.DerivationDescription = both if earlier and len(both) <= _SHORT_TEXT else self._derivation
        header.ImageType = ["DERIVED", "SECONDARY", *(_values(header, "ImageType")[2:] or ["AXIAL"])]
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", header.StudyInstanceUID])
        _save(header, stored, bits, path)


@_quiet()
def write_new(
    hu: np.ndarray,
    pixel_mm: tuple[float, float],
    path: Path,
    *,
    measurement: str,
    description: str,
    derivation: str,
    number: int = 1,
    z_mm: float = 0.0,
    thickness_mm: float | None = None,
) -> None:
    """Write a slice that no DICOM file is the source of: an anonymous CT image, signed 16 bits, 1 HU a step.

    Its UIDs follow from `measurement`, `derivation` and `number`: a run that is started again writes the same
    objects, and the slices of one measurement and derivation make one series.

    Args:
        hu: float, (H, W); rounded, and clipped to [-32768, 32767].
        pixel_mm: Distance between rows and between columns.
        path: The target.
        measurement: What tells the measurement from all others, such as the checksum of its sinogram.
        description: SeriesDescription.
        derivation: What was done: the command, the weights and their checksum, every parameter that changes
            the result.
        number: InstanceNumber, from 1.
        z_mm: Position of the slice; the image is centred on the z axis.
        thickness_mm: Slice thickness, left empty if it is not known.

    Raises:
        OutputError: `path` cannot be written.
        ValueError: `hu` is not finite.
    """
    entropy = [measurement, derivation, __version__]
    header = Dataset()
    header.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "slice", str(number), str(z_mm)])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    header.StudyInstanceUID = generate_uid(entropy_srcs=[measurement, "study"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[measurement, "frame"])
    header.PatientName = header.PatientID = "ANONYMOUS"
    header.Modality = "CT"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.SeriesDescription = _ascii(description).replace("\\", "/")[:_LONG_STRING]
    header.SeriesNumber = 1
    header.InstanceNumber = number
    header.DerivationDescription = _derivation(derivation)
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PixelRepresentation = 1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "HU"
    header.PixelSpacing = [_decimal(mm) for mm in pixel_mm]
    rows_mm, columns_mm = ((size - 1) * mm for size, mm in zip(hu.shape, pixel_mm))
    header.ImagePositionPatient = [_decimal(mm) for mm in (-columns_mm / 2, -rows_mm / 2, z_mm)]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.SliceThickness = None if thickness_mm is None else _decimal(thickness_mm)
    header.WindowCenter, header.WindowWidth = 40, 400
    _save(header, _quantised(hu, 1.0, 0.0, 16, signed=True), 16, path)


def _save(header: Dataset, stored: np.ndarray, bits: int, path: Path) -> None:
    """Complete `header` to a CT Image object with these pixels and write it."""
    header.SOPClassUID = uids.CTImageStorage
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    if header.get("BodyPartExamined") in _UNPAIRED.split():
        header.pop("Laterality", None)
    elif "Laterality" not in header:
        header.Laterality = None
    now = _now(header)
    header.InstanceCreationDate = header.ContentDate = now.strftime("%Y%m%d")
    header.InstanceCreationTime = header.ContentTime = now.strftime("%H%M%S")
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109103", "Modifying Equipment")]
    equipment.Manufacturer = equipment.ManufacturerModelName = "deepgsr"
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = "Image restoration" + _DISCLAIMER
    header.ContributingEquipmentSequence = [*(header.get("ContributingEquipmentSequence") or ()), equipment]
    header.SamplesPerPixel = 1
    header.Rows, header.Columns = stored.shape
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, bits, bits - 1
    header.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    with atomic_write(path) as temporary:
        header.save_as(temporary, enforce_file_format=True)


def _quantised(hu: np.ndarray, slope: float, intercept: float, bits: int, signed: bool) -> np.ndarray:
    """Stored values nearest to `hu`, clipped to what `bits` hold, int16 or uint16."""
    if not np.isfinite(hu).all():
        raise ValueError("HU that are not finite")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    stored = np.rint((hu.astype(np.float64) - intercept) / slope).clip(low, high)
    return stored.astype(np.int16 if signed else np.uint16)


def _drop_overlays_in_pixels(header: Dataset) -> None:
    """Remove overlays of the first standards, kept in pixel bits that are not written again."""
    tags = [tag for tag in header.keys() if 0x6000 <= tag.group < 0x6020]  # noqa: SIM118, as in _cleaned
    for tag in tags:
        if (tag.group, 0x3000) not in tags:
            del header[tag]


def _source_reference(header: Dataset, frame: int | None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.get("SOPClassUID") or uids.CTImageStorage
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame is not None:
        reference.ReferencedFrameNumber = frame + 1
    reference.SpatialLocationsPreserved = "YES"
    reference.PurposeOfReferenceCodeSequence = [
        _code("121322", "Source image for image processing operation")
    ]
    return reference


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _decimal(value: float) -> DSfloat:
    return DSfloat(value, auto_format=True)


def _ascii(text: str) -> str:
    """`text` in the characters that every SpecificCharacterSet has."""
    return text.encode("ascii", "replace").decode()


def _derivation(text: str) -> str:
    return f"deepgsr {__version__} {_ascii(text)}"[: _SHORT_TEXT - len(_DISCLAIMER)] + _DISCLAIMER


def _now(header: Dataset) -> datetime:
    """Local time, or the time in the zone all times of the header are in."""
    try:
        zone = datetime.strptime(str(header.get("TimezoneOffsetFromUTC")), "%z").tzinfo
    except ValueError:
        zone = None
    return datetime.now(zone)
