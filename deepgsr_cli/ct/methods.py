"""Methods of sparse-view CT: sinograms in, attenuation out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number, settle_whole
from deepgsr_cli.compute.precision import autocast, check_precision, settled
from deepgsr_cli.ct.simulation import FEWEST_PHOTONS, MOST_PHOTONS, noise_variance
from deepgsr_cli.ct.truncation import WholeScan, whole_scan
from deepgsr_cli.errors import MissingWeightsError, OptionError, ShapeError
from deepgsr_cli.tomography.fbp import FILTERS
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.tomography.solvers import TotalVariation, cgls, primal_dual, sirt

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import AskedPrecision
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
        precision: Arithmetic of the network; of "auto" `compute.precision.settled` tells.
    """

    name: str = "deepgsr"
    photons: float | None = None
    filter: str = "hann"
    iterations: int | None = None
    strength: float = 1.0
    precision: AskedPrecision = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "photons", as_number("photons", self.photons, or_none=True))
        object.__setattr__(self, "strength", as_number("strength", self.strength))
        if self.name not in METHODS:
            raise OptionError("method", self.name, f"known are {', '.join(METHODS)}")
        check_precision(self.precision)
        if self.filter not in FILTERS:
            raise OptionError("filter", self.filter, f"known are {', '.join(FILTERS)}")
        if self.photons is not None and not FEWEST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise OptionError(
                "photons",
                self.photons,
                f"give photons a ray, {FEWEST_PHOTONS:g} to {MOST_PHOTONS:g}, or"
                " leave it out for a scan without noise",
            )
        settle_whole(self, "iterations", 1)
        if not 0 < self.strength < math.inf:
            raise OptionError("strength", self.strength, "give a factor above 0; 1 is the tuned one")

    def describe(self) -> str:
        """The method and the settings it has, in a few words."""
        text = self.name
        if self.name == "deepgsr":
            text += "" if self.precision == "auto" else f", {self.precision}"
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
        x: Attenuation in 1/mm, (1, 1, H, W).
        note: What there is to know, in words; empty if nothing.
        misfit: Computes A x - y, (1, 1, V, N), of all of the object, not of the slice alone; once.
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
    found = reconstruct_each(A, y, method, [method.photons] * len(y), model=model, progress=progress)
    return torch.cat([result.x for result in found])


def reconstructed(
    A: Radon,
    y: Tensor,
    method: Method,
    *,
    model: torch.nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reconstructed:
    """Reconstruct one sinogram, (1, 1, V, N): `reconstruct_each`, and its arguments."""
    (found,) = reconstruct_each(A, y, method, [method.photons], model=model, progress=progress)
    return found


def reconstruct_each(
    A: Radon,
    y: Tensor,
    method: Method,
    photons: Sequence[float | None],
    *,
    model: torch.nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reconstructed]:
    """Reconstruct sinograms at once, (B, 1, V, N), each as it would be alone.

    Objects that are wider than the detector are reconstructed, too: with others that are cut off alike.

    Args:
        A: The operator y was measured with.
        y: The sinograms.
        method: Method and its settings, but for the photons.
        photons: Photons a ray that leave the source, of each sinogram; None for no noise.
        model: Network of `load_network`, for "deepgsr".
        progress: Called with finished and all iterations by the iterative methods.

    Raises:
        ShapeError: As `Radon.fbp`; or a short scan of a fan cuts off the object.
    """
    scans = [whole_scan(one, A.geometry) for one in y.split(1)]
    alike: dict[tuple[Geometry, bool], list[int]] = {}
    for i, scan in enumerate(scans):
        alike.setdefault((scan.geometry, scan.share > 0), []).append(i)
    found: dict[int, Reconstructed] = {}
    for (_, wider), group in alike.items():

        def advance(finished: int, iterations: int, before: int = len(found), now: int = len(group)) -> None:
            if progress is not None:  # by the sinograms, where groups differ in size
                progress(before * iterations + now * finished, len(y) * iterations)

        work = _reconstruct_wider if wider else _reconstruct_alike
        doses = [photons[i] for i in group]
        results = work(A, y[group], [scans[i] for i in group], method, doses, model, advance)
        found |= zip(group, results, strict=True)
    return [found[i] for i in range(len(y))]


def _reconstruct_alike(
    A: Radon,
    y: Tensor,
    scans: list[WholeScan],
    method: Method,
    photons: list[float | None],
    model: torch.nn.Module | None,
    progress: Callable[[int, int], None],
) -> list[Reconstructed]:
    """What came of sinograms whose detector sees all of the object."""
    x = _reconstruct(A, y, method, photons, model, None, progress)
    misfit = cache(lambda: A(x) - y)
    return [_one(i, x, "", misfit) for i in range(len(x))]


def _reconstruct_wider(
    A: Radon,
    y: Tensor,
    scans: list[WholeScan],
    method: Method,
    photons: list[float | None],
    model: torch.nn.Module | None,
    progress: Callable[[int, int], None],
) -> list[Reconstructed]:
    """What came of sinograms of objects that are wider than the detector, and alike so.

    The arguments are those of `_reconstruct_alike`.
    """
    wide = scans[0]
    A_whole, y_whole = A.of(wide.geometry), torch.cat([scan.y for scan in scans])
    start = _start(A_whole, y_whole) if method.name == "tv" else None
    if method.name == "tv":  # what was not measured is left to the prior
        A_whole, y_whole = A_whole.of(replace(A.geometry, shape=wide.geometry.shape)), y
    try:
        whole = _reconstruct(A_whole, y_whole, method, photons, model, start, progress)
    except ShapeError as error:
        A.fbp(torch.zeros_like(y))  # which says what the views lack, if that is all
        raise ShapeError(
            f"{wide.note}; what a short scan cuts off cannot be continued, use an iterative method, as tv,"
            " sirt or cgls"
        ) from error

    @cache
    def misfit() -> Tensor:
        projected = A_whole(whole)
        return (projected if y_whole is y else wide.measured(projected, y.shape[-1])) - y

    x = wide.cropped(whole)
    return [_one(i, x, scan.note, misfit) for i, scan in enumerate(scans)]


def _one(i: int, x: Tensor, note: str, misfit: Callable[[], Tensor]) -> Reconstructed:
    """What came of one of several sinograms, whose images and misfits are together."""
    return Reconstructed(x[i : i + 1], note, lambda: misfit()[i : i + 1])


def _reconstruct(
    A: Radon,
    y: Tensor,
    method: Method,
    photons: list[float | None],
    model: torch.nn.Module | None,
    start: Tensor | None,
    progress: Callable[[int, int], None],
) -> Tensor:
    name = method.name
    if name == "deepgsr":
        assert model is not None
        return _by_network(A, y, method, photons, model)
    if name == "fbp":
        return A.fbp(y, method.filter)
    iterations, doses = method.iterations or ITERATIONS[name], _doses(photons, y)
    if name == "tv":
        weight = method.strength * TV_WEIGHT
        return total_variation(A, y, weight, doses, start=start, iterations=iterations, progress=progress)
    solve = sirt if name == "sirt" else cgls
    noise = None if doses is None else noise_variance(y, doses).sum((1, 2, 3)).sqrt()
    return solve(A, y, iterations=iterations, noise=noise, progress=progress)


def _doses(photons: list[float | None], y: Tensor) -> Tensor | None:
    """Photons of each sinogram, (B, 1, 1, 1), infinite for no noise; None if none has noise."""
    if all(one is None for one in photons):
        return None
    values = [math.inf if one is None else one for one in photons]
    return torch.tensor(values, dtype=y.dtype, device=y.device).view(-1, 1, 1, 1)


def total_variation(
    A: Radon,
    y: Tensor,
    weight: float,
    photons: float | Tensor | None = None,
    *,
    start: Tensor | None = None,
    iterations: int = ITERATIONS["tv"],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Attenuation in 1/mm, (B, 1, H, W), not negative, that minimises ½ Σ w (A x - y)² + weight · TV(x).

    w = s² / (s² + v) is the precision, relative to a noise-free one, of a line integral whose noise has the
    variance v and whose model, made of pixels and bins, errs by s = `MODEL_ERROR`. So one weight serves all
    doses: it is that of a prior exp(-weight / s² · TV(x)). The iteration begins with `start`, or with smooth
    filtered backprojection. Photons are those of `noise_variance`; None for no noise.

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


def _by_network(
    A: Radon, y: Tensor, method: Method, photons: list[float | None], model: torch.nn.Module
) -> Tensor:
    from deepgsr_cli.ct.network import ct_condition

    size = max(A.domain_shape)
    condition = torch.cat([ct_condition(A.geometry.num_views, dose, size) for dose in photons]).to(y.device)
    with torch.no_grad():
        with autocast(y.device, settled(method.precision, y.device)):
            x = model(A, y, condition)
        return _settled(A, y, x.float(), photons)


def _settled(A: Radon, y: Tensor, x: Tensor, photons: list[float | None]) -> Tensor:
    """The images with those low frequencies that the data know better than a network, (B, 1, H, W).

    Few views measure low frequencies well, and there noise is low. What the image leaves of the data is
    backprojected, smoothed and added, which takes the bias out of mean CT numbers.
    """
    scale = max(A.domain_shape) / 512
    fewer = 60 / A.geometry.num_views

    def width(dose: float | None) -> float:
        noise = 0 if dose is None else (fewer * 1e5 / dose) ** 0.25
        return scale * max(_SHARPEST, math.hypot(_WIDTH_OF_VIEWS * fewer, _WIDTH_OF_NOISE * noise))

    left = A.fbp(y - A(x), "hann").split(1)
    smooth = [gaussian_blur(one, width(dose)) for one, dose in zip(left, photons, strict=True)]
    return (x + torch.cat(smooth)).clamp(min=0)


def gaussian_blur(x: Tensor, width: float) -> Tensor:
    """Maps, (B, 1, H, W), convolved with a Gaussian of a standard deviation in pixels; zeros lie beyond."""
    radius = math.ceil(4 * width)
    taps = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    taps = torch.softmax(-0.5 * (taps / width) ** 2, 0)
    rows = F.conv2d(x, taps.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(rows, taps.view(1, 1, 1, -1), padding=(0, radius))
