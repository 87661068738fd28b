"""Picture files: read, restored, compared with a reference, written."""

from __future__ import annotations

import glob
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import make_folder
from deepgsr_cli.formats.codecs import MAX_PIXELS
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.pictures.arrays import is_clipped
from deepgsr_cli.pictures.restorer import Choice, Restorer
from deepgsr_cli.reports.report import ReportImage, fit_for_report


@dataclass(frozen=True)
class FileOptions:
    """What is done with each file.

    Attributes:
        level: Noise level on the 0-255 scale, None to estimate it; for the task "denoise" alone.
        strength: Share of the correction that is applied.
        reference: Clean picture, or folder of clean pictures with the names of the inputs.
        format: Format of the output, None for what its suffix says, or the input's on standard output.
        white: Value that stands for 1 in a float file.
        max_pixels: Most pixels a file may claim to have.
    """

    level: float | None = None
    strength: float = 1.0
    reference: Path | None = None
    format: str | None = None
    white: float = 1.0
    max_pixels: int = MAX_PIXELS


@dataclass
class Restoration:
    """Restoration of one picture file after another.

    Attributes:
        restorer: The model.
        options: What is done with each file.
    """

    restorer: Restorer
    options: FileOptions = field(default_factory=FileOptions)
    title: ClassVar[str] = "Restored pictures"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("width", "size", mean=False, text="{width}\u00a0×\u00a0{height}"),
        Column("depth", "depth", mean=False),
        Column("noise", "noise", mean=False),
        Column("sigma", "sigma", mean=False),
        Column("psnr_in", "PSNR in (dB)"),
        Column("psnr", "PSNR out (dB)"),
        Column("ssim_in", "SSIM in"),
        Column("ssim", "SSIM out"),
    )

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run, with the weights of the pictures so far."""
        running = self.restorer.options
        protocol = {"tile": "auto" if running.tile is None else str(running.tile)}
        if running.ensemble:
            protocol["ensemble"] = "mean of eight orientations"
        if self.restorer.takes_sigma:
            level = self.options.level
            protocol["sigma"] = "auto" if level is None else f"{level:g}"
            protocol["noise"] = self.restorer.noise
        protocol["figures"] = "clipped to [0, 1], rounded as written"
        for name, loaded in self.restorer.all_loaded.items():
            protocol[f"weights ({name})"] = loaded.weights.citation
        return protocol

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read, restore and write one picture.

        Args:
            job: Where from and where to.
            for_report: Whether to keep 8-bit pictures for a report.
            progress: Called with finished and total pixels.

        Raises:
            InputError: The picture or its reference cannot be read.
            OutputError: The result cannot be written.
            ShapeError: The reference has another size or number of channels.
            UsageError: The weights do not fit.
        """
        started = time.perf_counter()
        options, image = self.options, self._read(job.source)
        reference = self._reference(job, image)
        result = _result(image)
        choice = self._choose(image, result)
        if choice.restorer is not None:
            before = time.perf_counter()
            choice.restorer.load(len(image.pixels))
            started += time.perf_counter() - before  # no time of this picture
        shown = [("Input", to_uint8(image.pixels))] if for_report else []
        _compare(result, "_in", image, reference)
        if choice.restorer is not None:
            image.pixels = choice.restorer.restore_pixels(
                image.pixels,
                choice.sigma,
                clipped=is_clipped(image.pixels, image.depth),
                strength=options.strength,
                in_place=True,
                progress=progress,
            )
        _compare(result, "", image, reference)
        if job.target is None:
            write_image(sys.stdout.buffer, image, format=options.format)
        else:
            make_folder(job.target.parent)
            write_image(job.target, image, format=options.format)
        result.facts["seconds"] = time.perf_counter() - started
        if for_report:
            _show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
        return result

    def review(self, job: Job) -> Result:
        """Compare a picture with what an earlier run has made of it.

        Raises:
            InputError: The picture, its result or its reference cannot be read.
            ShapeError: They differ in size or number of channels.
        """
        image = self._read(job.source)
        reference = self._reference(job, image)
        result = _result(image)
        _compare(result, "_in", image, reference)
        shown = [("Input", to_uint8(image.pixels))]
        assert job.target is not None
        image.pixels = self._like(job.target, image)
        _compare(result, "", image, reference)
        _show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
        return result

    def _read(self, source: Path | None) -> Image:
        stream = sys.stdin.buffer if source is None else source
        return read_image(stream, max_pixels=self.options.max_pixels, white=self.options.white)

    def _choose(self, image: Image, result: Result) -> Choice:
        """Choose how the picture is restored, and note what was found in the result."""
        if self.restorer.task != "denoise":
            return Choice(self.restorer, None)
        choice = self.restorer.choose(image.pixels, self.options.level)
        if choice.found is not None:
            result.facts["noise"] = choice.found.kind
            result.facts["sigma_estimated"] = [round(level, 2) for level in choice.found.sigmas]
        if choice.sigma is not None:
            result.facts["sigma"] = round(choice.sigma, 2)
        result.note = choice.words
        return choice

    def _reference(self, job: Job, image: Image) -> np.ndarray | None:
        """Return the pixels of the job's reference, None if there is none."""
        path = self.options.reference
        return None if path is None else self._like(reference_of(job, path), image)

    def _like(self, path: Path, image: Image) -> np.ndarray:
        """Return the pixels of a file, which must have the size and channels of an image."""
        pixels = self._read(path).pixels
        if pixels.shape != image.pixels.shape:
            sizes = [f"{w} x {h} x {c}" for c, h, w in (pixels.shape, image.pixels.shape)]
            raise ShapeError(
                f"{path}: is {sizes[0]}, the picture itself {sizes[1]}; give the picture it was made from"
            )
        return pixels


def reference_of(job: Job, reference: Path) -> Path:
    """Return the path of a job's reference, a file or one in a folder under the name of the input.

    Raises:
        InputError: There is none in the folder.
    """
    path = reference / job.name if reference.is_dir() else reference
    if not path.exists() and reference.is_dir():
        # The clean picture may be stored in another format.
        others = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
        if len(others) != 1:
            raise InputError(
                f"{job.label}: {reference} has no picture {job.name}; "
                "give a reference for each input, under its name"
            )
        path = others[0]
    return path


def _result(image: Image) -> Result:
    channels, height, width = image.pixels.shape
    return Result({"width": width, "height": height, "channels": channels, "depth": image.depth})


def _show(result: Result, shown: list[tuple[str, np.ndarray]], reference: np.ndarray | None) -> None:
    """Add pictures, and their common reference, for a report."""
    if reference is not None:
        shown = [*shown, ("Reference", to_uint8(reference))]
    crops, result.caption = fit_for_report(*(pixels for _, pixels in shown))
    result.images = [ReportImage(label, crop) for (label, _), crop in zip(shown, crops)]


def _compare(result: Result, suffix: str, image: Image, reference: np.ndarray | None) -> None:
    """Add PSNR and SSIM of the pixels as a file of this depth holds them: clipped, and rounded at 8 bits."""
    if reference is None:
        return
    pixels = image.pixels
    if image.depth == "uint8":
        # Both, so that an 8-bit reference equals itself exactly.
        pixels, reference = rounded8(pixels), rounded8(reference)
    elif image.depth == "uint16":
        pixels = pixels.clip(0, 1)
    result.facts[f"psnr{suffix}"] = round(psnr(pixels, reference), 4)
    result.facts[f"ssim{suffix}"] = round(ssim(pixels, reference), 5)
