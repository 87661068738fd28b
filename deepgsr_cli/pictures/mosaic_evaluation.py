"""Evaluation of demosaicking: mosaics of clean pictures, and their colours by each method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.evaluation.records import Case, Column, Labels, Mean
from deepgsr_cli.files import named
from deepgsr_cli.formats.image import picture_paths, read_channels
from deepgsr_cli.models.mosaics import mosaic_of
from deepgsr_cli.pictures.demosaicking import INTERPOLATIONS, METHODS, Demosaicker
from deepgsr_cli.pictures.evaluation import Degraded, PictureEvaluation
from deepgsr_cli.pictures.noise import protocol_noise
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.reports.report import ReportItem

# Pixels at each side that one of the two figures leaves out, as many papers do.
BORDER = 10


@dataclass(frozen=True, kw_only=True)
class MosaicEvaluation(PictureEvaluation):
    """Mosaics of clean pictures, R G and G B first, with noise or without, demosaicked.

    Attributes:
        method_names: With "denoise", the mosaic is demosaicked as if it had no noise, and the noise is then
            removed by the network of denoise, which is told its level.
        sigmas: Noise levels, on the 0-255 scale.
    """

    method_names: tuple[str, ...] = METHODS
    sigmas: tuple[float, ...] = (0.0,)

    title, task, given = "Evaluation of demosaicking", "demosaick", ""
    known_methods: ClassVar[tuple[str, ...]] = (*METHODS, "denoise")
    written = ("psnr", "psnr_inner", "ssim", "seconds")
    columns = (
        Column("sigma", "sigma", "g"),
        Column("method", "method"),
        Column("psnr", "CPSNR (dB)", ".2f"),
        Column("psnr_inner", f"without {BORDER} px of border", ".2f"),
        *PictureEvaluation.columns[2:],
    )
    reported: ClassVar = {"psnr": "CPSNR {} (dB)", "ssim": "SSIM {}"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for sigma in self.sigmas:
            if not 0 <= sigma <= 255:
                raise UsageError(f"--sigma {sigma:g}: give 0 to 255")

    @cached_property
    def paths(self) -> list[Path]:
        """The clean pictures."""
        return picture_paths(self.data)[: self.limit]

    def __len__(self) -> int:
        return len(self.paths) * len(self.sigmas)

    @cached_property
    def options(self) -> RunOptions:
        """How models run."""
        return RunOptions(
            self.device, self.precision, self.tile, self.overlap, self.batch, self.offline, self.ensemble
        )

    @cached_property
    def demosaickers(self) -> dict[str, Demosaicker]:
        """The methods of demosaicking; that which denoises needs ours, too."""
        names = ["deepgsr" if name == "denoise" else name for name in self.method_names]
        return {name: Demosaicker(self.weights, self.options, self.notify, name) for name in names}

    @cached_property
    def restorers(self) -> dict[str, Restorer]:
        denoiser = {"denoise": Restorer(None, self.options, self.notify, "denoise")}
        ours = {name: x.restorer for name, x in self.demosaickers.items() if name not in INTERPOLATIONS}
        return ours | (denoiser if "denoise" in self.method_names else {})

    @cached_property
    def methods(self) -> dict[str, Callable[[Degraded], np.ndarray]]:
        return {name: self._method(name) for name in self.method_names}

    def _method(self, name: str) -> Callable[[Degraded], np.ndarray]:
        return self._denoised if name == "denoise" else partial(self._demosaicked, name)

    def _demosaicked(self, name: str, degraded: Degraded) -> np.ndarray:
        sigma = 0.0 if name in INTERPOLATIONS else degraded.sigma
        return self.demosaickers[name](degraded.pixels[0], sigma=sigma)

    def _denoised(self, degraded: Degraded) -> np.ndarray:
        pixels = np.ascontiguousarray(self.demosaickers["deepgsr"](degraded.pixels[0]))
        return self.restorers["denoise"].restore_pixels(pixels, degraded.sigma)

    def cases(self) -> Iterator[Case[Degraded, np.ndarray]]:
        for path, clean in self.usable(self.paths, lambda path: read_channels(path, 3)):
            height, width = (side // 2 * 2 for side in clean.shape[1:])
            clean = np.ascontiguousarray(clean[:, :height, :width])
            mosaic = mosaic_of(torch.from_numpy(clean)[None])[0].numpy()
            for sigma in self.sigmas:
                noisy = mosaic + protocol_noise(mosaic.shape, sigma, self.seed) if sigma else mosaic
                labels: Labels = {"picture": str(path.relative_to(self.data)), "sigma": sigma}
                yield Case(labels, Degraded(noisy, sigma), clean)

    def figures(self, case: Case[Degraded, np.ndarray], result: np.ndarray) -> dict[str, float]:
        inner = np.s_[:, BORDER:-BORDER, BORDER:-BORDER] if min(result.shape[1:]) > 2 * BORDER else np.s_[:]
        return {
            **super().figures(case, result),
            "psnr_inner": psnr(rounded8(result[inner]), case.truth[inner]),
        }

    def protocol(self) -> dict[str, str]:
        return {
            "data": f"{self.data.name}: {named(self.paths, 'picture')}",
            "mosaic": "RGGB of the pictures as stored, cut to even sides",
            "noise": f"Gaussian, numpy RandomState({self.seed}) for each mosaic, not clipped or rounded",
            "figures": "mean of each picture's PSNR of all channels together and SSIM (Wang 2004,"
            " mean of channels)",
            "output": "clipped to [0, 1], rounded to 8 bits",
            **self._labels_of_weights(3),
        }

    def item(self, labels: Labels) -> ReportItem:
        sigma = float(labels["sigma"])
        return ReportItem(f"{labels['picture']}, sigma {sigma:g}", metrics={"sigma": sigma})

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {
            f"mean CPSNR {m.method} at sigma {m.labels['sigma']:g} (dB)": m.figures["psnr"] for m in means
        }
