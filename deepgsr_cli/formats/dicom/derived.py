"""Derived DICOM series: new pixels under the header of the slices they are made of."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import generate_uid

from deepgsr_cli.errors import OutputError, ShapeError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.formats.dicom.header import (
    MULTI_FRAME_CLASSES,
    cleaned,
    decimal_text,
    quiet_pydicom,
    rescale_of,
    text_of,
    values_of,
)
from deepgsr_cli.formats.dicom.series import Series
from deepgsr_cli.formats.dicom.slices import PADDING_KEYWORDS, Slice, as_stored
from deepgsr_cli.version import __version__

_DISCLAIMER = "; research use only, not for diagnosis"
_SERIES_NUMBER_OFFSET = 1000
_LONG_STRING, _SHORT_TEXT = 64, 1024  # characters an LO and an ST hold
_LARGEST_IS = 2**31 - 1  # of a number of VR IS
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
        self._derivation = derivation
        self._entropy = [derivation, __version__]
        self.uid = generate_uid(entropy_srcs=[series.uid, *self._entropy])

    @quiet_pydicom()
    def write(self, slice: Slice, hu: np.ndarray, path: Path, *, remark: str = "") -> None:
        """Write `hu`, float, (H, W), as the derived image of `slice`, uncompressed.

        Values go through the source's slope and intercept, rounded and clipped to its stored range; padding
        gets its stored values back. Unchanged HU are written as the source's stored values.

        Args:
            slice: The source.
            hu: The result.
            path: The target.
            remark: What there is to know of this slice, for its DerivationDescription.

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
        header = cleaned(slice.header)
        for keyword in _STALE:
            header.pop(keyword, None)
        _drop_overlays_in_pixels(header)
        _drop_impossible_windows(header)
        signed, bits = bool(header.PixelRepresentation), max(12, header.BitsStored)  # CT Image: 12 to 16
        slope, intercept = rescale_of(header)
        for keyword, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            if not values_of(header, keyword):
                setattr(header, keyword, decimal_text(number))
        stored = _quantised(hu, slope, intercept, bits, signed)
        stored[slice.padding] = slice.stored[slice.padding]
        for keyword in PADDING_KEYWORDS:
            value = as_stored(header.pop(keyword).value if keyword in header else None, signed)
            if value is not None:
                header.add_new(keyword, "SS" if signed else "US", value)
        source_uid = text_of(header, "SOPInstanceUID")
        header.pop("SourceImageSequence", None)
        if source_uid:
            header.SourceImageSequence = [_source_reference(header, slice.file.frame)]
        # Not by the source's UID alone: there are anonymisers that give one to all slices.
        header.SOPInstanceUID = generate_uid(
            entropy_srcs=[
                source_uid or str(slice.file.path.resolve()),
                str(slice.file.frame or 0),
                *(text_of(slice.header, key) for key in ("ImagePositionPatient", "InstanceNumber")),
                *self._entropy,
            ]
        )
        header.SeriesInstanceUID = self.uid
        number = int((values_of(header, "SeriesNumber") or [0])[0])
        header.SeriesNumber = min(number + _SERIES_NUMBER_OFFSET, _LARGEST_IS)
        suffix = f" [{self._description}]"[:_LONG_STRING]
        description = text_of(header, "SeriesDescription")[: _LONG_STRING - len(suffix)]
        header.SeriesDescription = (description + suffix).strip()
        earlier, derivation = text_of(header, "DerivationDescription"), _derivation(self._derivation, remark)
        both = f"{earlier}; then {derivation}"
        header.DerivationDescription = both if earlier and len(both) <= _SHORT_TEXT else derivation
        header.ImageType = ["DERIVED", "SECONDARY", *(values_of(header, "ImageType")[2:] or ["AXIAL"])]
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", header.StudyInstanceUID])
        _save(header, stored, bits, path)


@quiet_pydicom()
def write_new(
    hu: np.ndarray,
    pixel_mm: tuple[float, float],
    path: Path,
    *,
    measurement: str,
    description: str,
    derivation: str,
    remark: str = "",
    place: tuple[int, float] = (1, 0.0),
) -> None:
    """Write a slice that no DICOM file is the source of: an anonymous CT image, signed 16 bits, 1 HU a step.

    Its UIDs follow from `measurement`, `derivation` and `place`: a run that is started again writes the same
    objects, and the slices of one measurement and derivation make one series.

    Args:
        hu: float, (H, W); rounded, and clipped to [-32768, 32767].
        pixel_mm: Distance between rows and between columns.
        path: The target.
        measurement: What tells the measurement from all others, such as the checksum of its sinogram.
        description: SeriesDescription.
        derivation: What was done: the command, the weights and their checksum, every parameter that changes
            the result.
        remark: What there is to know of this slice, for its DerivationDescription.
        place: InstanceNumber, from 1, and position of the slice in mm; the image is centred on the z axis.

    Raises:
        OutputError: `path` cannot be written.
        ValueError: `hu` is not finite.
    """
    entropy = [measurement, derivation, __version__]
    number, z_mm = place
    header = Dataset()
    header.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "slice", str(number), str(z_mm)])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    header.StudyInstanceUID = generate_uid(entropy_srcs=[measurement, "study"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[measurement, "frame"])
    header.PatientName = header.PatientID = "ANONYMOUS"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.SeriesDescription = _ascii(description).replace("\\", "/")[:_LONG_STRING]
    header.SeriesNumber = 1
    header.InstanceNumber = number
    header.DerivationDescription = _derivation(derivation, remark)
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PixelRepresentation = 1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "HU"
    header.PixelSpacing = [decimal_text(mm) for mm in pixel_mm]
    rows_mm, columns_mm = ((size - 1) * mm for size, mm in zip(hu.shape, pixel_mm))
    header.ImagePositionPatient = [decimal_text(mm) for mm in (-columns_mm / 2, -rows_mm / 2, z_mm)]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.SliceThickness = None  # not known
    header.WindowCenter, header.WindowWidth = 40, 400
    _save(header, _quantised(hu, 1.0, 0.0, 16, signed=True), 16, path)


def _save(header: Dataset, stored: np.ndarray, bits: int, path: Path) -> None:
    """Complete `header` to a CT Image object with these pixels and write it."""
    header.SOPClassUID, header.Modality = uids.CTImageStorage, "CT"
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
    if not text_of(header, "PhotometricInterpretation").strip():
        header.PhotometricInterpretation = "MONOCHROME2"  # as it was read
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
    tags = [tag for tag in header.keys() if 0x6000 <= tag.group < 0x6020]  # noqa: SIM118, as in cleaned
    for tag in tags:
        if (tag.group, 0x3000) not in tags:
            del header[tag]


def _drop_impossible_windows(header: Dataset) -> None:
    """Remove the windows to show a slice by, if one is too narrow to be (PS3.3 C.11.2.1), as of width 0."""
    linear = text_of(header, "VOILUTFunction") in ("", "LINEAR")
    try:
        widths = [float(width) for width in values_of(header, "WindowWidth")]
    except ValueError:
        widths = [math.nan]
    if not all(width >= 1 if linear else width > 0 for width in widths):  # nor of a width that is no number
        for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
            header.pop(keyword, None)


def _source_reference(header: Dataset, frame: int | None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.get("SOPClassUID") or uids.CTImageStorage
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame is not None and reference.ReferencedSOPClassUID in MULTI_FRAME_CLASSES:
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


def _ascii(text: str) -> str:
    """`text` in the characters that every SpecificCharacterSet has."""
    return text.encode("ascii", "replace").decode()


def _derivation(text: str, remark: str) -> str:
    """What was done, and what there is to know of it, which is cut off last."""
    remark = f"; {_ascii(remark)}" if remark else ""
    end = remark[: _SHORT_TEXT // 2] + _DISCLAIMER
    return f"deepgsr {__version__} {_ascii(text)}"[: _SHORT_TEXT - len(end)] + end


def _now(header: Dataset) -> datetime:
    """Local time, or the time in the zone all times of the header are in."""
    try:
        zone = datetime.strptime(str(header.get("TimezoneOffsetFromUTC")), "%z").tzinfo
    except ValueError:
        zone = None
    return datetime.now(zone)
