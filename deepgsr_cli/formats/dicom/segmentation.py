"""DICOM segmentations: which slice each frame is of, by reference or by place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import check_readable

# Whose pixels are numbers of segments, which pydicom may not know yet (Supplement 243).
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
# How far the plane of a segmentation may be from its slice; writers round to a few decimals.
_TOLERANCE_MM = 0.1


class Place(NamedTuple):
    """Where a plane is: position, orientation and pixel size, empty where they are not known."""

    frame_of_reference: str
    numbers_mm: tuple[float, ...]

    @classmethod
    def of(cls, header: Dataset, frame_of_reference: str) -> Place:
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        found = [tuple(map(float, header.get(keyword) or ())) for keyword in keywords]
        return cls(frame_of_reference, sum(found, ()) if all(found) else ())

    def is_at(self, other: Place) -> bool:
        known = bool(self.numbers_mm and other.numbers_mm) and self.frame_of_reference == other[0]
        return known and np.allclose(self.numbers_mm, other.numbers_mm, rtol=0, atol=_TOLERANCE_MM)


def read_segmentation(path: Path) -> Dataset:
    check_readable(path)
    try:
        dataset = pydicom.dcmread(path)
    except Exception as error:  # anything, on hostile bytes
        raise InputError(
            f"{path}: cannot be read as a mask; give PNG, NPY or a DICOM segmentation"
        ) from error
    kind = dataset.get("SOPClassUID")
    if kind not in (SegmentationStorage, LABEL_MAP):
        name = UID(kind).name if kind else f"DICOM of modality {dataset.get('Modality') or 'unknown'}"
        raise InputError(f"{path}: is {name}, no segmentation; give a DICOM SEG, PNG or NPY")
    return dataset


def segment_labels(segmentation: Dataset) -> dict[int, str]:
    """Labels of the segments by their numbers; the background of a label map, 0, is none."""
    segments = segmentation.get("SegmentSequence") or ()
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "") for item in segments}
    return {number: label for number, label in labels.items() if number}


def segment_of(segmentation: Dataset, i: int) -> int | None:
    """Number of the segment that a frame shows; None if it does not say, as the frames of label maps."""
    for groups in _groups(segmentation, i):
        for item in groups.get("SegmentIdentificationSequence") or ():
            return int(item.ReferencedSegmentNumber)
    return None


def frame_of(segmentation: Dataset, i: int) -> tuple[set[tuple[str, int | None]], Place]:
    """The slices a frame refers to, by instance and frame number, and where it is."""
    header = Dataset()
    sources: set[tuple[str, int | None]] = set()
    for groups in _groups(segmentation, i):
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            for item in groups.get(name) or ():
                header.update(item)
        for derivation in groups.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                numbers = source.get("ReferencedFrameNumber")
                for number in [numbers] if numbers is None or isinstance(numbers, int) else numbers:
                    sources.add((str(source.ReferencedSOPInstanceUID), number))
    return sources, Place.of(header, str(segmentation.get("FrameOfReferenceUID", "")))


def _groups(segmentation: Dataset, i: int) -> Iterator[Dataset]:
    """Functional groups of a frame, those of all frames first."""
    yield from list(segmentation.get("SharedFunctionalGroupsSequence") or ())[:1]
    yield from list(segmentation.get("PerFrameFunctionalGroupsSequence") or ())[i : i + 1]
