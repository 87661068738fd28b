"""Evaluation of denoising with a stated protocol, the classical methods beside ours in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepgsr_cli.data import fingerprint, picture_paths, read_channels
from deepgsr_cli.degrade import protocol_noise
from deepgsr_cli.errors import UsageError
from deepgsr_cli.images import read_image
from deepgsr_cli.metrics import psnr, rounded8, ssim
from deepgsr_cli.restore import Denoiser

# Method of a noisy picture, (C, H, W), and sigma on the 0-255 scale.
Method = Callable[[np.ndarray, float], np.ndarray]

METHODS = ("deepgsr", "bm3d", "nlm", "tv")


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation is.

    Attributes:
        data: Folder of clean pictures.
        sigmas: Noise levels, on the 0-255 scale.
        methods: Of `METHODS`.
        gray: Convert colour to luma.
        seed: Of the noise, the same for each picture.
        limit: Only the first so many pictures, None for all.
    """

    data: Path
    sigmas: tuple[float, ...]
    methods: tuple[str, ...] = ("deepgsr",)
    gray: bool = False
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise UsageError(f"--method {method}: known are {', '.join(METHODS)}")
        for sigma in self.sigmas:
            if not 0 < sigma <= 255:
                raise UsageError(f"--sigma {sigma:g}: give more than 0 and at most 255")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")


@dataclass(frozen=True)
class Score:
    """One picture at one noise level by one method; "noisy" is the input itself. PSNR in dB."""

    picture: str
    sigma: float
    method: str
    psnr: float
    ssim: float
    seconds: float


@dataclass(frozen=True)
class Mean:
    """Mean over the pictures of what `Score` has, and the pixels restored a second."""

    sigma: float
    method: str
    psnr: float
    ssim: float
    pixels_per_second: float


def protocol(config: EvalConfig, denoiser: Denoiser) -> dict[str, str]:
    """All it takes to repeat the evaluation, as label and text."""
    paths = _paths(config)
    channels = 1 if config.gray else len(read_image(paths[0]).pixels)
    facts = {
        "data": f"{config.data.name}: {len(paths)} pictures, fingerprint {fingerprint(paths)}",
        "colour": "gray (colour to BT.601 luma, rounded to 8 bits)"
        if config.gray
        else "as stored (gray or RGB)",
        "noise": f"Gaussian, numpy RandomState({config.seed}) for each picture, not clipped or rounded",
        "output": "clipped to [0, 1], rounded to 8 bits, no border left out",
        "figures": "mean of each picture's PSNR (all channels) and SSIM (Wang 2004, mean of channels)",
    }
    if "deepgsr" in config.methods:
        resolved, _ = denoiser.load(channels)
        name = resolved.entry.name if resolved.entry else resolved.path.name
        facts["weights"] = f"{name}, sha256 {resolved.sha256[:12]}"
    return facts


def evaluate(
    config: EvalConfig,
    denoiser: Denoiser,
    *,
    keep: Callable[[str, float, str, np.ndarray], None] | None = None,
) -> Iterator[Score]:
    """Scores of each picture, level and method, in this order; the noisy input comes first.

    Args:
        config: What to evaluate.
        denoiser: Runs "deepgsr".
        keep: Called with picture, sigma, method ("clean" too) and pixels, (C, H, W), for a report.

    Raises:
        InputError: No pictures, or one that cannot be read.
        UsageError: A method's package is not installed.
    """
    methods: dict[str, Method] = {name: _method(name, denoiser) for name in config.methods}
    for path in _paths(config):
        clean = read_image(path).pixels if not config.gray else read_channels(path, 1)
        name = str(path.relative_to(config.data))
        for sigma in config.sigmas:
            if keep is not None:
                keep(name, sigma, "clean", clean)
            noisy = clean + protocol_noise(clean.shape, sigma, config.seed)
            for method, restore in {"noisy": _nothing, **methods}.items():
                started = time.perf_counter()
                restored = restore(noisy, sigma)
                seconds = time.perf_counter() - started
                restored = rounded8(restored)
                if keep is not None:
                    keep(name, sigma, method, restored)
                yield Score(name, sigma, method, psnr(restored, clean), ssim(restored, clean), seconds)


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
        )
        for (sigma, method), group in groups.items()
    ]


def _paths(config: EvalConfig) -> list[Path]:
    return picture_paths(config.data)[: config.limit]


def _nothing(noisy: np.ndarray, sigma: float) -> np.ndarray:
    return noisy


def _method(name: str, denoiser: Denoiser) -> Method:
    if name == "deepgsr":
        return lambda noisy, sigma: denoiser(noisy, sigma)
    try:
        if name == "bm3d":
            import bm3d

            def by_bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
                noisy = noisy.astype(np.float64)
                if len(noisy) == 1:
                    return bm3d.bm3d(noisy[0], sigma / 255)[None]
                return bm3d.bm3d_rgb(noisy.transpose(1, 2, 0), sigma / 255).transpose(2, 0, 1)

            return by_bm3d
        from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
    except ImportError as error:
        raise UsageError(
            f"--method {name}: needs a package that is not installed ({error.name}); "
            "pip install 'deepgsr[bench]'"
        ) from error

    if name == "nlm":

        def by_nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
            s = sigma / 255
            options = {"patch_size": 5, "patch_distance": 10, "h": NLM_STRENGTH * s, "sigma": s}
            # It drops a channel axis of length 1.
            if len(noisy) == 1:
                return denoise_nl_means(noisy[0], **options)[None]
            return denoise_nl_means(noisy, channel_axis=0, **options)

        return by_nlm

    def by_tv(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_tv_chambolle(noisy, weight=TV_WEIGHT * sigma / 255, eps=1e-4, channel_axis=0)

    return by_tv


# In units of sigma; the best of a grid on held-out training pictures (benchmarks/tune_classical.py).
NLM_STRENGTH = 0.6
TV_WEIGHT = 0.85
