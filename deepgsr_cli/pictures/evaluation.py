"""Evaluation with a stated protocol, the classical methods beside ours in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import luma_y, psnr, rounded8, ssim
from deepgsr_cli.files import fingerprint
from deepgsr_cli.formats.image import picture_paths, read_channels, read_image
from deepgsr_cli.pictures.baselines import Method, baseline, do_nothing
from deepgsr_cli.pictures.dataset import pair_paths
from deepgsr_cli.pictures.noise import protocol_noise
from deepgsr_cli.pictures.restorer import Restorer

METHODS = {"denoise": ("deepgsr", "restore", "bm3d", "nlm", "tv"), "derain": ("deepgsr", "restore")}


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation is.

    Attributes:
        data: Folder of clean pictures; for "derain" of pairs, with the sub-folders "rain" and "clean".
        sigmas: Noise levels, on the 0-255 scale; empty for "derain".
        methods: Of `METHODS`; "restore" is the network that is told nothing about the degradation.
        gray: Convert colour to luma, for "denoise".
        clipped: Clip the noisy pictures and round them to 8 bits, as files hold them, and tell the network.
        seed: Of the noise, the same for each picture.
        limit: Only the first so many pictures, None for all.
        task: "denoise" or "derain".
    """

    data: Path
    sigmas: tuple[float, ...] = ()
    methods: tuple[str, ...] = ("deepgsr",)
    gray: bool = False
    clipped: bool = False
    seed: int = 0
    limit: int | None = None
    task: str = "denoise"

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS[self.task]:
                raise UsageError(f"--method {method}: known are {', '.join(METHODS[self.task])}")
        for sigma in self.sigmas:
            if not 0 < sigma <= 255:
                raise UsageError(f"--sigma {sigma:g}: give more than 0 and at most 255")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")


@dataclass(frozen=True)
class Score:
    """One picture at one noise level (0 for rain) by one method; "noisy" or "rainy" is the input itself.

    PSNR in dB; of all channels, and for rain of the Y channel as well.
    """

    picture: str
    sigma: float
    method: str
    psnr: float
    ssim: float
    seconds: float
    psnr_y: float | None = None
    ssim_y: float | None = None


@dataclass(frozen=True)
class Mean:
    """Mean over the pictures of what `Score` has, and the pixels restored a second."""

    sigma: float
    method: str
    psnr: float
    ssim: float
    pixels_per_second: float
    psnr_y: float | None = None
    ssim_y: float | None = None


def protocol(config: EvalConfig, restorers: Mapping[str, Restorer]) -> dict[str, str]:
    """All it takes to repeat the evaluation, as label and text."""
    if config.task == "derain":
        pairs = _pairs(config)
        channels = 3
        data = f"{len(pairs)} pairs, fingerprint {fingerprint([path for pair in pairs for path in pair])}"
        facts = {
            "rain": "as stored",
            "figures": "mean of each picture's PSNR and SSIM (Wang 2004), of RGB (mean of channels for SSIM) "
            "and of Y (MATLAB rgb2ycbcr, in float)",
        }
    else:
        paths = _paths(config)
        channels = 1 if config.gray else len(read_image(paths[0]).pixels)
        data = f"{len(paths)} pictures, fingerprint {fingerprint(paths)}"
        facts = {
            "colour": "gray (colour to BT.601 luma, rounded to 8 bits)"
            if config.gray
            else "as stored (gray or RGB)",
            "noise": f"Gaussian, numpy RandomState({config.seed}) for each picture, "
            + ("clipped, rounded to 8 bits" if config.clipped else "not clipped or rounded"),
            "figures": "mean of each picture's PSNR (all channels) and SSIM (Wang 2004, mean of channels)",
        }
    facts = {"data": f"{config.data.name}: {data}", **facts}
    facts["output"] = "clipped to [0, 1], rounded to 8 bits, no border left out"
    for method in config.methods:
        if method in restorers:
            label = restorers[method].load(channels).weights.label
            if restorers[method].options.ensemble:
                label += "; mean of eight orientations"
            facts["weights" if method == "deepgsr" else f"weights of {method}"] = label
    return facts


def evaluate(
    config: EvalConfig,
    restorers: Mapping[str, Restorer],
    *,
    keep: Callable[[str, float, str, np.ndarray], None] | None = None,
) -> Iterator[Score]:
    """Scores of each picture, level and method, in this order; the degraded input comes first.

    Args:
        config: What to evaluate.
        restorers: Run "deepgsr" and "restore", as far as they are among the methods.
        keep: Called with picture, sigma, method ("clean" too) and pixels, (C, H, W), for a report.

    Raises:
        InputError: No pictures, or one that cannot be read.
        UsageError: A method's package is not installed.
    """
    methods: dict[str, Method] = {
        name: baseline(name, restorers, clipped=config.clipped) for name in config.methods
    }
    given = "rainy" if config.task == "derain" else "noisy"
    for name, sigma, degraded, clean in _cases(config):
        if keep is not None:
            keep(name, sigma, "clean", clean)
        for method, restore in {given: do_nothing, **methods}.items():
            started = time.perf_counter()
            restored = restore(degraded, sigma)
            seconds = time.perf_counter() - started
            restored = rounded8(restored)
            if keep is not None:
                keep(name, sigma, method, restored)
            values: dict[str, float] = {"psnr": psnr(restored, clean), "ssim": ssim(restored, clean)}
            if config.task == "derain":
                y, y_clean = luma_y(restored), luma_y(clean)
                values |= {"psnr_y": psnr(y, y_clean), "ssim_y": ssim(y, y_clean)}
            yield Score(name, sigma, method, seconds=seconds, **values)


def _cases(config: EvalConfig) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
    """Name, noise level, degraded and clean picture, (C, H, W)."""
    if config.task == "derain":
        for rain, clean_path in _pairs(config):
            name = str(rain.relative_to(config.data / "rain"))
            yield name, 0.0, read_channels(rain, 3), read_channels(clean_path, 3)
        return
    for path in _paths(config):
        clean = read_image(path).pixels if not config.gray else read_channels(path, 1)
        for sigma in config.sigmas:
            noisy = clean + protocol_noise(clean.shape, sigma, config.seed)
            if config.clipped:
                noisy = rounded8(noisy)
            yield str(path.relative_to(config.data)), sigma, noisy, clean


def means(scores: list[Score], pixels: dict[str, int]) -> list[Mean]:
    """Means over the pictures, one for each level and method, in the order of the scores.

    Args:
        scores: Of `evaluate`.
        pixels: Number of pixels of each picture.
    """
    groups: dict[tuple[float, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.sigma, score.method), []).append(score)
    return [
        Mean(
            sigma,
            method,
            float(np.mean([s.psnr for s in group])),
            float(np.mean([s.ssim for s in group])),
            sum(pixels[s.picture] for s in group) / max(sum(s.seconds for s in group), 1e-9),
            _mean([s.psnr_y for s in group]),
            _mean([s.ssim_y for s in group]),
        )
        for (sigma, method), group in groups.items()
    ]


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _pairs(config: EvalConfig) -> list[tuple[Path, Path]]:
    return pair_paths(config.data, "rain")[: config.limit]


def _paths(config: EvalConfig) -> list[Path]:
    return picture_paths(config.data)[: config.limit]
