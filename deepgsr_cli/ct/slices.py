"""CT slices in HU from the files of data sets, to train on and to evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import files_below
from deepgsr_cli.formats.dicom.series import Series, find_series
from deepgsr_cli.formats.dicom.slices import AIR_HU, read_slice
from deepgsr_cli.formats.png import read_values

# Added to HU in a PNG, whose values are 0 or more: that of air is 24.
PNG_OFFSET_HU = 1024
# Width in mm that a PNG is taken to show, whatever its pixels.
PNG_FIELD_MM = 400.0

# Brighter values, of metal in scans of extended range, are cut off.
_LARGEST_HU = 8000.0


@dataclass(frozen=True)
class EvalSlice:
    """A slice to evaluate on: a file, and for DICOM its series and number there."""

    name: str
    path: Path
    series: Series | None = None
    index: int = 0

    def read(self, lowest_hu: float = AIR_HU) -> tuple[np.ndarray, tuple[float, float]]:
        """HU, (H, W), of -1000 or another lowest value or more, and the distance of rows and of columns in
        mm."""
        if self.series is not None:
            slice = read_slice(self.series, self.index)
            return slice.hu.clip(min=lowest_hu), slice.pixel_mm
        hu = _read_png(self.path).clip(min=lowest_hu)
        return hu, (PNG_FIELD_MM / hu.shape[1], PNG_FIELD_MM / hu.shape[1])


def eval_slices(folder: Path, limit: int | None = None) -> list[EvalSlice]:
    """List the first slices, up to a limit, of the files below a folder, in the order of their paths.

    They are of the PNG files and of the DICOM files of CT; other files are left out. Each file stands for
    itself: those of one series may have gaps.

    Raises:
        InputError: No such folder, or no CT slice in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    slices: list[EvalSlice] = []
    for path in sorted(files_below(folder)):
        slices += _slices_of(path, str(path.relative_to(folder)))
        if limit is not None and len(slices) >= limit:
            break
    if not slices:
        raise InputError(f"{folder}: no CT slices; give a folder of DICOM, or of 16-bit PNG of HU + 1024")
    return slices[:limit]


def slice_paths(folder: Path) -> list[Path]:
    """List the files of `eval_slices`, each once.

    Raises:
        InputError: As `eval_slices`.
    """
    return list(dict.fromkeys(slice.path for slice in eval_slices(folder)))


def read_hu(path: Path, lowest_hu: float = AIR_HU) -> list[np.ndarray]:
    """Slices of a file in HU, (H, W) each, float32, up to 8000.

    Args:
        path: The file.
        lowest_hu: What lower values become.

    Raises:
        InputError: The file cannot be read, or is a PNG of other values than HU + 1024 in 16 bits.
    """
    return [slice.read(lowest_hu)[0].clip(max=_LARGEST_HU) for slice in _slices_of(path, path.name)]


def _slices_of(path: Path, name: str) -> Iterator[EvalSlice]:
    """The slices of a file; none if it is no CT."""
    if path.suffix.lower() == ".png":
        yield EvalSlice(name, path)
        return
    try:
        found = find_series(path)
    except InputError:
        return
    for series in found.series:
        for i in range(len(series.slices)):
            yield EvalSlice(f"{name} frame {i + 1}" if i else name, path, series, i)


def _read_png(path: Path) -> np.ndarray:
    """HU, (H, W), float32, of a 16-bit PNG of HU + 1024."""
    values = read_values(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        kind = "colour" if values.ndim == 3 else f"{values.dtype.itemsize * 8}-bit"
        raise InputError(f"{path}: its pixels are {kind}; give 16-bit gray PNG with the value HU + 1024")
    return (values.astype(np.float32) - PNG_OFFSET_HU).clip(max=_LARGEST_HU)


def reduced(hu: Tensor, size: int) -> Tensor:
    """Whole slice, (size, size), of a slice (H, W), filled up with air to a square and reduced by area."""
    height, width = hu.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(hu, (left, side - width - left, top, side - height - top), value=AIR_HU)
    return F.adaptive_avg_pool2d(square[None], size)[0]
