"""Metal marked by the user: a PNG, an NPY or a DICOM segmentation, and which slice each plane of it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from deepgsr_cli.batch import Job
from deepgsr_cli.dicom import slice_header
from deepgsr_cli.errors import InputError
from deepgsr_cli.geometry import Geometry
from deepgsr_cli.images import read_image
from deepgsr_cli.scans import SliceJob

# Share of a slice that metal covers at most; the largest of the metal artifact papers cover a fiftieth.
MOST_METAL = 0.2

# How far the plane of a segmentation may be from its slice; writers round to a few decimals.
_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class MetalMasks:
    """Metal by slice.

    Attributes:
        planes: Bool, (planes, H, W).
        of_target: Planes of each slice, by the target of its job; a slice without any has no metal.
        sha256: Of the file, in hexadecimal digits.
    """

    planes: np.ndarray
    of_target: dict[Path | None, list[int]]
    sha256: str

    def __call__(self, job: Job) -> np.ndarray:
        """Where metal is in the slice of a job, bool, (H, W)."""
        return np.logical_or.reduce(self.planes[self.of_target[job.target]])


def read_masks(path: Path, jobs: Sequence[Job], geometry: Geometry | None = None) -> MetalMasks:
    """Masks for the slices of a run.

    A PNG or a two-dimensional NPY is the mask of the only slice; the planes of a three-dimensional NPY are
    those of the slices in their order. What is not zero is metal. The frames of a DICOM segmentation, all
    segments together, belong to the slices they refer to, or else to those at the same place.

    Args:
        path: The file.
        jobs: Of `plan_scans`.
        geometry: Of measured sinograms.

    Raises:
        InputError: It cannot be read, has another shape than the slices or another number of planes, marks
            nothing, or more than `MOST_METAL` of a slice.
    """
    kind = path.suffix.lower()
    if kind in (".png", ".npy"):
        planes = _read_png(path) if kind == ".png" else _read_npy(path)
        if len(planes) != len(jobs):
            raise InputError(
                f"{path}: {_count(len(planes), 'plane')} for {_count(len(jobs), 'slice')};"
                " give an .npy of one plane a slice, in the order --dry-run lists them"
            )
        of_target = {job.target: [i] for i, job in enumerate(jobs)}
    else:
        planes, of_target = _read_segmentation(path, jobs)
    for job in jobs:
        shape = job.series.shape if isinstance(job, SliceJob) else geometry.shape if geometry else ()
        if of_target[job.target] and planes.shape[1:] != shape:
            raise InputError(
                f"{path}: the mask is {_size(planes.shape[1:])}, but {job.label} is {_size(shape)} pixels;"
                " give the mask of this slice"
            )
    masks = MetalMasks(planes, of_target, hashlib.sha256(path.read_bytes()).hexdigest())
    shares = {job.label: float(masks(job).mean()) for job in jobs}
    if not any(shares.values()):
        raise InputError(
            f"{path}: marks no metal in any slice; give another mask, or leave --mask out to find metal by"
            " --metal-threshold"
        )
    fullest = max(shares, key=shares.__getitem__)
    if shares[fullest] > MOST_METAL:
        raise InputError(
            f"{path}: marks {shares[fullest]:.0%} of {fullest} as metal, and {MOST_METAL:.0%} is the most;"
            " what is not zero is metal, so invert the mask if it shows the tissue"
        )
    return masks


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _read_png(path: Path) -> np.ndarray:
    return (read_image(path).pixels != 0).any(0)[None]


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as NPY; save it again with numpy.save") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or not np.isfinite(array).all():
        raise InputError(
            f"{path}: holds {array.dtype} of shape {array.shape}; give finite real numbers or bool, (H, W) or"
            " (slices, H, W)"
        )
    return (array != 0) if array.ndim == 3 else (array != 0)[None]


class _Place(NamedTuple):
    """Where a plane is: position, orientation and pixel size, empty where they are not known."""

    frame_of_reference: str
    numbers_mm: tuple[float, ...]

    @classmethod
    def of(cls, header: Dataset, frame_of_reference: str) -> _Place:
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        found = [tuple(map(float, header.get(keyword) or ())) for keyword in keywords]
        return cls(frame_of_reference, sum(found, ()) if all(found) else ())

    def is_at(self, other: _Place) -> bool:
        known = bool(self.numbers_mm and other.numbers_mm) and self.frame_of_reference == other[0]
        return known and np.allclose(self.numbers_mm, other.numbers_mm, rtol=0, atol=_TOLERANCE_MM)


def _read_segmentation(path: Path, jobs: Sequence[Job]) -> tuple[np.ndarray, dict[Path | None, list[int]]]:
    """Planes of a DICOM segmentation, (frames, H, W), and those of each job's slice, by its target."""
    if not all(isinstance(job, SliceJob) for job in jobs):
        raise InputError(f"{path}: a segmentation is of DICOM slices; give a PNG or an NPY for a sinogram")
    segmentation = _dataset(path)
    try:
        pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
        fractional = segmentation.get("SegmentationType") == "FRACTIONAL"
        limit = segmentation.get("MaximumFractionalValue", 255) / 2 if fractional else 0
        frames = [_frame(segmentation, i) for i in range(len(pixels))]
    except Exception as error:  # the decoders' own kinds, and values that are not what their VR says
        raise InputError(f"{path}: the segmentation is damaged or cut short; export it again") from error
    of_target: dict[Path | None, list[int]] = {}
    for job in jobs:
        assert isinstance(job, SliceJob)
        header, number = slice_header(job.series, job.index), job.series.slices[job.index].frame
        place = _Place.of(header, str(header.get("FrameOfReferenceUID", "")))
        any_frame = {(str(header.SOPInstanceUID), n) for n in (None, 1 if number is None else number + 1)}
        chosen = [i for i, (sources, _) in enumerate(frames) if sources & any_frame]
        of_target[job.target] = chosen or [i for i, (_, at) in enumerate(frames) if at.is_at(place)]
    if not any(of_target.values()):
        raise InputError(
            f"{path}: none of its {_count(len(frames), 'frame')} is of a slice that was given, by reference"
            " or place; give the segmentation of this series"
        )
    return pixels > limit, of_target


def _dataset(path: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path") from error
    except Exception as error:  # anything, on hostile bytes
        raise InputError(
            f"{path}: cannot be read as a mask; give PNG, NPY or a DICOM segmentation"
        ) from error
    if dataset.get("SOPClassUID") != SegmentationStorage:
        kind = dataset.get("Modality") or "unknown"
        raise InputError(
            f"{path}: is DICOM of modality {kind}, no segmentation; give a DICOM SEG, PNG or NPY"
        )
    return dataset


def _frame(segmentation: Dataset, i: int) -> tuple[set[tuple[str, int | None]], _Place]:
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
    return sources, _Place.of(header, str(segmentation.get("FrameOfReferenceUID", "")))


def _groups(segmentation: Dataset, i: int) -> Iterator[Dataset]:
    """Functional groups of a frame, those of all frames first."""
    yield from list(segmentation.get("SharedFunctionalGroupsSequence") or ())[:1]
    yield from list(segmentation.get("PerFrameFunctionalGroupsSequence") or ())[i : i + 1]
