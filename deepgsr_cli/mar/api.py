"""Metal artifact reduction by one call: `deepgsr_cli.reduce_metal`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number, as_numpy
from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import with_own_defaults
from deepgsr_cli.ct.arrays import as_geometry, as_pixel_mm, as_sinogram, as_slice
from deepgsr_cli.ct.plausibility import doubt_numbers, doubt_slice
from deepgsr_cli.ct.truncation import whole_scan
from deepgsr_cli.errors import ShapeError, UsageError, warn_of
from deepgsr_cli.mar.masks import MOST_METAL, doubt_mask
from deepgsr_cli.mar.methods import MetalMethod, check_threshold, load_network
from deepgsr_cli.mar.nmar import ImageOnly, within_tissue
from deepgsr_cli.mar.trace import METAL_HU, metal_mask
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@with_own_defaults
def reduce_metal(
    data: ArrayLike | Tensor,
    geometry: Geometry | str | os.PathLike[str] | None = None,
    *,
    pixel_mm: float | Sequence[float] | None = None,
    metal: ArrayLike | Tensor = METAL_HU,
    method: str = "deepgsr",
    keep_metal: bool = True,
    weights: str | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Reduce the artifacts of metal in a slice; return its CT numbers in HU, (H, W), float32.

    With a geometry, `data` is what a scanner measured. Without one, it is a slice, which is corrected through
    a virtual scan of it, as `deepgsr mar` does with DICOM slices. Where there is no metal, a slice comes back
    as it is, and a sinogram as its filtered backprojection. CT numbers that no body has, and a
    mask where no metal is, come with a `ResultWarning`.

    Args:
        data: Sinogram, (views, bins), of line integrals of attenuation; or slice in HU, (H, W).
        geometry: Of the scan that measured the sinogram, or its TOML or JSON file.
        pixel_mm: Spacing of the slice's rows and columns, one number or two; without a geometry.
        metal: Mask of the slice, (H, W), not zero where metal is; or HU above which all is metal.
        method: "deepgsr", "li" (linear interpolation) or "nmar".
        keep_metal: Whether metal keeps its values; else it is filled in.
        weights: NAME, FILE or hf:// address for "deepgsr"; None for the default.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ShapeError: Another shape, NaN, in a mask too, values that are no line integrals, or too much metal.
        UsageError: What is given is neither of both cases, or a value is out of range.
        UserError: The views do not suffice for filtered backprojection.
        InputError: The geometry's file cannot be read.
        WeightsError: The weights are unknown or damaged.
        DeviceError: The device is not there.
    """
    metal = as_numpy(metal)
    if metal.ndim == 0:
        check_threshold("metal", as_number("metal", metal))
    settings = MetalMethod(method, keep_metal=keep_metal, precision="auto")
    where = select_device(device)
    model = load_network(weights, device, offline=False).model if method == "deepgsr" else None
    if geometry is None:
        hu = as_slice(data)
        spacing_mm = as_pixel_mm(pixel_mm)
        x = to_attenuation(hu, where)
        mask = _mask(metal, x)
        warn_of([*doubt_slice(hu), *doubt_mask(hu, mask[0, 0].cpu().numpy())])
        if not mask.any():
            return hu
        image_only = ImageOnly((hu.shape[0], hu.shape[1]), spacing_mm)
        corrected = image_only(x, mask, settings.reduction(model, virtual=True), keep_metal=keep_metal)
        # Added to the values given, so that what does not change keeps them exactly.
        return within_tissue(hu + ((corrected - x) / WATER_ATTENUATION * 1000)[0, 0].cpu().numpy(), hu)
    if pixel_mm is not None:
        raise UsageError("geometry has the spacing of the pixels; leave pixel_mm out")
    scan = as_geometry(geometry)
    y = as_sinogram(data, scan, where)
    whole = whole_scan(y, scan)
    A = Radon(whole.geometry)
    x = whole.cropped(A.fbp(whole.y))
    before, mask = to_hu(x), _mask(metal, x)
    warn_of([*doubt_numbers(x, y, scan), *doubt_mask(before, mask[0, 0].cpu().numpy())])
    if not mask.any():
        return before
    corrected = whole.cropped(settings.reduction(model)(A, whole.y, whole.padded(mask)))
    return within_tissue(to_hu(torch.where(mask, x, corrected) if keep_metal else corrected), before)


def _mask(metal: np.ndarray, x: Tensor) -> Tensor:
    """Where metal is, bool, (1, 1, H, W), in attenuation in 1/mm: by a mask, (H, W), or a threshold, ()."""
    if metal.ndim == 0:
        mask = metal_mask(x, float(metal))
        way_out = f"above {metal:g} HU; raise metal, or give a mask as metal"
    else:
        if metal.shape != x.shape[2:]:
            raise ShapeError(
                f"metal is a mask of shape {metal.shape}, but the slice has {tuple(x.shape[2:])}; give"
                " the mask of this slice"
            )
        if metal.dtype.kind not in "biuf" or not np.isfinite(metal).all():
            raise ShapeError(f"metal is a mask of {metal.dtype}; give finite real numbers or bool")
        mask = torch.from_numpy(metal != 0).to(x.device)[None, None]
        way_out = "in the mask; what is not zero is metal, so invert the mask if it shows the tissue"
    if (share := float(mask.float().mean())) > MOST_METAL:
        raise ShapeError(f"metal is {share:.0%} of the slice, and {MOST_METAL:.0%} is the most, {way_out}")
    return mask
