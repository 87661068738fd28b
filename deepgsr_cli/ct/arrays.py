"""Slices and sinograms as callers of Python have them: arrays, checked where they enter."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.arrays import as_numpy
from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.formats.sinograms import MOST_INTEGRAL, doubt_integrals, doubt_sign, doubt_slices
from deepgsr_cli.tomography.geometry import Geometry, several, spacing_mm
from deepgsr_cli.tomography.geometry_files import read_geometry

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def as_geometry(geometry: Geometry | str | os.PathLike[str]) -> Geometry:
    """A geometry, or that of a TOML or JSON file.

    Raises:
        InputError: The file cannot be read.
    """
    return geometry if isinstance(geometry, Geometry) else read_geometry(Path(geometry))


def as_pixel_mm(pixel_mm: float | Sequence[float] | np.ndarray | Tensor | None) -> tuple[float, float]:
    """Spacing of the rows and of the columns, of both or of one for both.

    Raises:
        UsageError: There is none.
        ShapeError: There are neither one nor two, or they are no lengths.
    """
    if pixel_mm is None:
        raise UsageError("a slice in HU needs pixel_mm, the spacing of its pixels; a sinogram, its geometry")
    if isinstance(pixel_mm, np.ndarray | Tensor):
        pixel_mm = as_numpy(pixel_mm).tolist()
    both = pixel_mm if isinstance(pixel_mm, Iterable) else (pixel_mm, pixel_mm)
    row_mm, column_mm = (spacing_mm("pixel_mm", value) for value in several("pixel_mm", both, 2))
    return row_mm, column_mm


def as_slice(hu: ArrayLike | Tensor) -> np.ndarray:
    """A slice in HU, (H, W), as float32.

    Raises:
        ShapeError: Another shape, not real numbers, or not finite.
    """
    return _real("slice", hu, "(H, W) in HU")


def as_sinogram(sinogram: ArrayLike | Tensor, geometry: Geometry, device: torch.device) -> Tensor:
    """A sinogram, (1, 1, V, N), float32, of line integrals, (V, N).

    Raises:
        ShapeError: Another shape than the geometry's, not real numbers, not finite, or no line integrals.
    """
    y = _real("sinogram", sinogram, "(views, bins)")
    if doubt := doubt_slices(y):
        raise ShapeError(f"the sinogram {doubt}; give a slice without a geometry, and with pixel_mm")
    shape = geometry.num_views, geometry.num_bins
    if y.shape != shape:
        way_out = "transpose it" if y.shape == shape[::-1] else "give the geometry of this scan"
        raise ShapeError(
            f"the sinogram has shape {y.shape}, but geometry has {shape[0]} views x {shape[1]} bins;"
            f" {way_out}"
        )
    if (largest := float(np.abs(y).max())) > MOST_INTEGRAL:
        raise ShapeError(
            f"the sinogram has values up to {largest:g}, but a line integral is {MOST_INTEGRAL:g} at most;"
            " give -ln(counts / counts without the object)"
        )
    if doubt := doubt_integrals(y):
        raise ShapeError(f"the sinogram {doubt}; give -ln of it")
    if doubt := doubt_sign(y):
        raise ShapeError(f"the sinogram {doubt}; turn the sign")
    return torch.from_numpy(y).to(device)[None, None]


def _real(name: str, values: ArrayLike | Tensor, form: str) -> np.ndarray:
    values = as_numpy(values)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        raise ShapeError(
            f"the {name} is an array of {values.dtype} and shape {values.shape}; give real numbers, {form}"
        )
    values = values.astype(np.float32)
    if wrong := values.size - np.count_nonzero(np.isfinite(values)):
        raise ShapeError(f"the {name} has NaN or infinity in {wrong} of its values; replace them first")
    return values
