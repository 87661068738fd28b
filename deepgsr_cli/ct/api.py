"""CT by one call: `deepgsr_cli.reconstruct_ct` and `deepgsr_cli.denoise_ct`."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepgsr_cli.compute.arrays import as_number, as_numpy, as_whole
from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import with_own_defaults
from deepgsr_cli.ct.arrays import as_geometry, as_pixel_mm, as_sinogram, as_slice
from deepgsr_cli.ct.denoising import check_level, denoised, level_of
from deepgsr_cli.ct.denoising import load_network as load_denoiser
from deepgsr_cli.ct.methods import METHODS, Method, load_network, reconstructed
from deepgsr_cli.ct.plausibility import doubt_result, doubt_slice
from deepgsr_cli.ct.simulation import SimulatedScan, check_views, estimated_photons
from deepgsr_cli.errors import OptionError, UsageError, check_seed, check_text, warn_of
from deepgsr_cli.pictures.restorer import RunOptions
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


@with_own_defaults
def reconstruct_ct(
    data: ArrayLike | Tensor,
    geometry: Geometry | str | os.PathLike[str] | None = None,
    *,
    num_views: int | None = None,
    pixel_mm: float | Sequence[float] | None = None,
    method: Method | str = "deepgsr",
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Reconstruct a slice from few views; return its CT numbers in HU, (H, W), float32.

    With a geometry, `data` is what a scanner measured. Without one, it is a slice, of which a fan-beam scan
    is simulated first, as `deepgsr ct-recon` does for DICOM slices. A measurement that the slice does not
    explain, or CT numbers that no body has, come with a `ResultWarning`.

    Args:
        data: Sinogram, (views, bins), of line integrals of attenuation; or slice in HU, (H, W).
        geometry: Of the scan that measured the sinogram, or its TOML or JSON file.
        num_views: Views of the simulated scan over a full turn; without a geometry.
        pixel_mm: Spacing of the slice's rows and columns, one number or two; without a geometry.
        method: "deepgsr", "fbp", "sirt", "cgls" or "tv"; or a `ct.methods.Method`, which has settings too.
            Where it does not say the photons of a measured sinogram, they are estimated from its noise.
        weights: NAME, FILE or hf:// address for "deepgsr"; None for the default.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: Of the simulated noise, if the method says the photons. The command draws from the stored values
            of a DICOM slice, so its noise is another.

    Raises:
        ShapeError: Another shape, NaN, or values that are no line integrals.
        UsageError: What is given is neither of both cases, or a value is out of range.
        UserError: The views do not suffice for the method.
        InputError: The geometry's file cannot be read.
        WeightsError: The weights are unknown or damaged.
        DeviceError: The device is not there.
    """
    if (geometry is None) == (num_views is None):
        raise UsageError("give either geometry, for a sinogram, or num_views and pixel_mm, for a slice in HU")
    if not isinstance(method, Method):
        check_text("method", method, f"known are {', '.join(METHODS)}, or give a Method")
        method = Method(method, precision="auto")
    where = select_device(device)
    if geometry is not None:
        if pixel_mm is not None:
            raise UsageError("geometry has the spacing of the pixels; leave pixel_mm out")
        A = Radon(as_geometry(geometry))
        y = as_sinogram(data, A.geometry, where)
        if method.photons is None:
            method = replace(method, photons=estimated_photons(y))
    else:
        num_views, seed = as_whole("num_views", num_views), as_whole("seed", seed)
        check_views(num_views)
        check_seed(seed)
        hu = as_slice(data)
        A = Radon(sparse_view((hu.shape[0], hu.shape[1]), as_pixel_mm(pixel_mm), num_views))
        scan = SimulatedScan(A.geometry, method.photons)
        # By the slice too, in whole HU whatever its dtype, so that the noise of two slices differs.
        whole = np.rint(hu).astype(np.int32)
        y = scan(to_attenuation(hu, where), (seed, zlib.crc32(whole.tobytes())))
    model = load_network(weights, device, offline=False).model if method.name == "deepgsr" else None
    result = reconstructed(A, y, method, model=model)
    warn_of(doubt_slice(hu) if geometry is None else doubt_result(result, y, A.geometry, method))
    return to_hu(result.x)


@with_own_defaults
def denoise_ct(
    hu: ArrayLike | Tensor,
    sigma: float | None = None,
    *,
    strength: float = 1.0,
    weights: str | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Remove noise from CT slices in HU, as `deepgsr denoise` does from DICOM files.

    Numbers that are no HU come with a `ResultWarning`.

    Args:
        hu: A slice, (H, W), or slices, (N, H, W), each of which is done by itself; numbers beyond -1024 to
            3071 HU stay as they are.
        sigma: Standard deviation of the noise in HU; None to estimate it in each slice, and leave one without
            noise as it is.
        strength: Share of the correction that is applied, 0 to 1.
        weights: NAME, FILE or hf:// address; None for the default.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        HU, float32, of the shape of `hu`.

    Raises:
        ShapeError: Another shape, not real numbers, or not finite.
        OptionError: sigma or strength is out of range, or the weights are for another task.
        WeightsError: The weights are unknown or damaged.
        DeviceError: The device is not there.
    """
    sigma, strength = as_number("sigma", sigma, or_none=True), as_number("strength", strength)
    check_level(sigma)
    if not 0 <= strength <= 1:
        raise OptionError("strength", strength, "give 0 (nothing) to 1 (all)")
    given = as_numpy(hu)
    slices = [as_slice(slice) for slice in (given if given.ndim == 3 and len(given) else [given])]
    warn_of(dict.fromkeys(doubt for slice in slices for doubt in doubt_slice(slice)))
    levels = [level_of(slice, sigma).hu for slice in slices]
    results = slices
    if any(levels) and strength > 0:
        model, options = load_denoiser(weights, device, offline=False).model, RunOptions(device, "auto")
        results = [
            denoised(model, slice, level, options, strength=strength) for slice, level in zip(slices, levels)
        ]
    return np.stack(results) if given.ndim == 3 else results[0]
