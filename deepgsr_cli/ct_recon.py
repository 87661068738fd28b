"""Sparse-view CT: simulated scans, reconstruction and figures; arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from deepgsr_cli.errors import UsageError, UserError, WeightsError
from deepgsr_cli.geometry import Geometry
from deepgsr_cli.metrics import psnr, ssim
from deepgsr_cli.physics import FILTERS, Radon, attenuation_to_hu, hu_to_attenuation
from deepgsr_cli.solvers import TotalVariation, cgls, primal_dual, sirt

if TYPE_CHECKING:
    from deepgsr_cli.tiling import Precision
    from deepgsr_cli.weights import Checkpoint, ResolvedWeights

TASK = "ct-recon"
NAMES = {"deepgsr": "DeepGSR", "fbp": "FBP", "sirt": "SIRT", "cgls": "CGLS", "tv": "TV"}
METHODS = tuple(NAMES)
ITERATIONS = {"sirt": 200, "cgls": 20, "tv": 300}
FEWEST_VIEWS, MOST_VIEWS = 4, 3600
FEWEST_PHOTONS, MOST_PHOTONS = 100.0, 1e12

PEAK_ATTENUATION = 0.05  # 1/mm: the range the metal artifact papers compare in, up to about 1600 HU
BODY_HU = -500.0
_TABLE_MM = 5.0  # what is thinner is no body

# Bins and pixels of a simulated scan, along each axis, to one of the reconstruction.
_FINENESS = 2
# Standard deviations of `_settled` in pixels of 512: for 60 views without noise, for the noise of 60 views of
# 1e5 photons a ray, and the least. From training slices, at 20 to 360 views and 1e4 photons and more.
_WIDTH_OF_VIEWS, _WIDTH_OF_NOISE, _SHARPEST = 2.0, 5.0, 1.5
_CHI_SQUARED_MEDIAN = 0.4549
# Contrast, in 1/mm, that makes the primal and the dual steps of total variation equally fast.
_EDGE_ATTENUATION = 0.005
# Of `total_variation`: the error of line integrals that is no noise, and the weight, in mm; tuned by
# benchmarks/tune_tv.py.
MODEL_ERROR, TV_WEIGHT = 0.01, 0.01


@dataclass(frozen=True)
class Method:
    """A way of reconstruction and its settings.

    Attributes:
        name: Of `METHODS`.
        photons: Photons a ray that leave the source, None for a scan without noise.
        filter: Window on the ramp, for "fbp".
        iterations: At most so many, for the iterative methods; None for `ITERATIONS`.
        strength: Weight of total variation over the tuned one, `TV_WEIGHT`.
        precision: Arithmetic of the network.
    """

    name: str = "deepgsr"
    photons: float | None = None
    filter: str = "hann"
    iterations: int | None = None
    strength: float = 1.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"--method {self.name}: known are {', '.join(METHODS)}")
        if self.filter not in FILTERS:
            raise UsageError(f"--filter {self.filter}: known are {', '.join(FILTERS)}")
        if self.photons is not None and not FEWEST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise UsageError(
                f"--photons {self.photons:g}: give photons a ray, {FEWEST_PHOTONS:g} to {MOST_PHOTONS:g}, or"
                " leave it out for a scan without noise"
            )
        if self.iterations is not None and self.iterations < 1:
            raise UsageError(f"--iterations {self.iterations}: give 1 or more")
        if not 0 < self.strength < math.inf:
            raise UsageError(f"--strength {self.strength:g}: give a factor above 0; 1 is the tuned one")

    def describe(self) -> str:
        """The method and the settings it has, in a few words."""
        text = self.name
        if self.name == "deepgsr":
            text += f", {self.precision}"
        if self.name == "fbp":
            text += f", {self.filter} filter"
        if self.name in ITERATIONS:
            text += f", at most {self.iterations or ITERATIONS[self.name]} iterations"
        if self.name == "tv":
            text += f", strength {self.strength:g}"
        return text


def check_views(num_views: int) -> None:
    """Raise unless a scan of so many views is within bounds."""
    if not FEWEST_VIEWS <= num_views <= MOST_VIEWS:
        raise UsageError(f"--views {num_views}: give {FEWEST_VIEWS} to {MOST_VIEWS} views over a full turn")


def check_seed(seed: int) -> None:
    """Raise unless noise can be drawn from the seed."""
    if seed < 0:
        raise UsageError(f"--seed {seed}: give 0 or more")


def load_model(
    weights: str | None,
    device: str,
    *,
    offline: bool,
    task: str = TASK,
    methods: tuple[str, ...] = METHODS,
) -> tuple[ResolvedWeights, Checkpoint]:
    """The network of "deepgsr", the first of the methods of a task.

    Raises:
        WeightsError: As `weights.resolve`; or there are no default weights.
        UsageError: The weights are for another task.
    """
    from deepgsr_cli.device import select_device
    from deepgsr_cli.weights import default_name, load_checkpoint, resolve

    try:
        name = weights or default_name(task, 1)
    except WeightsError as error:
        others = f"{', '.join(methods[1:-1])} or {methods[-1]}"
        raise WeightsError(
            f"--method deepgsr: there are no weights for {task} yet; give --weights FILE, or --method"
            f" {others}, which need none"
        ) from error
    resolved = resolve(name, offline=offline)
    checkpoint = load_checkpoint(resolved.path, device=select_device(device))
    if (trained_for := checkpoint.info.get("task")) != task:
        raise UsageError(f"--weights {name}: trained for {trained_for}; give weights for {task}")
    return resolved, checkpoint


class SimulatedScan:
    """Scans of a slice that no scanner made, without the inverse crime.

    Each pixel is parted into four of its value and each bin into two, whose intensities are averaged: the
    reconstruction's operator is not the one that made the data. No scatter, no beam hardening.

    Args:
        geometry: Of the scan.
        photons: Photons a ray that leave the source; None for no noise.
    """

    def __init__(self, geometry: Geometry, photons: float | None = None) -> None:
        self.geometry, self.photons = geometry, photons
        k = _FINENESS
        rows, columns = geometry.shape
        row_mm, column_mm = geometry.pixel_mm
        self._A = Radon(
            replace(
                geometry,
                shape=(k * rows, k * columns),
                pixel_mm=(row_mm / k, column_mm / k),
                num_bins=k * geometry.num_bins,
                bin_mm=geometry.bin_mm / k,
                offset_bins=k * geometry.offset_bins,
            )
        )

    def __call__(self, x: Tensor, seed: int | tuple[int, ...] = 0) -> Tensor:
        """Sinogram, (B, 1, V, N), of attenuation in 1/mm, (B, 1, H, W), by Poisson counts of at least 1.

        Args:
            x: The slice.
            seed: Of the noise; counts are drawn by numpy on the CPU, whatever the device.
        """
        fine = x.repeat_interleave(_FINENESS, 2).repeat_interleave(_FINENESS, 3)
        transmitted = torch.exp(-self._A(fine)).unflatten(-1, (-1, _FINENESS)).mean(-1)
        if self.photons is not None:
            expected = self.photons * transmitted.cpu().numpy().astype(np.float64)
            counts = np.random.default_rng(seed).poisson(expected).clip(min=1)
            transmitted = torch.from_numpy(counts / self.photons).to(x)
        return -transmitted.clamp(min=torch.finfo(x.dtype).tiny).log()


def reconstruct(
    A: Radon,
    y: Tensor,
    method: Method,
    *,
    model: torch.nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Attenuation in 1/mm, (B, 1, H, W), of a sinogram, (B, 1, V, N).

    Args:
        A: The operator y was measured with.
        y: The sinogram.
        method: How.
        model: Of `load_model`, for "deepgsr".
        progress: Called with finished and all iterations by the iterative methods.

    Raises:
        UserError: As `Radon.fbp`.
    """
    name, photons = method.name, method.photons
    if name == "deepgsr":
        assert model is not None
        return _by_network(A, y, method, model)
    if name == "fbp":
        return A.fbp(y, method.filter)
    iterations = method.iterations or ITERATIONS[name]
    if name == "tv":
        weight = method.strength * TV_WEIGHT
        return total_variation(A, y, weight, photons, iterations=iterations, progress=progress)
    solve = sirt if name == "sirt" else cgls
    noise = None if photons is None else noise_variance(y, photons).sum((1, 2, 3)).sqrt()
    return solve(A, y, iterations=iterations, noise=noise, progress=progress)


def total_variation(
    A: Radon,
    y: Tensor,
    weight: float,
    photons: float | None = None,
    *,
    iterations: int = ITERATIONS["tv"],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Attenuation in 1/mm, (B, 1, H, W), not negative, that minimises ½ Σ w (A x - y)² + weight · TV(x).

    w = s² / (s² + v) is the precision, relative to a noise-free one, of a line integral whose noise has the
    variance v and whose model, made of pixels and bins, errs by s = `MODEL_ERROR`. So one weight serves all
    doses: it is that of a prior exp(-weight / s² · TV(x)).

    Source:
        Sidky, Jørgensen, Pan, Convex optimization problem prototyping for image reconstruction in computed
        tomography with the Chambolle-Pock algorithm, Physics in Medicine and Biology 57, 2012; the precisions
        are those of Sauer and Bouman, IEEE Transactions on Signal Processing 41(2), 1993.
    """
    precision = None
    if photons is not None:
        precision = MODEL_ERROR**2 / (MODEL_ERROR**2 + noise_variance(y, photons))
    return primal_dual(
        A,
        y,
        TotalVariation(weight),
        weights=precision,
        start=_start(A, y),
        iterations=iterations,
        balance=weight / _EDGE_ATTENUATION,
        progress=progress,
    )


def _start(A: Radon, y: Tensor) -> Tensor | None:
    """Smooth filtered backprojection to iterate from, None where the views do not suffice for it."""
    try:
        return A.fbp(y, "hann").clamp(min=0)
    except UserError:
        return None


def noise_variance(y: Tensor, photons: float) -> Tensor:
    """Variance of line integrals measured by counting photons, of the shape of y; at most that of one."""
    return (y.exp() / photons).clamp(max=1)


def estimated_photons(y: Tensor) -> float | None:
    """Photons a ray that a sinogram, (1, 1, V, N), must have been measured with, None if it has no noise.

    Differences of sixth order along the detector leave little but noise. Divided by its variance but for the
    photons, exp(y), their squares have the median of a chi-squared variable. On scans simulated from training
    slices the estimate is up to 7 % low at 1e5 photons and 25 % at 1e6; without noise it is above 3e6.

    Source:
        Gasser, Sroka, Jennen-Steinmetz, Residual variance and residual pattern in nonlinear regression,
        Biometrika 73(3), 1986, for differences; Donoho, Johnstone, Ideal spatial adaptation by wavelet
        shrinkage, Biometrika 81(3), 1994, for the median.
    """
    order = 6
    taps = [(-1.0) ** k * math.comb(order, k) for k in range(order + 1)]
    if y.shape[-1] < len(taps):
        return None
    kernel = torch.tensor(taps, dtype=torch.float64)
    wide = y.cpu().double()  # which not every device has
    differences = F.conv2d(wide, kernel.view(1, 1, 1, -1))
    squares = differences.square() * torch.exp(-wide[..., order // 2 : -(order // 2)])
    squares = squares[squares > 0]  # dead bins, and air that was set to zero
    if not len(squares):
        return None
    photons = float(kernel.square().sum() * _CHI_SQUARED_MEDIAN / squares.median())
    return min(max(photons, FEWEST_PHOTONS), MOST_PHOTONS)


def _by_network(A: Radon, y: Tensor, method: Method, model: torch.nn.Module) -> Tensor:
    from deepgsr_cli.models.unrolled import ct_condition

    condition = ct_condition(A.geometry.num_views, method.photons, max(A.domain_shape)).to(y.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[method.precision]
    with torch.no_grad():
        with torch.autocast(y.device.type, dtype, enabled=dtype != torch.float32):
            x = model(A, y, condition)
        return _settled(A, y, x.float(), method.photons)


def _settled(A: Radon, y: Tensor, x: Tensor, photons: float | None) -> Tensor:
    """The image with those low frequencies that the data know better than a network, (B, 1, H, W).

    Few views measure low frequencies well, and there noise is low. What the image leaves of the data is
    backprojected, smoothed and added, which takes the bias out of mean CT numbers.
    """
    scale = max(A.domain_shape) / 512
    fewer = 60 / A.geometry.num_views
    noise = 0 if photons is None else (fewer * 1e5 / photons) ** 0.25
    width = scale * max(_SHARPEST, math.hypot(_WIDTH_OF_VIEWS * fewer, _WIDTH_OF_NOISE * noise))
    return (x + gaussian_blur(A.fbp(y - A(x), "hann"), width)).clamp(min=0)


def gaussian_blur(x: Tensor, width: float) -> Tensor:
    """Maps, (B, 1, H, W), convolved with a Gaussian of a standard deviation in pixels; zeros lie beyond."""
    radius = math.ceil(4 * width)
    taps = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    taps = torch.softmax(-0.5 * (taps / width) ** 2, 0)
    rows = F.conv2d(x, taps.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(rows, taps.view(1, 1, 1, -1), padding=(0, radius))


@dataclass(frozen=True)
class Figures:
    """A reconstruction against its reference.

    Attributes:
        psnr: In dB, of attenuation clipped to [0, `PEAK_ATTENUATION`], over the whole slice.
        ssim: Of the same.
        rmse_hu: Root mean square error in the `body`.
        bias_hu: Mean error there.
    """

    psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float


def compare(
    x: Tensor, reference: Tensor, pixel_mm: tuple[float, float], leave_out: Tensor | None = None
) -> Figures:
    """Figures of attenuation in 1/mm, (1, 1, H, W); NaN for those in the body where there is none.

    Args:
        x: The reconstruction.
        reference: What it should be.
        pixel_mm: Distance of rows and of columns.
        leave_out: Pixels that do not count, bool, (1, 1, H, W); those in the windows of SSIM count as equal.
    """
    counted = np.full(x.shape[1:], True) if leave_out is None else ~leave_out[0].cpu().numpy()
    if leave_out is not None:
        x = torch.where(leave_out, reference, x)
    clipped, target = (t[0].clamp(0, PEAK_ATTENUATION).cpu().numpy() for t in (x, reference))
    error = (attenuation_to_hu(x) - attenuation_to_hu(reference))[0, 0].double().cpu().numpy()
    in_body = error[counted[0] & body(reference, pixel_mm)]
    known = in_body.size > 0
    return Figures(
        psnr(clipped[counted], target[counted], peak=PEAK_ATTENUATION),
        ssim(clipped, target, peak=PEAK_ATTENUATION),
        float(np.sqrt(np.mean(in_body**2))) if known else math.nan,
        float(np.mean(in_body)) if known else math.nan,
    )


def body(reference: Tensor, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Where the body is, bool, (H, W), in a slice of attenuation in 1/mm, (1, 1, H, W): within the skin.

    That is where the slice is above `BODY_HU`, without what is thin, as a table is, and without pieces of
    less than a tenth of the largest, but with all that they enclose; and within the largest circle. Lungs are
    in the body: a threshold alone would choose, at their edges and in their noise, pixels that are too high.
    """
    hu = to_hu(reference)
    rows, columns = (max(1, round(_TABLE_MM / 2 / d)) for d in pixel_mm)
    thick = ndimage.binary_opening(hu > BODY_HU, np.ones((2 * rows + 1, 2 * columns + 1)))
    pieces, count = ndimage.label(thick)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= 0.1 * areas.max(initial=0)) + 1
    y, x = (np.arange(n) * d - (n - 1) * d / 2 for n, d in zip(hu.shape, pixel_mm))
    radius_mm = min(n * d for n, d in zip(hu.shape, pixel_mm)) / 2
    inside = ndimage.binary_fill_holes(np.isin(pieces, large))
    return np.asarray(inside & (np.hypot(y[:, None], x) <= radius_mm))


def to_attenuation(hu: np.ndarray, device: torch.device) -> Tensor:
    """Attenuation in 1/mm, (1, 1, H, W), float32, not negative, of HU, (H, W)."""
    return hu_to_attenuation(torch.from_numpy(hu).to(device).float()).clamp(min=0)[None, None]


def to_hu(x: Tensor) -> np.ndarray:
    """HU, (H, W), float32, of attenuation in 1/mm, (1, 1, H, W)."""
    return attenuation_to_hu(x)[0, 0].cpu().numpy()


def residual(A: Radon, x: Tensor, y: Tensor) -> float:
    """‖A x - y‖ / ‖y‖: how far the reconstruction is from the data."""
    return float((A(x) - y).norm() / y.norm().clamp(min=torch.finfo(y.dtype).tiny))
