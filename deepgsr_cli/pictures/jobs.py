"""Picture files: read, restored, compared with a reference, written."""

from __future__ import annotations

import glob
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import make_folder
from deepgsr_cli.formats.codecs import MAX_PIXELS
from deepgsr_cli.formats.image import Image, enlarged, read_image, to_uint8, write_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.pictures.arrays import is_clipped
from deepgsr_cli.pictures.compression import compression_of
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma
from deepgsr_cli.pictures.resampling import Method, enlarged_alpha, interpolated, without_hidden_colours
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.reports.report import ReportImage, fit_for_report

# Restores the pixels of a picture; called with what is told of its progress.
Restore = Callable[[Progress | None], np.ndarray]


@dataclass(frozen=True)
class FileOptions:
    """What is done with each file.

    Attributes:
        level: Noise level on the 0-255 scale for the task "denoise", quality of 1 to 100 for "dejpeg"; None
            to estimate it.
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
    # What those restored are compared with, and what has the size of a reference, in words.
    given: ClassVar[str] = "Input"
    made: ClassVar[str] = "picture itself"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("width", "size", mean=False, text="{width}\u00a0×\u00a0{height}"),
        Column("depth", "depth", mean=False),
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
        protocol["figures"] = "clipped to [0, 1], rounded as written"
        for channels, loaded in self.restorer.loaded.items():
            kind = "gray" if channels == 1 else "colour"
            protocol[f"weights ({kind})"] = loaded.weights.citation
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
        before = time.perf_counter()
        self._load(image)
        started += time.perf_counter() - before  # no time of this picture
        result = _result(image)
        restore = self._prepare(image, result)
        shown = self._compare_given(result, image, reference) if for_report or reference is not None else []
        image.pixels = restore(progress)
        compare(result, "", image, reference)
        if job.target is None:
            write_image(sys.stdout.buffer, image, format=options.format or self._streamed(image))
        else:
            make_folder(job.target.parent)
            write_image(job.target, image, format=options.format)
        result.facts["seconds"] = time.perf_counter() - started
        if for_report:
            show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
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
        shown = self._compare_given(result, image, reference)
        assert job.target is not None
        image.pixels = self._like(job.target, image)
        compare(result, "", image, reference)
        show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
        return result

    def _read(self, source: Path | None) -> Image:
        stream = sys.stdin.buffer if source is None else source
        return read_image(stream, max_pixels=self.options.max_pixels, white=self.options.white)

    def _load(self, image: Image) -> None:
        """Load the model for a picture."""
        self.restorer.load(len(image.pixels))

    def _given(self, image: Image) -> Image:
        """Return what the restored picture is compared with."""
        return image

    def _compare_given(
        self, result: Result, image: Image, reference: np.ndarray | None
    ) -> list[tuple[str, np.ndarray]]:
        """Compare a picture as it is with its reference; return it for a report."""
        given = self._given(image)
        compare(result, "_in", given, reference)
        return [(self.given, to_uint8(given.pixels))]

    def _prepare(self, image: Image, result: Result) -> Restore:
        """Note in the result what is known of a picture before; return what restores its pixels."""
        sigma = self._level(image, result) if self.restorer.takes_sigma else None

        def restore(progress: Progress | None) -> np.ndarray:
            return self.restorer.restore_pixels(
                image.pixels,
                sigma,
                clipped=is_clipped(image.pixels, image.depth),
                strength=self.options.strength,
                in_place=True,
                progress=progress,
            )

        return restore

    def _streamed(self, image: Image) -> str:
        """Return the format of a picture on standard output."""
        return image.format

    def _level(self, image: Image, result: Result) -> float:
        """Return the noise level of the picture, given or estimated, and note it in the result."""
        sigma = self.options.level
        if sigma is None:
            estimates = estimate_sigma(image.pixels)
            sigma = min(picture_sigma(estimates), self.restorer.sigma_limit(len(image.pixels)))
            result.facts["sigma_estimated"] = [round(level, 2) for level in estimates]
            if sigma == 0:
                result.note = "no noise found, written unchanged"
        result.facts["sigma"] = round(sigma, 2)
        return sigma

    def _reference(self, job: Job, image: Image) -> np.ndarray | None:
        """Return the pixels of the job's reference, None if there is none."""
        path = self.options.reference
        return None if path is None else self._like(reference_of(job, path), image)

    def _like(self, path: Path, image: Image) -> np.ndarray:
        """Return the pixels of a file, which must have the size and channels of what an image becomes."""
        pixels, shape = self._read(path).pixels, self._shape(image)
        if pixels.shape != shape:
            sizes = [f"{w} x {h} x {c}" for c, h, w in (pixels.shape, shape)]
            raise ShapeError(
                f"{path}: is {sizes[0]}, the {self.made} {sizes[1]}; give the picture it was made from"
            )
        return pixels

    def _shape(self, image: Image) -> tuple[int, ...]:
        """Return the size and channels, (C, H, W), of what an image becomes."""
        return image.pixels.shape


class Decompression(Restoration):
    """Restoration of one picture file that was a JPEG after another; the level is a quality."""

    title: ClassVar[str] = "Pictures after JPEG compression"
    columns: ClassVar[tuple[Column, ...]] = tuple(
        Column("quality", "quality", mean=False) if column.name == "sigma" else column
        for column in Restoration.columns
    )

    @property
    def protocol(self) -> dict[str, str]:
        level = self.options.level
        return {"quality": "auto" if level is None else f"{level:g}", **super().protocol}

    def _prepare(self, image: Image, result: Result) -> Restore:
        given, coding = self.options.level, image.metadata.jpeg
        compression = compression_of(image.pixels, coding, given)
        if compression is None:
            result.note = "no trace of JPEG found, written unchanged; give --quality if there is one"
            return lambda progress: image.pixels
        source = "pixels" if coding is None or compression.last is not None else "file"
        result.facts["quality"] = compression.quality
        result.facts["quality_from"] = source if given is None else "option"
        if compression.corner != (0, 0):
            result.facts["first_block"] = list(compression.corner)
        if compression.last is not None:
            result.facts["quality_last"] = compression.last
            result.note = f"compressed twice, the last time at quality {compression.last}"
        if compression.negligible:
            result.note = "nothing to remove at this quality, written unchanged"

        def restore(progress: Progress | None) -> np.ndarray:
            return self.restorer.restore_compressed(
                image.pixels,
                compression,
                strength=self.options.strength,
                in_place=True,
                progress=progress,
            )

        return restore

    def _streamed(self, image: Image) -> str:
        # A JPEG would get back what has just been removed.
        return "PNG" if image.format == "JPEG" else image.format


@dataclass
class Enlargement(Restoration):
    """Enlargement of one picture file after another, which is compared with bicubic interpolation.

    Attributes:
        scale: Sides of the results over those of the pictures.
        method: The network, or an interpolation.
    """

    scale: int = 2
    method: Method = "deepgsr"
    title: ClassVar[str] = "Enlarged pictures"
    given: ClassVar[str] = "Bicubic"
    made: ClassVar[str] = "enlarged picture"
    columns: ClassVar[tuple[Column, ...]] = (
        *Restoration.columns[:2],
        Column("scale", "scale", mean=False),
        Column("psnr_in", "PSNR bicubic (dB)"),
        Column("psnr", "PSNR (dB)"),
        Column("ssim_in", "SSIM bicubic"),
        Column("ssim", "SSIM"),
    )

    @property
    def protocol(self) -> dict[str, str]:
        return {"scale": str(self.scale), "method": self.method, **super().protocol}

    def _load(self, image: Image) -> None:
        if self.method == "deepgsr":
            super()._load(image)

    def _given(self, image: Image) -> Image:
        return replace(image, pixels=interpolated(image.pixels, self.scale))

    def _shape(self, image: Image) -> tuple[int, ...]:
        channels, height, width = image.pixels.shape
        return channels, self.scale * height, self.scale * width

    def _prepare(self, image: Image, result: Result) -> Restore:
        _, height, width = self._shape(image)
        if height * width > self.options.max_pixels:
            raise InputError(
                f"the result would have {width} x {height} pixels, more than the {self.options.max_pixels:,}"
                " allowed; give a smaller --scale, or if there is memory for it, raise --max-pixels"
            )
        result.facts |= {"scale": self.scale, "method": self.method}

        def restore(progress: Progress | None) -> np.ndarray:
            pixels = image.pixels
            if image.alpha is not None:
                pixels = without_hidden_colours(pixels, image.alpha)
                image.alpha = enlarged_alpha(image.alpha, self.scale)
            image.metadata = enlarged(image.metadata, (width, height), self.scale)
            return self.restorer.enlarge_pixels(
                pixels, self.scale, self.method, strength=self.options.strength, progress=progress
            )

        return restore


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


def show(result: Result, shown: list[tuple[str, np.ndarray]], reference: np.ndarray | None) -> None:
    """Add pictures, and their common reference, for a report."""
    if reference is not None:
        shown = [*shown, ("Reference", to_uint8(reference))]
    crops, result.caption = fit_for_report(*(pixels for _, pixels in shown))
    result.images = [ReportImage(label, crop) for (label, _), crop in zip(shown, crops)]


def compare(result: Result, suffix: str, image: Image, reference: np.ndarray | None) -> None:
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
