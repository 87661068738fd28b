"""CT slices in HU from the files of data sets, to train on and to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.dicom.series import Series, find_series
from deepgsr_cli.formats.dicom.slices import AIR_HU, read_slice

PNG_OFFSET_HU = 1024

_LARGEST_HU = 8000.0


def slice_paths(folder: Path) -> list[Path]:
    """PNG files below a folder, hidden ones left out, else DICOM files of CT; in the order of their paths.

    Raises:
        InputError: No such folder, or neither in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".png"
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if paths:
        return paths
    found = find_series(folder)
    if not found.series:
        raise found.failures[0]
    return sorted({file.path for series in found.series for file in series.slices})


def read_hu(path: Path) -> list[np.ndarray]:
    """Slices of a file in HU, (H, W), float32, -1000 or more: one of a 16-bit PNG of HU + 1024, or those of a
    DICOM file.

    Raises:
        InputError: The file cannot be read, or is a PNG of another kind.
    """
    if path.suffix.lower() != ".png":
        slices = []
        for series in find_series(path).series:
            slices += [read_slice(series, i).hu for i in range(len(series.slices))]
        return [hu.clip(AIR_HU, _LARGEST_HU) for hu in slices]
    try:
        with PIL.Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a PNG; export it again or leave it out") from error
    if not mode.startswith("I"):
        raise InputError(f"{path}: its pixels are {mode}; give 16-bit gray PNG with the value HU + 1024")
    return [(pixels.astype(np.float32) - PNG_OFFSET_HU).clip(AIR_HU, _LARGEST_HU)]


def reduced(hu: Tensor, size: int) -> Tensor:
    """Whole slice, (size, size), of a slice (H, W), filled up with air to a square and reduced by area."""
    height, width = hu.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(hu, (left, side - width - left, top, side - height - top), value=AIR_HU)
    return F.adaptive_avg_pool2d(square[None], size)[0]


# Width in mm that a PNG is taken to show, whatever its pixels.
PNG_FIELD_MM = 400.0


@dataclass(frozen=True)
class EvalSlice:
    """A slice to evaluate on: a file, and for DICOM its series and number there."""

    name: str
    path: Path
    series: Series | None = None
    index: int = 0

    def read(self) -> tuple[np.ndarray, tuple[float, float]]:
        """HU, (H, W), of -1000 or more, and the distance of rows and of columns in mm."""
        if self.series is not None:
            slice = read_slice(self.series, self.index)
            return slice.hu.clip(min=-1000), slice.pixel_mm
        hu = read_hu(self.path)[0]
        return hu, (PNG_FIELD_MM / hu.shape[1], PNG_FIELD_MM / hu.shape[1])


def eval_slices(folder: Path, limit: int | None = None) -> list[EvalSlice]:
    """Slices of the files below a folder, in the order of their paths; what is no CT slice is left out.

    Each file stands for itself: those of one series may have gaps.

    Raises:
        InputError: No such folder, or no CT slice in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    slices: list[EvalSlice] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        if path.suffix.lower() == ".png":
            slices.append(EvalSlice(name, path))
        else:
            try:
                (series,) = find_series(path).series
            except InputError:
                continue
            frames = range(len(series.slices))
            slices += [EvalSlice(f"{name} frame {i + 1}" if i else name, path, series, i) for i in frames]
        if limit is not None and len(slices) >= limit:
            break
    if not slices:
        raise InputError(f"{folder}: no CT slices; give a folder of DICOM, or of 16-bit PNG of HU + 1024")
    return slices[:limit]
