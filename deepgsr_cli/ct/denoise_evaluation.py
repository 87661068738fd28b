"""Evaluation of denoising of low-dose CT, all methods on the same simulated slices."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.ct.denoising import (
    HIGHEST_HU,
    LOWEST_HU,
    check_level,
    denoised,
    level_of,
    load_network,
)
from deepgsr_cli.ct.dose import SCANNER_BIN_MM, SCANNER_VIEWS, added_variance, gaussian_noise, scanner_turn
from deepgsr_cli.ct.evaluation import SliceEvaluation
from deepgsr_cli.ct.figures import PEAK_ATTENUATION, body, compare
from deepgsr_cli.ct.slices import PNG_FIELD_MM
from deepgsr_cli.errors import OptionError
from deepgsr_cli.evaluation.records import Case, Column, Labels, Mean
from deepgsr_cli.pictures.baselines import baseline
from deepgsr_cli.pictures.restorer import RunOptions
from deepgsr_cli.reports.report import ReportItem
from deepgsr_cli.tomography.attenuation import attenuation_to_hu, hu_to_attenuation, to_attenuation
from deepgsr_cli.tomography.fbp import FILTERS
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from deepgsr_cli.models import Prior
    from deepgsr_cli.weights.load import Loaded

# Photons a ray of full dose: at a quarter, smooth kernels leave 20 to 30 HU in a chest.
FULL_DOSE_PHOTONS = 2e5
# A smooth kernel, one between, and a sharp one.
KERNELS = ("hann", "cosine", "ram-lak")


@dataclass(frozen=True)
class LowDoseSlice:
    """A slice of less dose.

    Attributes:
        hu: The slice in whole HU, (H, W), float32.
        level_hu: Standard deviation of the noise that was added, in the body.
        pixel_mm: Distance of rows and of columns.
    """

    hu: np.ndarray
    level_hu: float
    pixel_mm: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LowDoseCT(SliceEvaluation[LowDoseSlice]):
    """Slices as a scanner at a share of their dose would have made them, by simulation.

    Attributes:
        doses: Shares of the full dose, above 0 and below 1.
        filters: Windows on the ramp, from the sharpest, "ram-lak", to the smoothest, "hann".
        level_hu: Level that the network is told in HU; None to have it estimated in each slice.
    """

    doses: tuple[float, ...] = (0.25,)
    filters: tuple[str, ...] = KERNELS
    level_hu: float | None = None

    title = "Evaluation of low-dose CT"
    known_methods = ("deepgsr", "bm3d", "nlm", "tv")
    written = ("psnr_in", "psnr", "gain", "ssim", "rmse_in_hu", "rmse_hu", "bias_hu", "noise_hu", "seconds")
    worst = "gain"
    reported: ClassVar = {"psnr": "PSNR {} (dB)", "rmse_hu": "RMSE {} (HU)"}
    columns = (
        Column("dose", "dose", "g"),
        Column("filter", "filter"),
        Column("noise_hu", "noise (HU)", ".1f"),
        Column("method", "method"),
        Column("psnr_in", "input (dB)", ".2f"),
        Column("psnr", "PSNR (dB)", ".2f"),
        Column("gain", "gain (dB)", "+.2f"),
        Column("lowest_gain", "lowest", "+.2f"),
        Column("ssim", "SSIM", ".4f"),
        Column("rmse_in_hu", "RMSE in (HU)", ".1f"),
        Column("rmse_hu", "RMSE (HU)", ".1f"),
        Column("bias_hu", "bias (HU)", "+.1f"),
        Column("seconds", "s", ".2f"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_level(self.level_hu)
        for dose in self.doses:
            if not 0 < dose < 1:
                raise OptionError("dose", dose, "give a share of the full dose, above 0 and below 1")
        for name in self.filters:
            if name not in FILTERS:
                raise OptionError("filter", name, f"known are {', '.join(FILTERS)}")

    @cached_property
    def network(self) -> Loaded[Prior] | None:
        """The network, if "deepgsr" is among the methods."""
        if "deepgsr" not in self.method_names:
            return None
        return load_network(self.weights, self.device, offline=self.offline)

    @cached_property
    def methods(self) -> dict[str, Callable[[LowDoseSlice], Tensor]]:
        return {
            name: self._by_network if name == "deepgsr" else partial(_by_baseline, baseline(name))
            for name in self.method_names
        }

    def _by_network(self, slice: LowDoseSlice) -> Tensor:
        assert self.network is not None
        options = RunOptions(self.device, self.precision)
        level = level_of(slice.hu, self.level_hu).hu
        return _attenuation(denoised(self.network.model, slice.hu, level, options))

    def __len__(self) -> int:
        return len(self.slices) * len(self.doses) * len(self.filters)

    def cases(self) -> Iterator[Case[LowDoseSlice, Tensor]]:
        device = select_device(self.device)
        for slice, hu, pixel_mm in self.read_slices():
            A = Radon(scanner_turn((hu.shape[0], hu.shape[1]), pixel_mm))
            y = A(to_attenuation(hu, device))
            stream = np.random.SeedSequence([self.seed, zlib.crc32(hu.tobytes())]).generate_state(
                1, np.uint64
            )
            for dose in self.doses:
                generator = torch.Generator().manual_seed(int(stream[0] >> np.uint64(1)))
                noise = gaussian_noise(added_variance(y.cpu(), FULL_DOSE_PHOTONS, dose), generator).to(device)
                for name in self.filters:
                    full, added = A.fbp(torch.cat((y, noise)), name).cpu().split(1)
                    truth = hu_to_attenuation(attenuation_to_hu(full).clamp(LOWEST_HU, HIGHEST_HU))
                    low = attenuation_to_hu(full + added)[0, 0].numpy()
                    in_body = body(truth, pixel_mm)
                    level = (
                        float(attenuation_to_hu(added)[0, 0].numpy()[in_body].std()) if in_body.any() else 0.0
                    )
                    measured = LowDoseSlice(np.rint(low.clip(LOWEST_HU, HIGHEST_HU)), level, pixel_mm)
                    labels: Labels = {"slice": slice.name, "dose": dose, "filter": name}
                    yield Case(labels, measured, truth)

    def figures(self, case: Case[LowDoseSlice, Tensor], result: Tensor) -> dict[str, float]:
        slice = case.measurement
        given = compare(_attenuation(slice.hu), case.truth, slice.pixel_mm)
        found = compare(result, case.truth, slice.pixel_mm)
        return {
            **asdict(found),
            "psnr_in": given.psnr,
            "gain": found.psnr - given.psnr,
            "rmse_in_hu": given.rmse_hu,
            "noise_hu": slice.level_hu,
        }

    def protocol(self) -> dict[str, str]:
        facts = {
            "data": self.describe_slices(),
            "scan": f"full turn of {SCANNER_VIEWS} views, bins of {SCANNER_BIN_MM:g} mm at the isocentre on"
            f" an arc; {FULL_DOSE_PHOTONS:g} photons a ray at full dose, electronics of 10 photons squared",
            "reference": "the slice, projected and reconstructed by the same filter without noise added",
            "noise": "what less dose adds (Zeng et al. 2015), Gaussian, reconstructed; whole HU from -1024 to"
            f" 3071; seed {self.seed} and crc32 of the slice's HU",
            "level": "deepgsr estimates it"
            if self.level_hu is None
            else f"deepgsr is told {self.level_hu:g} HU",
            "PSNR, SSIM": f"attenuation clipped to [0, {PEAK_ATTENUATION:g}] per mm, over"
            f" {PEAK_ATTENUATION:g}; whole slice; mean of slices",
            "RMSE, bias, noise": "in HU, in the body: within the skin, lungs included, and in the largest"
            " circle",
        }
        if set(self.method_names) - {"deepgsr"}:
            facts["level"] += "; the other methods are told the noise in the body"
        if any(slice.series is None for slice in self.slices):
            facts["pixels of PNG"] = f"{PNG_FIELD_MM:g} mm across the slice"
        if self.network is not None:
            facts["weights"] = self.network.weights.label
        return facts

    def item(self, labels: Labels) -> ReportItem:
        return ReportItem(f"{labels['slice']}, dose {labels['dose']:g}, {labels['filter']}")

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {
            f"mean PSNR {m.method}, dose {m.labels['dose']:g}, {m.labels['filter']} (dB)": m.figures["psnr"]
            for m in means
        }


def _attenuation(hu: np.ndarray) -> Tensor:
    """Attenuation in 1/mm, (1, 1, H, W), of HU, (H, W)."""
    return hu_to_attenuation(torch.from_numpy(hu))[None, None]


def _by_baseline(method: Callable[[np.ndarray, float], np.ndarray], slice: LowDoseSlice) -> Tensor:
    """Slice by a method for white noise in pictures, which is told the noise in the body."""
    span = HIGHEST_HU - LOWEST_HU
    x = method(((slice.hu - LOWEST_HU) / span)[None], 255 * slice.level_hu / span)
    return _attenuation(np.asarray(x[0] * span + LOWEST_HU, np.float32))
