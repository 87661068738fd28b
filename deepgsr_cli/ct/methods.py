"""Methods of sparse-view CT: sinograms in, attenuation out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.ct.simulation import FEWEST_PHOTONS, MOST_PHOTONS, noise_variance
from deepgsr_cli.ct.truncation import whole_scan
from deepgsr_cli.errors import MissingWeightsError, OptionError, ShapeError
from deepgsr_cli.tomography.fbp import FILTERS
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.tomography.solvers import TotalVariation, cgls, primal_dual, sirt

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import Precision
    from deepgsr_cli.ct.network import Unrolled
    from deepgsr_cli.weights.load import Loaded


TASK = "ct-recon"
NAMES = {"deepgsr": "DeepGSR", "fbp": "FBP", "sirt": "SIRT", "cgls": "CGLS", "tv": "TV"}
METHODS = tuple(NAMES)
# Most iterations, unless the user gives a number.
ITERATIONS = {"sirt": 200, "cgls": 20, "tv": 300}

# Standard deviations of `_settled` in pixels of 512: for 60 views without noise, for the noise of 60 views of
# 1e5 photons a ray, and the least. From training slices, at 20 to 360 views and 1e4 photons and more.
_WIDTH_OF_VIEWS, _WIDTH_OF_NOISE, _SHARPEST = 2.0, 5.0, 1.5
# Contrast, in 1/mm, that makes the primal and the dual steps of total variation equally fast.
_EDGE_ATTENUATION = 0.005
# Of `total_variation`: the error of line integrals that is no noise, and the weight, in mm; tuned by
# benchmarks/tune_tv.py.
MODEL_ERROR, TV_WEIGHT = 0.01, 0.01


@dataclass(frozen=True)
class Method:
    """A way of reconstruction and its settings.

    Attributes:
        name: Name of the method, one of `METHODS`.
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
            raise OptionError("method", self.name, f"known are {', '.join(METHODS)}")
        if self.filter not in FILTERS:
            raise OptionError("filter", self.filter, f"known are {', '.join(FILTERS)}")
        if self.photons is not None and not FEWEST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise OptionError(
                "photons",
                self.photons,
                f"give photons a ray, {FEWEST_PHOTONS:g} to {MOST_PHOTONS:g}, or"
                " leave it out for a scan without noise",
            )
        if self.iterations is not None and self.iterations < 1:
            raise OptionError("iterations", self.iterations, "give 1 or more")
        if not 0 < self.strength < math.inf:
            raise OptionError("strength", self.strength, "give a factor above 0; 1 is the tuned one")

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


def load_network(weights: str | None, device: str, *, offline: bool) -> Loaded[Unrolled]:
    """Load the network of "deepgsr".

    Raises:
        WeightsError: As `load.load`.
        MissingWeightsError: There are no default weights.
        OptionError: The weights are for another task.
    """
    from deepgsr_cli.ct.network import KINDS
    from deepgsr_cli.weights.load import load

    missing = no_weights(TASK, METHODS)
    return load(TASK, weights, KINDS, device=device, offline=offline, missing=missing)


def no_weights(task: str, methods: tuple[str, ...]) -> MissingWeightsError:
    """The error where the first of a task's methods has no default weights."""
    others = f"{', '.join(methods[1:-1])} or {methods[-1]}"
    return MissingWeightsError(
        "method",
        methods[0],
        f"there are no weights for {task} yet; give --weights FILE, or --method {others}, which need none",
    )


@dataclass(frozen=True)
class Reconstructed:
    """What came of a sinogram.

    Attributes:
        x: Attenuation in 1/mm, (B, 1, H, W).
        note: What there is to know, in words; empty if nothing.
        misfit: Computes A x - y, (B, 1, V, N), of all of the object, not of the slice alone.
    """

    x: Tensor
    note: str
    misfit: Callable[[], Tensor]


def reconstruct(
    A: Radon,
    y: Tensor,
    method: Method,
    *,
    model: torch.nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Reconstruct attenuation in 1/mm, (B, 1, H, W): what `reconstructed` has as x; its arguments."""
    return reconstructed(A, y, method, model=model, progress=progress).x


def reconstructed(
    A: Radon,
    y: Tensor,
    method: Method,
    *,
    model: torch.nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reconstructed:
    """Reconstruct a sinogram, (B, 1, V, N); an object that is wider than the detector, too.

    Args:
        A: The operator y was measured with.
        y: The sinogram.
        method: Method and its settings.
        model: Network of `load_network`, for "deepgsr".
        progress: Called with finished and all iterations by the iterative methods.

    Raises:
        ShapeError: As `Radon.fbp`; or a short scan of a fan cuts off the object.
    """
    wide = whole_scan(y, A.geometry)
    if not wide.share:
        x = _reconstruct(A, y, method, model, None, progress)
        return Reconstructed(x, "", lambda: A(x) - y)
    A_whole, y_whole = A.of(wide.geometry), wide.y
    start = _start(A_whole, y_whole) if method.name == "tv" else None
    if method.name == "tv":  # what was not measured is left to the prior
        A_whole, y_whole = A_whole.of(replace(A.geometry, shape=wide.geometry.shape)), y
    try:
        whole = _reconstruct(A_whole, y_whole, method, model, start, progress)
    except ShapeError as error:
        A.fbp(torch.zeros_like(y))  # which says what the views lack, if that is all
        raise ShapeError(
            f"{wide.note}; what a short scan cuts off cannot be continued, use an iterative method, as tv,"
            " sirt or cgls"
        ) from error

    def misfit() -> Tensor:
        projected = A_whole(whole)
        return (projected if y_whole is y else wide.measured(projected, y.shape[-1])) - y

    return Reconstructed(wide.cropped(whole), wide.note, misfit)


def _reconstruct(
    A: Radon,
    y: Tensor,
    method: Method,
    model: torch.nn.Module | None,
    start: Tensor | None,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    name, photons = method.name, method.photons
    if name == "deepgsr":
        assert model is not None
        return _by_network(A, y, method, model)
    if name == "fbp":
        return A.fbp(y, method.filter)
    iterations = method.iterations or ITERATIONS[name]
    if name == "tv":
        weight = method.strength * TV_WEIGHT
        return total_variation(A, y, weight, photons, start=start, iterations=iterations, progress=progress)
    solve = sirt if name == "sirt" else cgls
    noise = None if photons is None else noise_variance(y, photons).sum((1, 2, 3)).sqrt()
    return solve(A, y, iterations=iterations, noise=noise, progress=progress)


def total_variation(
    A: Radon,
    y: Tensor,
    weight: float,
    photons: float | None = None,
    *,
    start: Tensor | None = None,
    iterations: int = ITERATIONS["tv"],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Attenuation in 1/mm, (B, 1, H, W), not negative, that minimises ½ Σ w (A x - y)² + weight · TV(x).

    w = s² / (s² + v) is the precision, relative to a noise-free one, of a line integral whose noise has the
    variance v and whose model, made of pixels and bins, errs by s = `MODEL_ERROR`. So one weight serves all
    doses: it is that of a prior exp(-weight / s² · TV(x)). The iteration begins with `start`, or with smooth
    filtered backprojection.

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
        TotalVariation(weight, balance=weight / _EDGE_ATTENUATION),
        weights=precision,
        start=_start(A, y) if start is None else start,
        iterations=iterations,
        progress=progress,
    )


def _start(A: Radon, y: Tensor) -> Tensor | None:
    """Smooth filtered backprojection to iterate from, None where the views do not suffice for it."""
    try:
        return A.fbp(y, "hann").clamp(min=0)
    except ShapeError:
        return None


def _by_network(A: Radon, y: Tensor, method: Method, model: torch.nn.Module) -> Tensor:
    from deepgsr_cli.ct.network import ct_condition

    condition = ct_condition(A.geometry.num_views, method.photons, max(A.domain_shape)).to(y.device)
    with torch.no_grad():
        with autocast(y.device, method.precision):
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
