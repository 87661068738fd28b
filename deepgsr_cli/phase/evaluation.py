"""Evaluation of phase retrieval, all methods in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.evaluation.records import Case, Column, Evaluation, Labels, Mean
from deepgsr_cli.files import named
from deepgsr_cli.formats.image import picture_paths, read_channels, to_uint8
from deepgsr_cli.formats.resize import resized_in_8_bits
from deepgsr_cli.phase import MOST_SIDE_PX
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks, oversampled_fourier
from deepgsr_cli.phase.methods import METHODS, PRIORS, Settings, align, retrieve, starts_at_random
from deepgsr_cli.phase.noise import Noise, alpha_noise, check_alpha, check_snr, snr_noise, snr_sigma
from deepgsr_cli.phase.priors import DENOISER, load_unrolled, weighted_denoiser
from deepgsr_cli.phase.projections import PEAK, Retrieval
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.reports.report import ReportImage, ReportItem

if TYPE_CHECKING:
    from deepgsr_cli.phase.network import UnrolledPhase
    from deepgsr_cli.weights.load import Loaded

MODELS = {
    "fourier": "oversampled 2 x 2, known support, scale 1/2",
    "cdp": "4 masks of uniform phase",
    "cdp1": "1 quaternary mask",
}


@dataclass(frozen=True)
class Patterns:
    """Diffraction patterns of a picture: the operator, intensities, (J, M, N), and what noise they have."""

    A: Diffraction
    intensity: Tensor
    noise: Noise


@dataclass(frozen=True, kw_only=True)
class PhaseRetrieval(Evaluation[Patterns, Retrieval, Tensor]):
    """Diffraction patterns of pictures by simulation, and the pictures retrieved, (1, 1, H, W) in [0, 255].

    Masks, noise and starts are the same for each picture. PSNR and SSIM are of the aligned picture, the
    residual is ‖|A x| − y‖ / ‖y‖.

    Attributes:
        model: Of `MODELS`.
        alphas: Noise levels of `phase.noise.alpha_noise`.
        snrs_db: Noise levels of `phase.noise.snr_noise`, in dB.
        size: Side in pixels the pictures are resized to.
        restarts: As `phase.methods.Settings`, for the methods that have such.
        iterations: As `phase.methods.Settings`, likewise.
    """

    model: str = "cdp"
    alphas: tuple[float, ...] = ()
    snrs_db: tuple[float, ...] = ()
    method_names: tuple[str, ...] = ("red",)
    size: int = 128
    restarts: int | None = None
    iterations: int | None = None

    title = "Evaluation of phase retrieval"
    # "red" with another prior than ours is named by it.
    known_methods = (*METHODS, *(f"red-{prior}" for prior in PRIORS[1:]))
    written = ("psnr", "ssim", "residual", "seconds")
    columns = (
        Column("level", "level"),
        Column("method", "method"),
        Column("psnr", "PSNR (dB)", ".2f"),
        Column("ssim", "SSIM", ".4f"),
        Column("residual", "residual", ".4f"),
        Column("seconds", "seconds", ".2f"),
    )

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(f"--model {self.model}: known are {', '.join(MODELS)}")
        if not self.alphas and not self.snrs_db:
            raise UsageError("no noise level; give --alpha or --snr, also several times")
        super().__post_init__()
        for alpha in self.alphas:
            check_alpha(alpha)
        for snr_db in self.snrs_db:
            check_snr(snr_db)
        if not 16 <= self.size <= MOST_SIDE_PX:
            raise UsageError(f"--size {self.size}: give 16 to {MOST_SIDE_PX}")
        starts = Settings("er", restarts=self.restarts, iterations=self.iterations)
        if not any(self._starts_at_random(name) for name in self.method_names):
            starts.refuse_starts(f"{' or '.join(self.method_names)} for {self.model}")

    def _starts_at_random(self, name: str) -> bool:
        return starts_at_random(name.partition("-")[0], mixing=self.model != "fourier")

    def _settings(self, name: str) -> Settings:
        method, _, prior = name.partition("-")
        settings = Settings(method, prior or PRIORS[0])
        if not self._starts_at_random(name):
            return settings
        return replace(settings, restarts=self.restarts, iterations=self.iterations)

    @cached_property
    def paths(self) -> list[Path]:
        """The true pictures."""
        return picture_paths(self.data)[: self.limit]

    @cached_property
    def unrolled(self) -> Loaded[UnrolledPhase] | None:
        """The network of "unrolled", if that is among the methods; then the weights are its own."""
        if "unrolled" not in self.method_names:
            return None
        return load_unrolled(self.weights, self.device, offline=self.offline)

    @cached_property
    def restorer(self) -> Restorer:
        """The denoiser of "red"."""
        weights = self.weights if self.unrolled is None else None
        return Restorer(weights or DENOISER, RunOptions(self.device, offline=self.offline), self.notify)

    @cached_property
    def methods(self) -> dict[str, Callable[[Patterns], Retrieval]]:
        return {name: self._method(name) for name in self.method_names}

    def _method(self, name: str) -> Callable[[Patterns], Retrieval]:
        settings = self._settings(name)
        denoiser = None
        if settings.method == "red":
            denoiser = weighted_denoiser(settings.prior, self.restorer)[1]
        network = self.unrolled.model if self.unrolled else None

        @torch.inference_mode()
        def method(given: Patterns) -> Retrieval:
            starts = torch.Generator().manual_seed(self.seed)
            return retrieve(
                given.A,
                given.intensity,
                settings,
                starts,
                noise=given.noise,
                denoiser=denoiser,
                network=network,
            )

        return method

    def __len__(self) -> int:
        return len(self.paths) * (len(self.alphas) + len(self.snrs_db))

    def cases(self) -> Iterator[Case[Patterns, Tensor]]:
        for path, pixels in self.usable(self.paths, lambda path: read_gray(path, self.size)):
            truth = torch.from_numpy(pixels)[None] * PEAK
            for level, patterns in self._patterns(truth):
                yield Case({"picture": str(path.relative_to(self.data)), "level": level}, patterns, truth)

    def _patterns(self, truth: Tensor) -> Iterator[tuple[str, Patterns]]:
        """Each noise level and the patterns at it."""
        for alpha in self.alphas:
            generator = torch.Generator().manual_seed(self.seed)
            A = self._operator(generator)
            noisy = alpha_noise(A(truth), alpha, generator)[0]
            yield f"alpha {alpha:g}", Patterns(A, noisy, Noise(alpha=alpha))
        for snr_db in self.snrs_db:
            generator = torch.Generator().manual_seed(self.seed)
            A = self._operator(generator)
            z = A(truth)
            sigma = float(snr_sigma(z.abs().square(), snr_db))
            noisy = snr_noise(z, snr_db, generator)[0]
            yield f"SNR {snr_db:g} dB", Patterns(A, noisy, Noise(sigma=sigma))

    def _operator(self, generator: torch.Generator) -> Diffraction:
        shape = (self.size, self.size)
        if self.model == "fourier":
            return oversampled_fourier(shape)
        kind, count = ("uniform", 4) if self.model == "cdp" else ("quaternary", 1)
        return Diffraction(coded_masks(kind, count, shape, generator))

    def restored(self, case: Case[Patterns, Tensor], result: Retrieval) -> np.ndarray:
        """The aligned picture as an 8-bit file would hold it, (1, H, W) in [0, 1]."""
        aligned = align(result.picture, case.truth, shifts=self.model == "fourier")
        return rounded8(aligned[0].numpy() / PEAK)

    def figures(self, case: Case[Patterns, Tensor], result: Retrieval) -> dict[str, float]:
        restored, truth = self.restored(case, result), case.truth[0].numpy() / PEAK
        return {
            "psnr": psnr(restored, truth),
            "ssim": ssim(restored, truth),
            "residual": result.residual,
        }

    def protocol(self) -> dict[str, str]:
        facts = {
            "data": f"{self.data.name}: {named(self.paths, 'picture')}",
            "pictures": f"gray, Pillow bicubic (antialiased) to {self.size} x {self.size}, rounded to 8 bits",
            "model": f"{self.model}: {MODELS[self.model]}",
            "noise": "of intensities: alpha |z| w with |z| of pictures in 0-255, or white at an SNR in dB; "
            "negative ones 0",
            "seed": f"{self.seed} for masks, noise and starts of each picture",
            "known": "the operator and the noise level",
            "ambiguities": "shift, half-turn and sign resolved against the truth"
            if self.model == "fourier"
            else "none but the sign",
            "figures": "mean of each picture's PSNR and SSIM, clipped to [0, 255], rounded to 8 bits",
        }
        if "red" in self.method_names:
            facts["weights of red"] = self.restorer.load(1).weights.label
        if self.unrolled is not None:
            facts["weights of unrolled"] = self.unrolled.weights.label
        return facts

    def item(self, labels: Labels) -> ReportItem:
        return ReportItem(f"{labels['picture']}, {labels['level']}")

    def images(
        self, case: Case[Patterns, Tensor], results: Mapping[str, Retrieval]
    ) -> tuple[list[ReportImage], str]:
        pictures = {name: self.restored(case, result) for name, result in results.items()}
        pictures["truth"] = case.truth[0].numpy() / PEAK
        return [ReportImage(name, to_uint8(pixels)) for name, pixels in pictures.items()], ""

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {f"mean PSNR {m.method} at {m.labels['level']} (dB)": m.figures["psnr"] for m in means}


def read_gray(path: Path, size: int | None = None) -> np.ndarray:
    """Picture as luma, (1, H, W), float32 in [0, 1]; if a size is given, bicubic to a square of that side."""
    pixels = read_channels(path, 1)
    if size is None or pixels.shape[1:] == (size, size):
        return pixels
    return resized_in_8_bits(pixels, (size, size))
