"""CT slices of DICOM files without their noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from deepgsr_cli.ct import NOTICE
from deepgsr_cli.ct.denoising import LOWEST_HU, denoised, level_of
from deepgsr_cli.ct.display import window_text, windowed
from deepgsr_cli.ct.figures import body
from deepgsr_cli.ct.jobs import SliceJob
from deepgsr_cli.ct.plausibility import doubt_slice
from deepgsr_cli.ct.results import ResultWriter, read_result, remark
from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.dicom.slices import read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.reports.report import ReportImage
from deepgsr_cli.tomography.attenuation import to_attenuation

if TYPE_CHECKING:
    from deepgsr_cli.models import Prior
    from deepgsr_cli.pictures.restorer import RunOptions
    from deepgsr_cli.weights.load import Loaded

# Noise of CT is weaker than what its contrasts are shown in.
_REMOVED_HU = 100.0


@dataclass
class SliceDenoising:
    """Noise removed from one slice after another.

    Attributes:
        network: The network with its weights.
        options: How it runs.
        level_hu: Standard deviation of the noise, None to estimate it in each slice.
        strength: Share of the correction that is applied, 0 to 1.
        window_hu: Centre and width of the pictures for the report.
    """

    network: Loaded[Prior]
    options: RunOptions
    level_hu: float | None = None
    strength: float = 1.0
    window_hu: tuple[float, float] = (40.0, 400.0)
    title: ClassVar[str] = "CT slices without noise"
    columns: ClassVar[Sequence[Column]] = (
        Column("sigma_hu", "noise (HU)"),
        Column("change_hu", "RMS change in body (HU)"),
    )
    _write: ResultWriter = field(init=False)

    def __post_init__(self) -> None:
        protocol = self.protocol
        parts = [f"denoise: noise level {protocol['sigma']}"]
        parts += [f"strength {self.strength:g}", protocol["precision"]]
        parts.append(f"weights sha256 {self.network.weights.sha256}")
        self._write = ResultWriter("deepgsr denoise", "; ".join(parts))

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run."""
        return {
            "sigma": "estimated in each slice" if self.level_hu is None else f"{self.level_hu:g} HU",
            "strength": f"{self.strength:g}",
            "precision": self.options.protocol["precision"],
            "weights": self.network.weights.citation,
            "window": window_text(self.window_hu),
            "notice": NOTICE,
        }

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read, denoise and write the slice of a `SliceJob`.

        Args:
            job: Where from and where to.
            for_report: Whether to make pictures.
            progress: Called with finished and total pixels.

        Raises:
            InputError: It cannot be read.
            OutputError: The result cannot be written.
        """
        assert isinstance(job, SliceJob)
        started = time.perf_counter()
        slice = read_slice(job.series, job.index)
        # What was not measured is the lowest value where slices are trained on, and no air.
        given = np.where(slice.padding, np.float32(LOWEST_HU), slice.hu)
        level = level_of(given, self.level_hu)
        hu = denoised(
            self.network.model,
            given,
            level.hu,
            self.options,
            strength=self.strength,
            progress=progress,
        )
        hu = np.where(slice.padding, slice.hu, hu)
        doubts = doubt_slice(slice.hu)
        told = level.note or f"noise of {level.hu:.1f} HU {'found' if self.level_hu is None else 'as given'}"
        self._write(job, hu, slice.pixel_mm, slice, remark(told, doubts))
        in_body = body(to_attenuation(slice.hu, torch.device("cpu")), slice.pixel_mm)
        change = np.square((hu - slice.hu)[in_body], dtype=np.float64).sum() / max(in_body.sum(), 1)
        facts: dict[str, Any] = {
            "sigma_hu": round(level.hu, 2),
            "sigma_from": "pixels" if self.level_hu is None else "option",
            "change_hu": float(np.sqrt(change)),
            "seconds": round(time.perf_counter() - started, 3),
        }
        images = self._images(slice.hu, hu) if for_report else []
        return Result(facts, level.note, doubts, "", images)

    def review(self, job: Job) -> Result:
        """Return the pictures of a slice and of its result by an earlier run.

        Raises:
            InputError: One of them cannot be read.
        """
        assert isinstance(job, SliceJob)
        assert job.target is not None
        given, result = read_slice(job.series, job.index).hu, read_result(job.target)
        if given.shape != result.shape:
            raise InputError(f"{job.target}: is no result of {job.label}, as it has another size")
        return Result({}, images=self._images(given, result))

    def _images(self, given: np.ndarray, result: np.ndarray) -> list[ReportImage]:
        return [
            ReportImage("Input", windowed(given, self.window_hu)),
            ReportImage("DeepGSR", windowed(result, self.window_hu)),
            ReportImage(f"Removed, ±{_REMOVED_HU:g} HU", windowed(given - result, (0.0, 2 * _REMOVED_HU))),
        ]
