"""Evaluation of metal artifact reduction with a stated protocol: slices times metals, all methods on each."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.device import wait
from deepgsr_cli.ct.figures import PEAK_ATTENUATION, body, compare
from deepgsr_cli.ct.simulation import FEWEST_PHOTONS, MOST_PHOTONS
from deepgsr_cli.ct.slices import EvalSlice, reduced
from deepgsr_cli.errors import UsageError
from deepgsr_cli.files import fingerprint
from deepgsr_cli.mar.masks import MetalShape
from deepgsr_cli.mar.materials import METALS
from deepgsr_cli.mar.methods import MetalMethod
from deepgsr_cli.mar.nmar import ImageOnly
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.mar.trace import METAL_HU, metal_mask
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.fbp import FILTERS
from deepgsr_cli.tomography.geometry import mar_640

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import Precision


INPUT, CEILING = "input", "no metal"
# What 12 bits and an intercept of -1024 hold, in HU.
_LEAST_STORED_HU, _MOST_STORED_HU = -1024, 3071
# The papers show five groups of metals by size.
_MOST_GROUPS = 5


@dataclass(frozen=True)
class MarEvalConfig:
    """What an evaluation is.

    Attributes:
        data: Folder of CT slices, DICOM, or 16-bit gray PNG with the value HU + 1024.
        masks: Folder of metal shapes as PNG, what is not zero is metal.
        methods: Of `mar.methods.METHODS`.
        image_only: Whether the methods see the reconstruction alone, and find the metal in it.
        metal: Of `materials.METALS`.
        photons: Photons a ray of the scans.
        filter: Of `fbp.FILTERS`, of the reconstruction that is corrected if `image_only`.
        threshold_hu: Above is metal if `image_only`.
        seed: Of the noise, which differs from slice to slice.
        limit: Only the first so many slices, None for all.
        precision: Arithmetic of the network.
    """

    data: Path
    masks: Path
    methods: tuple[str, ...] = ("li", "nmar")
    image_only: bool = False
    metal: str = "titanium"
    photons: float = 2e7
    filter: str = "ram-lak"
    threshold_hu: float = METAL_HU
    seed: int = 0
    limit: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")
        if self.metal not in METALS:
            raise UsageError(f"--metal {self.metal}: known are {', '.join(METALS)}")
        if self.filter not in FILTERS:
            raise UsageError(f"--filter {self.filter}: known are {', '.join(FILTERS)}")
        if not FEWEST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise UsageError(
                f"--photons {self.photons:g}: give photons a ray, {FEWEST_PHOTONS:g} to {MOST_PHOTONS:g}"
            )
        for name in self.methods:
            self.method(name)

    def method(self, name: str) -> MetalMethod:
        """The method of that name; metal is filled in, as it does not count."""
        return MetalMethod(name, self.threshold_hu, False, self.precision)


@dataclass(frozen=True)
class MarScore:
    """One slice with one metal by one method; also by `INPUT`, uncorrected, and `CEILING`, scanned without.

    Attributes:
        slice: The slice.
        mask: The metal.
        metal_px: Pixels the metal covers.
        outside: Share of them outside the body.
        method: The method.
        psnr: As `figures.Figures`, against the slice; metal pixels do not count, here and below.
        ssim: Likewise.
        rmse_hu: Likewise.
        bias_hu: Likewise.
        gain: PSNR over that of `INPUT`, in dB.
        free_psnr: PSNR against the reconstruction of the scan without metal: what the metal did alone.
        free_rmse_hu: RMSE against it.
        seconds: Wall-clock time of the method.
    """

    slice: str
    mask: str
    metal_px: int
    outside: float
    method: str
    psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float
    gain: float
    free_psnr: float
    free_rmse_hu: float
    seconds: float


@dataclass(frozen=True)
class MarMean:
    """Mean over the cases of a group of metals of what `MarScore` has, and the lowest gain.

    Attributes:
        metal: Pixels of the group's metals, or "all".
    """

    metal: str
    method: str
    psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float
    gain: float
    lowest_gain: float
    free_psnr: float
    free_rmse_hu: float
    seconds: float


def protocol(
    config: MarEvalConfig, slices: list[EvalSlice], shapes: list[MetalShape], weights: str | None = None
) -> dict[str, str]:
    """All it takes to repeat the evaluation, as label and text; `weights` are those of "deepgsr"."""
    geometry = mar_640()
    paths = list(dict.fromkeys(slice.path for slice in slices))
    facts = {
        "data": f"{config.data.name}: {len(slices)} slices, fingerprint {fingerprint(paths)}; by area to"
        f" 416 x 416 pixels of {geometry.pixel_mm[0]:.4f} mm, whatever their own",
        "metal": f"{config.metal}; {config.masks.name}: {len(shapes)} shapes, fingerprint"
        f" {fingerprint([shape.path for shape in shapes])}, where they are, also outside the body",
        "geometry": "fan beam, 640 views over a full turn, 641 bins of a flat detector",
        "simulation": "120 kVp, water and bone by thresholds, metal in place of tissue; corrected for the"
        " beam hardening of water",
        "noise": f"{config.photons:g} photons a ray, Poisson, 20 counts of scatter, torch, seeded"
        f" by numpy SeedSequence(({config.seed}, crc32 of the slice's HU))",
        "input": "filtered backprojection, ram-lak; the metal is known",
        "PSNR, SSIM": f"attenuation clipped to [0, {PEAK_ATTENUATION:g}] per mm, over {PEAK_ATTENUATION:g};"
        " whole slice; metal pixels do not count (in SSIM they are equal); mean of cases",
        "RMSE, bias": "in HU, in the body without metal: within the skin, lungs included, and in the largest"
        " circle",
        "reference": "the slice; and, under metal-free, the reconstruction of the scan without metal, from"
        " which only artifacts differ",
        "methods": "; ".join(config.method(name).describe() for name in config.methods),
    }
    if config.image_only:
        facts["input"] = (
            f"filtered backprojection, {config.filter}, as whole HU from {_LEAST_STORED_HU} to"
            f" {_MOST_STORED_HU}; the image alone, metal is what is above {config.threshold_hu:g} HU"
        )
    if weights is not None:
        facts["weights"] = weights
    return facts


def evaluate(
    config: MarEvalConfig,
    slices: list[EvalSlice],
    shapes: list[MetalShape],
    *,
    device: torch.device,
    model: torch.nn.Module | None = None,
    keep: Callable[[MarScore, np.ndarray, np.ndarray], None] | None = None,
) -> Iterator[MarScore]:
    """Scores of each slice, metal and method, in this order; `INPUT` is the first method, `CEILING` the last.

    Args:
        config: What to evaluate.
        slices: Of `ct.slices.eval_slices`.
        shapes: Of `eval_masks`.
        device: Where to compute.
        model: For the method "deepgsr".
        keep: Called with the score and the result's and the slice's HU, (H, W), for a report.

    Raises:
        InputError: A slice cannot be read.
    """
    case = _Cases(config, device, model)
    for slice in slices:
        x = case.prepare(slice.read()[0])
        for shape in shapes:
            for score, found in case.scores(slice.name, shape):
                if keep is not None:
                    keep(score, to_hu(found), to_hu(x))
                yield score


class _Cases:
    """Simulated scans of one slice after another, and what the methods make of them."""

    def __init__(self, config: MarEvalConfig, device: torch.device, model: torch.nn.Module | None) -> None:
        self.config, self.device = config, device
        geometry = mar_640()
        self.pixel_mm = geometry.pixel_mm
        self.scan = MetalScan(geometry, config.metal, config.photons)
        self.image_only = ImageOnly(geometry.shape, geometry.pixel_mm) if config.image_only else None
        self.reductions = {
            name: config.method(name).reduction(model, virtual=config.image_only) for name in config.methods
        }
        blank = torch.zeros(1, 1, *geometry.shape, device=device)
        for A in (self.scan.operator, *((self.image_only.operator,) if self.image_only else ())):
            A.fbp(A(blank))  # what it prepares is no part of the time

    def prepare(self, hu: np.ndarray) -> Tensor:
        """Take up a slice in HU, (H, W); its attenuation in 1/mm, (1, 1, 416, 416)."""
        small = reduced(torch.from_numpy(hu), self.scan.operator.domain_shape[0]).numpy()
        self.x = to_attenuation(small, self.device)
        self.seed = self.config.seed, zlib.crc32(hu.tobytes())
        self.free = self._image(self._scanned(torch.zeros_like(self.x, dtype=torch.bool)))
        return self.x

    def scores(self, name: str, shape: MetalShape) -> Iterator[tuple[MarScore, Tensor]]:
        """Score and image, in 1/mm, of the slice with a metal by each method."""
        metal = torch.from_numpy(shape.metal).to(self.device)[None, None]
        outside = float(np.mean(~body(self.x, self.pixel_mm)[shape.metal]))
        y = self._scanned(metal)
        image = self._image(y)
        uncorrected = compare(image, self.x, self.pixel_mm, metal).psnr
        for method in (INPUT, *self.reductions, CEILING):
            started = time.perf_counter()
            found = {INPUT: image, CEILING: self.free}.get(method)
            if found is None:
                found = self._reduced(method, y, image, metal)
                wait(self.device)
            seconds = time.perf_counter() - started
            figures = compare(found, self.x, self.pixel_mm, metal)
            free = compare(found, self.free, self.pixel_mm, metal)
            score = MarScore(
                name,
                shape.name,
                shape.num_px,
                outside,
                method,
                figures.psnr,
                figures.ssim,
                figures.rmse_hu,
                figures.bias_hu,
                figures.psnr - uncorrected,
                free.psnr,
                free.rmse_hu,
                seconds,
            )
            yield score, found

    def _scanned(self, metal: Tensor) -> Tensor:
        # Of what manual_seed is given, torch uses 32 bits.
        (seed,) = np.random.SeedSequence(self.seed).generate_state(1)
        generator = torch.Generator(self.device).manual_seed(int(seed))
        return self.scan.scan(self.x, metal, generator)

    def _image(self, y: Tensor) -> Tensor:
        """What is corrected, in 1/mm, (1, 1, H, W)."""
        if self.image_only is None:
            return self.scan.operator.fbp(y)
        hu = to_hu(self.scan.operator.fbp(y, self.config.filter))
        return to_attenuation(np.rint(hu).clip(_LEAST_STORED_HU, _MOST_STORED_HU), self.device)

    def _reduced(self, method: str, y: Tensor, image: Tensor, metal: Tensor) -> Tensor:
        if self.image_only is None:
            return self.reductions[method](self.scan.operator, y, metal)
        found = metal_mask(image, self.config.threshold_hu)
        if not found.any():
            return image
        return self.image_only(image, found, self.reductions[method], keep_metal=False)


def means(scores: list[MarScore]) -> list[MarMean]:
    """Means by groups of metals, the largest first, and over all; the methods in the order of the scores."""
    sizes = sorted({(score.metal_px, score.mask) for score in scores}, reverse=True)
    per_group = math.ceil(len(sizes) / _MOST_GROUPS)
    groups = {}
    for start in range(0, len(sizes), per_group):
        members = sizes[start : start + per_group]
        groups[", ".join(str(num_px) for num_px, _ in members)] = {mask for _, mask in members}
    groups["all"] = {mask for _, mask in sizes}
    methods = dict.fromkeys(score.method for score in scores)
    return [
        _mean(name, method, [s for s in scores if s.mask in masks and s.method == method])
        for name, masks in groups.items()
        for method in methods
    ]


def _mean(metal: str, method: str, group: list[MarScore]) -> MarMean:
    def mean(values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return MarMean(
        metal,
        method,
        mean([s.psnr for s in group]),
        mean([s.ssim for s in group]),
        mean([s.rmse_hu for s in group]),
        mean([s.bias_hu for s in group]),
        mean([s.gain for s in group]),
        min(s.gain for s in group),
        mean([s.free_psnr for s in group]),
        mean([s.free_rmse_hu for s in group]),
        mean([s.seconds for s in group]),
    )
