"""Evaluation of sparse-view CT with a stated protocol, all methods on the same simulated scans."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepgsr_cli.compute.device import wait
from deepgsr_cli.ct.figures import PEAK_ATTENUATION, compare
from deepgsr_cli.ct.methods import Method, reconstruct
from deepgsr_cli.ct.simulation import SimulatedScan, check_seed, check_views
from deepgsr_cli.ct.slices import PNG_FIELD_MM, EvalSlice
from deepgsr_cli.errors import UsageError
from deepgsr_cli.files import fingerprint
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import Precision


@dataclass(frozen=True)
class CtEvalConfig:
    """What an evaluation is.

    Attributes:
        data: Folder of CT slices, DICOM, or 16-bit gray PNG with the value HU + 1024.
        views: Views of the scans.
        photons: Photons a ray of the scans, infinite for no noise.
        methods: Of `ct.methods.METHODS`.
        seed: Of the noise, which differs from slice to slice.
        limit: Only the first so many slices, None for all.
        precision: Arithmetic of the network.
    """

    data: Path
    views: tuple[int, ...]
    photons: tuple[float, ...] = (math.inf,)
    methods: tuple[str, ...] = ("deepgsr",)
    seed: int = 0
    limit: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")
        check_seed(self.seed)
        for views in self.views:
            check_views(views)
        for name in self.methods:
            for photons in self.photons:
                self.method(name, photons)

    def method(self, name: str, photons: float) -> Method:
        """The method for a scan."""
        return Method(name, None if photons == math.inf else photons, precision=self.precision)


@dataclass(frozen=True)
class CtScore:
    """One slice of one scan by one method, with `figures.Figures`; photons are infinite for no noise."""

    slice: str
    views: int
    photons: float
    method: str
    psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float
    seconds: float


@dataclass(frozen=True)
class CtMean:
    """Mean over the slices of what `CtScore` has, and the lowest PSNR."""

    views: int
    photons: float
    method: str
    psnr: float
    lowest_psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float
    seconds: float


def protocol(config: CtEvalConfig, slices: list[EvalSlice], weights: str | None = None) -> dict[str, str]:
    """All it takes to repeat the evaluation, as label and text; `weights` are those of "deepgsr"."""
    paths = list(dict.fromkeys(slice.path for slice in slices))
    names = config.methods
    facts = {
        "data": f"{config.data.name}: {len(slices)} slices, fingerprint {fingerprint(paths)}",
        "geometry": "fan beam over a full turn; for 512 x 512 pixels on 400 mm the source 600 and a flat"
        " detector 290 mm from the isocentre, 800 bins of 1.2 mm; in proportion for others",
        "simulation": "monochromatic, pixels parted 2 x 2 and bins in 2 (no inverse crime)",
        "noise": f"Poisson, at least 1 count, numpy default_rng(({config.seed}, crc32 of the slice's HU)); no"
        " scatter",
        "attenuation": "0.0192 (1 + HU / 1000) per mm, HU of -1000 or more",
        "PSNR, SSIM": f"attenuation clipped to [0, {PEAK_ATTENUATION:g}] per mm, over {PEAK_ATTENUATION:g};"
        " whole slice; mean of slices",
        "RMSE, bias": "in HU, in the body: within the skin, lungs included, and in the largest circle",
        "methods": "; ".join(config.method(name, math.inf).describe() for name in names),
    }
    if any(slice.series is None for slice in slices):
        facts["pixels of PNG"] = f"{PNG_FIELD_MM:g} mm across the slice"
    if weights is not None:
        facts["weights"] = weights
    return facts


def evaluate(
    config: CtEvalConfig,
    slices: list[EvalSlice],
    *,
    device: torch.device,
    model: torch.nn.Module | None = None,
    keep: Callable[[CtScore, np.ndarray, np.ndarray], None] | None = None,
) -> Iterator[CtScore]:
    """Scores of each slice, number of views, photons and method, in this order.

    Args:
        config: What to evaluate.
        slices: Of `eval_slices`.
        device: Where to compute.
        model: For the method "deepgsr".
        keep: Called with the score and the reconstruction's and the reference's HU, (H, W), for a report.

    Raises:
        InputError: A slice cannot be read.
    """
    for slice in slices:
        hu, pixel_mm = slice.read()
        reference = to_attenuation(hu, device)
        seed = config.seed, zlib.crc32(hu.tobytes())
        for views in config.views:
            A = Radon(sparse_view((hu.shape[0], hu.shape[1]), pixel_mm, views))
            A.fbp(A(reference))  # what it prepares is no part of the time
            for photons in config.photons:
                y = SimulatedScan(A.geometry, config.method("fbp", photons).photons)(reference, seed)
                for name in config.methods:
                    started = time.perf_counter()
                    x = reconstruct(A, y, config.method(name, photons), model=model)
                    wait(device)
                    seconds = time.perf_counter() - started
                    figures = compare(x, reference, pixel_mm)
                    score = CtScore(slice.name, views, photons, name, **asdict(figures), seconds=seconds)
                    if keep is not None:
                        keep(score, to_hu(x), to_hu(reference))
                    yield score


def means(scores: list[CtScore]) -> list[CtMean]:
    """Means over the slices, one for each scan and method, in the order of the scores."""
    groups: dict[tuple[int, float, str], list[CtScore]] = {}
    for score in scores:
        groups.setdefault((score.views, score.photons, score.method), []).append(score)

    def mean(values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return [
        CtMean(
            views,
            photons,
            method,
            mean([s.psnr for s in group]),
            min(s.psnr for s in group),
            mean([s.ssim for s in group]),
            mean([s.rmse_hu for s in group]),
            mean([s.bias_hu for s in group]),
            mean([s.seconds for s in group]),
        )
        for (views, photons, method), group in groups.items()
    ]
