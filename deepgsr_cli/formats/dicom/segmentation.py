"""DICOM segmentations: which slice each frame is of, by reference or by place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import check_readable
from deepgsr_cli.formats.dicom.header import numbers_of

# Whose pixels are numbers of segments, which pydicom may not know yet (Supplement 243).
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
# How far pixels of a segmentation may be from those of its slice; writers round to a few decimals.
_TOLERANCE_PX = 0.25


@dataclass(frozen=True)
class Place:
    """Where a plane is; empty what is not known.

    Attributes:
        frame_of_reference: UID of the coordinates.
        position_mm: Centre of the first pixel, (x, y, z).
        axes: Directions that rows and columns run along, (x, y, z, x, y, z).
        pixel_mm: Distance between rows and between columns.
    """

    frame_of_reference: str
    position_mm: tuple[float, ...]
    axes: tuple[float, ...]
    pixel_mm: tuple[float, ...]

    @classmethod
    def of(cls, header: Dataset, frame_of_reference: str) -> Place:
        """Read the place of a header.

        Raises:
            ValueError: Numbers that are no place.
        """
        counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
        position, axes, pixel = (
            numbers_of(header, keyword, count) or () for keyword, count in counts.items()
        )
        return cls(frame_of_reference, position, axes, pixel)

    def flips_to(self, other: Place, shape: tuple[int, int]) -> tuple[int, ...] | None:
        """Axes to flip a plane of a shape along so that its pixels lie on those of another.

        What one of both does not say is taken to be the same.

        Returns:
            Of 0 and 1; None if no flips make its pixels lie there.
        """
        flips, distance_mm = self._nearest(other, shape)
        most_mm = _TOLERANCE_PX * min(other.pixel_mm or self.pixel_mm or (1.0,))
        return flips if distance_mm <= most_mm else None

    def flips_at(self, other: Place, shape: tuple[int, int]) -> tuple[int, ...] | None:
        """Axes as of `flips_to`, of places that are known; None for others."""
        known = all(at.position_mm and at.axes and at.pixel_mm for at in (self, other))
        same = known and self.frame_of_reference == other.frame_of_reference
        return self.flips_to(other, shape) if same else None

    def difference(self, other: Place, shape: tuple[int, int]) -> str:
        """Say what is wrong with a plane that no flips bring to another: "its ..., not ..."."""
        if self.axes and other.axes:
            cosines = np.reshape(self.axes, (2, 3)) @ np.reshape(other.axes, (2, 3)).T
            if not np.allclose(np.abs(cosines), np.eye(2), atol=0.01):
                return f"its rows and columns run along {_numbers(self.axes)}, not {_numbers(other.axes)}"
        if self.pixel_mm and other.pixel_mm and not np.allclose(self.pixel_mm, other.pixel_mm, rtol=1e-3):
            (height, width), (rows, columns) = self.pixel_mm, other.pixel_mm
            return f"its pixels are {height:g} x {width:g} mm, not {rows:g} x {columns:g} mm"
        return f"its pixels lie {self._nearest(other, shape)[1]:.3g} mm away from the slice's, not on them"

    def _nearest(self, other: Place, shape: tuple[int, int]) -> tuple[tuple[int, ...], float]:
        """Flips that bring a plane nearest to another, and how far away its pixels are then, in mm."""
        centre, sides = self._extent_mm(other, shape)
        other_centre, other_sides = other._extent_mm(self, shape)
        flips, distance_mm = [], math.dist(centre, other_centre)
        for axis, (side, other_side) in enumerate(zip(sides, other_sides)):
            kept, flipped = math.dist(side, other_side), math.dist([-x for x in side], other_side)
            distance_mm += min(kept, flipped) / 2
            if flipped < kept:
                flips.append(axis)
        return tuple(flips), distance_mm

    def _extent_mm(self, other: Place, shape: tuple[int, int]) -> tuple[list[float], list[list[float]]]:
        """Centre, (x, y, z), and from the first to the last pixel of a column and of a row.

        The centre is 0 if one of both positions is not known.
        """
        axes = self.axes or other.axes or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        pixel_mm = self.pixel_mm or other.pixel_mm or (1.0, 1.0)
        down, along = [(size - 1) * mm for size, mm in zip(shape, pixel_mm)]
        sides = [[down * x for x in axes[3:]], [along * x for x in axes[:3]]]
        position = self.position_mm if other.position_mm else ()
        return [x + (a + b) / 2 for x, a, b in zip(position, *sides)] or [0.0] * 3, sides


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


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
