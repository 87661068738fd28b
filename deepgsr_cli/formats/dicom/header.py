"""Headers of DICOM files: read, checked to be of CT, and the values they may lack or hold damaged."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, STR_VR, VR, DSfloat

from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.files import reading
from deepgsr_cli.formats.dicom.projections import ANGLE
from deepgsr_cli.words import counted

NATIVE_SYNTAXES = {  # by (implicit VR, little endian)
    (True, True): uids.ImplicitVRLittleEndian,
    (False, True): uids.ExplicitVRLittleEndian,
    (False, False): uids.ExplicitVRBigEndian,
}
MULTI_FRAME_CLASSES = (uids.EnhancedCTImageStorage, uids.LegacyConvertedEnhancedCTImageStorage)
_CT_CLASSES = (uids.CTImageStorage, *MULTI_FRAME_CLASSES)
_UNDEFINED = 2**32 - 1  # a length that is not stated
# In the ImageType of dose reports and screens that scanners write as CT; Siemens has CT_SOM5 PROT.
_PAGES = ("SCREEN SAVE", "DOSE_INFO", "DOSE REPORT")
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
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


_WARNINGS = threading.RLock()


class NotCTError(InputError):
    """A sound DICOM file that is no CT slice: another modality, a localizer, a colour picture."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """pydicom warns of each oddity in a header; what matters here is told in notes and errors.

    One thread at a time, as what is done with warnings holds for all.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> Dataset | None:
    """All elements before the pixel data, parsed as far as needed; None for a file that is not DICOM.

    A missing SOP class or instance is taken from the file meta information; a missing series or study is made
    up from the folder, the same on every run.
    """
    with reading(path), path.open("rb") as stream:
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
            syntax = header.file_meta.get("TransferSyntaxUID")
            inflated = syntax == uids.DeflatedExplicitVRLittleEndian
            start = stream.read(12)
            _check_kind(path, header, has_pixels=inflated or start != b"")
            if not 1 <= (frames := count_frames(header)) <= path.stat().st_size:
                raise InputError(
                    f"{path}: NumberOfFrames is {frames}, and the file has {path.stat().st_size} bytes;"
                    " copy or export it again"
                )
            if syntax in (None, *NATIVE_SYNTAXES.values()):
                _check_length(path, header, start)
        except UserError:
            raise
        except Exception as error:  # anything, on hostile bytes
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the file; pydicom has OSError without a number for bytes it cannot parse
            if not marked:
                return None
            raise damaged(path, error) from error
        return header


def damaged(path: Path, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(
        f"{path}: the DICOM header is damaged ({detail}), or of an encoding that cannot be read; copy or"
        " export it again, or convert it, as with dcmconv"
    )


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
    if ANGLE in header:
        raise NotCTError(
            f"{path}: is a DICOM-CT-PD projection and no slice; give the folder of all to ct-recon first"
        )
    if "LOCALIZER" in values_of(header, "ImageType"):
        raise NotCTError(f"{path}: is a localizer, a projection and no slice; leave it out")
    pages = [kind for kind in values_of(header, "ImageType") if kind in _PAGES or kind.endswith(" PROT")]
    if pages:
        raise NotCTError(f"{path}: is a page of a screen or of text ({pages[0]}) and no slice; leave it out")
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


def _check_length(path: Path, header: Dataset, start: bytes) -> None:
    """Refuse pixel data without compression of twice the bytes that the header says, or more.

    They are of more frames, or of more bits, and what would be read is not what the slice is.

    Args:
        path: The file, for the message.
        header: Its elements before the pixel data.
        start: First bytes of the element of the pixel data: tag, VR if it is explicit, and length.
    """
    explicit = start[4:6] in (b"OB", b"OW", b"UN")
    little = start[:1] == b"\xe0"
    length = int.from_bytes(start[8:12] if explicit else start[4:8], "little" if little else "big")
    frames, bits = count_frames(header), header.BitsAllocated
    expected = frames * header.Rows * header.Columns * bits // 8
    if 2 * expected <= length < _UNDEFINED:
        raise InputError(
            f"{path}: has {length} bytes of pixels, but {counted(frames, 'frame')} of {header.Rows} x"
            f" {header.Columns} pixels of {bits} bits take {expected}; export it again"
        )


def count_frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def frame_groups(header: Dataset, frame: int) -> Dataset:
    """The functional groups of a frame, shared ones too, as one flat dataset; empty if there are none."""
    flat = Dataset()
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    for groups in [*shared[:1], *([per_frame[frame]] if per_frame else [])]:
        for name in _FRAME_GROUPS:
            for item in list(groups.get(name) or ())[:1]:
                flat.update(item)
    return flat


def single_frame(header: Dataset, frame: int) -> Dataset:
    """Header of `frame` as a single-frame CT image has it, without what is private or cannot be parsed."""
    single = cleaned(header, _MULTI_FRAME_ONLY)
    if count_frames(header) > 1 and not header.get("PerFrameFunctionalGroupsSequence"):
        single.pop("ImagePositionPatient", None)  # one cannot be that of all frames
        if (position := frame_position(header, frame)) is not None:
            single.ImagePositionPatient = [decimal_text(mm) for mm in position]
    if header.SOPClassUID not in MULTI_FRAME_CLASSES:
        return single
    single.update(cleaned(frame_groups(header, frame), _MULTI_FRAME_ONLY))
    for keyword, classic in _SINGLE_FRAME_NAMES.items():
        if keyword in single:
            value = single.pop(keyword).value  # a double has more digits than a DS holds
            setattr(single, classic, decimal_text(value) if isinstance(value, float) else value)
    single.ImageType = [*values_of(single, "ImageType")[:2], "AXIAL"]
    return single


def cleaned(source: Dataset, without: Collection[str] = ()) -> Dataset:
    """Copy of `source` without private elements, group lengths and what cannot be parsed, at any depth.

    Items that are empty, and groups below 8, which come before a dataset, are left out too. What is parsed
    can be written in another encoding: raw values of a big-endian file could not.
    """
    clean = Dataset()
    for tag in source.keys():  # noqa: SIM118, iterating over a Dataset parses its elements
        if tag.is_private or tag.element == 0 or tag.group < 8 or keyword_for_tag(tag) in without:
            continue
        try:
            element = copy.copy(_element(source, tag))
            if element.VR == VR.SQ:
                items = [cleaned(item) for item in element.value]
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


def _element(source: Dataset, tag: BaseTag) -> DataElement:
    """An element, whose text is Latin-1 where it is not of the character set that is declared."""
    raw: object = source.get_item(tag)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or raw.value.isascii():
        return source[tag]
    vr = raw.VR if raw.VR not in (None, VR.UN) else dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    # An item of a sequence has it from what it is in, by the name that pydicom gives it.
    charset = values_of(source, "SpecificCharacterSet") or list(source.original_character_set)
    if vr not in CUSTOMIZABLE_CHARSET_VR or charset not in (["ISO_IR 192"], ["UTF8"]):
        return source[tag]
    try:
        raw.value.decode("utf-8")
    except UnicodeDecodeError:
        source[tag] = DataElement(tag, vr, raw.value.decode("latin-1").rstrip(" \0"))
    return source[tag]


def frame_position(header: Dataset, frame: int) -> list[float] | None:
    """Position of a frame, (x, y, z) in mm, where the header has one for all of them, that of the first.

    Frames follow each other along the normal, SpacingBetweenSlices or SliceThickness apart. None if the
    header has none of these, or the frames have positions of their own.
    """
    if header.get("PerFrameFunctionalGroupsSequence") or count_frames(header) < 2:
        return None
    first = numbers_of(header, "ImagePositionPatient", 3)
    apart = numbers_of(header, "SpacingBetweenSlices", 1) or numbers_of(header, "SliceThickness", 1)
    if first is None or apart is None or not apart[0] > 0:
        return None
    orientation = numbers_of(header, "ImageOrientationPatient", 6) or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    normal = np.cross(orientation[:3], orientation[3:])
    return [float(a) for a in np.array(first) + frame * apart[0] * normal]


def values_of(header: Dataset, keyword: str) -> list[Any]:
    """Values of an element; none if it is missing or empty."""
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def text_of(header: Dataset, keyword: str) -> str:
    return " ".join(map(str, values_of(header, keyword)))


def numbers_of(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of an element; None if it is missing or empty."""
    numbers = tuple(float(value) for value in values_of(header, keyword))
    if numbers and (len(numbers) != count or not np.isfinite(numbers).all()):
        raise ValueError(f"{keyword} is {header.get(keyword)}")
    return numbers or None


def rescale_of(header: Dataset) -> tuple[float, float]:
    """Slope and intercept, 1 and 0 where they are missing."""
    slope, intercept = numbers_of(header, "RescaleSlope", 1), numbers_of(header, "RescaleIntercept", 1)
    return (slope or (1.0,))[0], (intercept or (0.0,))[0]


def decimal_text(value: float) -> DSfloat:
    return DSfloat(value, auto_format=True)
