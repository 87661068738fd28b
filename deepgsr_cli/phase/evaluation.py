"""Evaluation of phase retrieval with a stated protocol, all methods in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import fingerprint
from deepgsr_cli.formats.image import picture_paths, read_channels
from deepgsr_cli.formats.resize import resized_in_8_bits
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks, oversampled_fourier
from deepgsr_cli.phase.methods import METHODS, PRIORS, Settings, align, retrieve
from deepgsr_cli.phase.network import UnrolledPhase
from deepgsr_cli.phase.noise import Noise, alpha_noise, check_alpha, check_snr, snr_noise, snr_sigma
from deepgsr_cli.phase.priors import weighted_denoiser
from deepgsr_cli.phase.projections import PEAK
from deepgsr_cli.pictures.restorer import Restorer

MODELS = {
    "fourier": "oversampled 2 x 2, known support, scale 1/2",
    "cdp": "4 masks of uniform phase",
    "cdp1": "1 quaternary mask",
}
# "red" with another prior than ours is named by it.
EVAL_METHODS = (*METHODS, *(f"red-{prior}" for prior in PRIORS[1:]))


@dataclass(frozen=True)
class PhaseEvalConfig:
    """What an evaluation is.

    Attributes:
        data: Folder of true pictures.
        model: Of `MODELS`.
        alphas: Noise levels of `phase.noise.alpha_noise`.
        snrs_db: Noise levels of `phase.noise.snr_noise`, in dB.
        methods: Of `EVAL_METHODS`.
        size: Side in pixels the pictures are resized to.
        seed: Of masks, noise and starts, the same for each picture.
        limit: Only the first so many pictures, None for all.
        settings: How long the projections run.
    """

    data: Path
    model: str = "cdp"
    alphas: tuple[float, ...] = ()
    snrs_db: tuple[float, ...] = ()
    methods: tuple[str, ...] = ("red",)
    size: int = 128
    seed: int = 0
    limit: int | None = None
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(f"--model {self.model}: known are {', '.join(MODELS)}")
        if not self.alphas and not self.snrs_db:
            raise UsageError("no noise level; give --alpha or --snr, also several times")
        for method in self.methods:
            if method not in EVAL_METHODS:
                raise UsageError(f"--method {method}: known are {', '.join(EVAL_METHODS)}")
        for alpha in self.alphas:
            check_alpha(alpha)
        for snr_db in self.snrs_db:
            check_snr(snr_db)
        if not 16 <= self.size <= 4096:
            raise UsageError(f"--size {self.size}: give 16 to 4096")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")


@dataclass(frozen=True)
class PhaseScore:
    """One picture at one noise level by one method: PSNR in dB and SSIM of the aligned picture, the residual
    ‖|A x| − y‖ / ‖y‖, and the time."""

    picture: str
    level: str
    method: str
    psnr: float
    ssim: float
    residual: float
    seconds: float


@dataclass(frozen=True)
class PhaseMean:
    """Mean over the pictures of what `PhaseScore` has."""

    level: str
    method: str
    psnr: float
    ssim: float
    residual: float
    seconds: float


def protocol(config: PhaseEvalConfig, restorer: Restorer, unrolled: str = "") -> dict[str, str]:
    """All it takes to repeat the evaluation, as label and text.

    Args:
        config: The evaluation.
        restorer: The denoiser of "red".
        unrolled: Name of the weights of "unrolled".
    """
    paths = _paths(config)
    facts = {
        "data": f"{config.data.name}: {len(paths)} pictures, fingerprint {fingerprint(paths)}",
        "pictures": f"gray, Pillow bicubic (antialiased) to {config.size} x {config.size}, rounded to 8 bits",
        "model": f"{config.model}: {MODELS[config.model]}",
        "noise": "of intensities: alpha |z| w with |z| of pictures in 0-255, or white at an SNR in dB; "
        "negative ones 0",
        "seed": f"{config.seed} for masks, noise and starts of each picture",
        "known": "the operator and the noise level",
        "ambiguities": "shift, half-turn and sign resolved against the truth"
        if config.model == "fourier"
        else "none but the sign",
        "figures": "mean of each picture's PSNR and SSIM, clipped to [0, 255], rounded to 8 bits",
    }
    if "red" in config.methods:
        facts["weights of red"] = restorer.load(1).weights.label
    if "unrolled" in config.methods:
        facts["weights of unrolled"] = unrolled
    return facts


def evaluate(
    config: PhaseEvalConfig,
    restorer: Restorer,
    *,
    network: UnrolledPhase | None = None,
    keep: Callable[[str, str, str, np.ndarray], None] | None = None,
) -> Iterator[PhaseScore]:
    """Scores of each picture, level and method, in this order.

    Args:
        config: What to evaluate.
        restorer: The denoiser of "red".
        network: Of "unrolled".
        keep: Called with picture, level, method ("truth" too) and pixels, (1, H, W), for a report.

    Raises:
        InputError: No pictures, or one that cannot be read.
        UsageError: A method's package is not installed.
    """
    settings = {name: _settings(name, config.settings) for name in config.methods}
    denoisers = {
        name: weighted_denoiser(s.prior, restorer)[1] for name, s in settings.items() if s.method == "red"
    }
    for path in _paths(config):
        name = str(path.relative_to(config.data))
        truth = torch.from_numpy(read_gray(path, config.size))[None] * PEAK
        pixels = truth[0].numpy() / PEAK
        for level, A, intensity, noise in _measurements(config, truth):
            if keep is not None:
                keep(name, level, "truth", pixels)
            for method in config.methods:
                generator = torch.Generator().manual_seed(config.seed)
                started = time.perf_counter()
                with torch.inference_mode():
                    result = retrieve(
                        A,
                        intensity,
                        settings[method],
                        generator,
                        noise=noise,
                        denoiser=denoisers.get(method),
                        network=network,
                    )
                seconds = time.perf_counter() - started
                aligned = align(result.picture, truth, shifts=config.model == "fourier")
                restored = rounded8(aligned[0].numpy() / PEAK)
                if keep is not None:
                    keep(name, level, method, restored)
                figures = psnr(restored, pixels), ssim(restored, pixels)
                yield PhaseScore(name, level, method, *figures, result.residual, seconds)


def means(scores: list[PhaseScore]) -> list[PhaseMean]:
    """Means over the pictures, one for each level and method, in the order of the scores."""
    groups: dict[tuple[str, str], list[PhaseScore]] = {}
    for score in scores:
        groups.setdefault((score.level, score.method), []).append(score)
    names = ("psnr", "ssim", "residual", "seconds")
    return [
        PhaseMean(*key, *(float(np.mean([getattr(score, name) for score in group])) for name in names))
        for key, group in groups.items()
    ]


def read_gray(path: Path, size: int | None = None) -> np.ndarray:
    """Picture as luma, (1, H, W), float32 in [0, 1]; if a size is given, bicubic to a square of that side."""
    pixels = read_channels(path, 1)
    if size is None or pixels.shape[1:] == (size, size):
        return pixels
    return resized_in_8_bits(pixels, (size, size))


def _measurements(config: PhaseEvalConfig, truth: Tensor) -> Iterator[tuple[str, Diffraction, Tensor, Noise]]:
    """Level, operator, intensities, (J, M, N), and noise."""
    shape = (config.size, config.size)
    for alpha in config.alphas:
        generator = torch.Generator().manual_seed(config.seed)
        A = _operator(config.model, shape, generator)
        yield f"alpha {alpha:g}", A, alpha_noise(A(truth), alpha, generator)[0], Noise(alpha=alpha)
    for snr_db in config.snrs_db:
        generator = torch.Generator().manual_seed(config.seed)
        A = _operator(config.model, shape, generator)
        z = A(truth)
        sigma = float(snr_sigma(z.abs().square(), snr_db))
        yield f"SNR {snr_db:g} dB", A, snr_noise(z, snr_db, generator)[0], Noise(sigma=sigma)


def _operator(model: str, shape: tuple[int, int], generator: torch.Generator) -> Diffraction:
    if model == "fourier":
        return oversampled_fourier(shape)
    kind, count = ("uniform", 4) if model == "cdp" else ("quaternary", 1)
    return Diffraction(coded_masks(kind, count, shape, generator))


def _paths(config: PhaseEvalConfig) -> list[Path]:
    return picture_paths(config.data)[: config.limit]


def _settings(name: str, settings: Settings) -> Settings:
    """Settings of a name of `EVAL_METHODS`."""
    method, _, prior = name.partition("-")
    return replace(settings, method=method, prior=prior or PRIORS[0])
