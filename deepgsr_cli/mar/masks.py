"""Metal marked by the user, or in a folder of shapes: what is not zero is metal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.ct.jobs import SinogramJob, SliceJob
from deepgsr_cli.errors import InputError, OptionError
from deepgsr_cli.files import check_readable, sha256
from deepgsr_cli.formats.dicom.segmentation import (
    LABEL_MAP,
    Place,
    frame_of,
    read_segmentation,
    segment_labels,
    segment_of,
)
from deepgsr_cli.formats.dicom.slices import slice_header
from deepgsr_cli.formats.image import picture_paths, read_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.mar.implants import fit_shape
from deepgsr_cli.tomography.geometry import mar_640
from deepgsr_cli.words import counted

# Share of a slice that metal covers at most; the largest of the metal artifact papers cover a fiftieth.
MOST_METAL = 0.2
# Metal is denser. A mask may be wider than the metal, but hardly of ten times as many pixels.
_TISSUE_HU, _WIDER = 500.0, 0.9


@dataclass(frozen=True)
class MetalMasks:
    """Metal by slice.

    Attributes:
        planes: Bool, (planes, H, W).
        of_target: Planes of each slice, by the target of its job; a slice without any has no metal.
        sha256: Of the file, in hexadecimal digits.
        segments: Names of the segments that were chosen; none for all there are.
        note: What a user should know, in words; empty if nothing.
    """

    planes: np.ndarray
    of_target: dict[Path | None, list[int]]
    sha256: str
    segments: tuple[str, ...] = ()
    note: str = ""

    @property
    def origin(self) -> str:
        """What a protocol says of the file."""
        return f"sha256 {self.sha256}" + "".join(f", segment {name}" for name in self.segments)

    def __call__(self, job: Job) -> np.ndarray:
        """Where metal is in the slice of a job, bool, (H, W)."""
        return np.logical_or.reduce(self.planes[self.of_target[job.target]])


def read_masks(path: Path, jobs: Sequence[Job], segments: Sequence[str] = ()) -> MetalMasks:
    """Read the masks for the slices of a run.

    A PNG or a two-dimensional NPY is the mask of the only slice; the planes of a three-dimensional NPY are
    those of the slices in their order. What is not zero is metal. The frames of a DICOM segmentation, or of a
    label map, belong to the slices they refer to, or else to those at the same place.

    Args:
        path: The file.
        jobs: Jobs of the run, one a slice.
        segments: Labels or numbers of the segments that are metal; none for all together.

    Raises:
        UsageError: Segments of a file that has none.
        InputError: It cannot be read, has no such segment, another shape than the slices or another number
            of planes, marks nothing, or more than `MOST_METAL` of a slice.
    """
    kind, note = path.suffix.lower(), ""
    if kind in (".png", ".npy") and segments:
        raise OptionError("segment", segments[0], f"is of a DICOM segmentation, and {path} is none")
    if kind in (".png", ".npy"):
        planes = read_mask(path)[None] if kind == ".png" else _read_npy(path)
        if len(planes) != len(jobs):
            raise InputError(
                f"{path}: {counted(len(planes), 'plane')} for {counted(len(jobs), 'slice')};"
                " give an .npy of one plane a slice, in the order --dry-run lists them"
            )
        of_target = {job.target: [i] for i, job in enumerate(jobs)}
    else:
        planes, of_target, note = _read_segmentation(path, jobs, segments)
    for job in jobs:
        assert isinstance(job, SliceJob | SinogramJob)
        shape = job.series.shape if isinstance(job, SliceJob) else job.geometry.shape
        if of_target[job.target] and planes.shape[1:] != shape:
            raise InputError(
                f"{path}: the mask is {_size(planes.shape[1:])}, but {job.label} is {_size(shape)} pixels;"
                " give the mask of this slice"
            )
    masks = MetalMasks(planes, of_target, sha256(path), tuple(segments), note)
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


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def read_mask(path: Path) -> np.ndarray:
    """Read a picture as metal: bool, (H, W), where it is not zero.

    Raises:
        InputError: It cannot be read.
    """
    return (read_image(path).pixels != 0).any(0)


def _read_npy(path: Path) -> np.ndarray:
    check_readable(path)
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


def _read_segmentation(
    path: Path, jobs: Sequence[Job], segments: Sequence[str]
) -> tuple[np.ndarray, dict[Path | None, list[int]], str]:
    """Planes of a DICOM segmentation, (frames, H, W), those of each job's slice by its target, and a note."""
    if not all(isinstance(job, SliceJob) for job in jobs):
        raise InputError(f"{path}: a segmentation is of DICOM slices; give a PNG or an NPY for a sinogram")
    segmentation = read_segmentation(path)
    try:
        pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
        labels = segment_labels(segmentation)
        numbers = [segment_of(segmentation, i) for i in range(len(pixels))]
        frames = [frame_of(segmentation, i) for i in range(len(pixels))]
        fractional = segmentation.get("SegmentationType") == "FRACTIONAL"
        limit = segmentation.get("MaximumFractionalValue", 255) / 2 if fractional else 0
    except Exception as error:  # the decoders' own kinds, and values that are not what their VR says
        raise InputError(f"{path}: the segmentation is damaged or cut short; export it again") from error
    chosen = _chosen_segments(path, labels, segments)
    if segmentation.SOPClassUID == LABEL_MAP:
        planes = np.isin(pixels, list(chosen)) if segments else pixels > 0
    else:
        planes = pixels > limit
        planes[[bool(segments) and number not in chosen for number in numbers]] = False
    note = ""
    if not segments and len(labels) > 1:
        names = ", ".join(label or str(number) for number, label in labels.items())
        note = (
            f"{path}: its {len(labels)} segments, {names}, are taken for metal together; choose by --segment"
        )
    of_target: dict[Path | None, list[int]] = {}
    placed: list[np.ndarray] = []
    for job in jobs:
        assert isinstance(job, SliceJob)
        found = _planes_of(path, job, planes, frames)
        of_target[job.target] = list(range(len(placed), len(placed) + len(found)))
        placed += found
    if not any(of_target.values()):
        raise InputError(
            f"{path}: none of its {counted(len(frames), 'frame')} is of a slice that was given, by reference"
            " or place; give the segmentation of this series"
        )
    return np.stack(placed), of_target, note


def _planes_of(
    path: Path, job: SliceJob, planes: np.ndarray, frames: Sequence[tuple[set[tuple[str, int | None]], Place]]
) -> list[np.ndarray]:
    """Planes of a segmentation, (frames, H, W), that are of a slice, flipped to it if they are stored so.

    Those are the frames that refer to the slice, or else those at its place. A frame that refers to several
    slices, and says where it is, is of those at its place.

    Raises:
        InputError: A frame refers to this slice alone and has its pixels elsewhere.
    """
    header, frame = slice_header(job.series, job.index), job.series.slices[job.index].frame
    place = Place.of(header, str(header.get("FrameOfReferenceUID", "")))
    uid, shape = str(header.SOPInstanceUID), (planes.shape[1], planes.shape[2])
    own = {(uid, None), (uid, 1)} if frame is None else {(uid, frame + 1)}
    found = []
    for i, (sources, at) in enumerate(frames):
        # Without a number, a reference is to all frames of a file.
        if not sources & {*own, (uid, None)}:
            continue
        # A mask of another shape is told from it later.
        flips = at.flips_to(place, shape) if shape == job.series.shape else ()
        if flips is not None:
            found.append(np.flip(planes[i], flips))
        elif not at.position_mm or (len(sources) == 1 and sources <= own):
            raise InputError(
                f"{path}: frame {i + 1} refers to {job.label}, but {at.difference(place, shape)};"
                " resample the segmentation to the slices"
            )
    if not found:
        flips_of = {i: at.flips_at(place, shape) for i, (_, at) in enumerate(frames)}
        found = [np.flip(planes[i], flips) for i, flips in flips_of.items() if flips is not None]
    return found


def _chosen_segments(path: Path, labels: dict[int, str], segments: Sequence[str]) -> set[int]:
    """Numbers of the segments that are chosen by label or number; of all where nothing is.

    Raises:
        InputError: There is no such segment.
    """
    chosen = set()
    for name in segments:
        found = {n for n, label in labels.items() if name in (str(n), label)}
        found = found or {n for n, label in labels.items() if label.lower() == name.lower()}
        if not found:
            known = ", ".join(f"{n} {label}".strip() for n, label in labels.items()) or "without names"
            raise InputError(f"{path}: has no segment {name}; its segments are {known}")
        chosen |= found
    return chosen or set(labels)


def doubt_mask(hu: np.ndarray, metal: np.ndarray) -> list[str]:
    """Say why what is marked, (H, W), cannot be the metal of a slice in HU, (H, W), in a sentence at most."""
    if not metal.any() or (dense := float(np.quantile(hu[metal], _WIDER))) >= _TISSUE_HU:
        return []
    return [
        f"where the mask has metal, {_WIDER:.0%} of the slice are at {dense:.0f} HU or less, and metal is"
        f" above {_TISSUE_HU:g}: is it the mask of this slice, not flipped or turned, and no"
        " wider than the metal?"
    ]


def read_shapes(folder: Path) -> list[Tensor]:
    """Read metal shapes, bool, (H, W) each, from the pictures below a folder.

    Raises:
        InputError: No such folder, none in it, one that cannot be read, or one without metal.
    """
    shapes = []
    for path in picture_paths(folder):
        metal = read_mask(path)
        if not metal.any():
            raise InputError(f"{path}: is all zero; give a mask whose metal is not zero")
        shapes.append(torch.from_numpy(metal))
    return shapes


@dataclass(frozen=True)
class MetalShape:
    """A metal to put into the slices: the name of its file and where it is, bool, (416, 416)."""

    name: str
    path: Path
    metal: np.ndarray

    @property
    def num_px(self) -> int:
        """Pixels it covers."""
        return int(self.metal.sum())


def eval_masks(folder: Path) -> list[MetalShape]:
    """Read metals from the pictures below a folder, in the geometry of the papers, the largest first.

    Raises:
        InputError: No such folder, no picture in it, or one that shows no metal.
    """
    size = mar_640().shape[0]
    shapes = []
    for path in picture_paths(folder):
        mask = torch.from_numpy(read_mask(path))
        metal = (mask if mask.shape == (size, size) else fit_shape(mask, size)).numpy()
        if not metal.any() or metal.all():
            raise InputError(f"{path}: shows {'nothing but' if metal.all() else 'no'} metal; leave it out")
        shapes.append(MetalShape(str(path.relative_to(folder)), path, metal))
    return sorted(shapes, key=lambda shape: -shape.num_px)
