"""Mosaic files: read, demosaicked, compared with a reference, written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepgsr_cli.errors import ShapeError
from deepgsr_cli.files import make_folder
from deepgsr_cli.formats.codecs import MAX_PIXELS
from deepgsr_cli.formats.exif import upright
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.formats.mosaics import Mosaic, check_pattern, read_mosaic
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result, StagedWork
from deepgsr_cli.pictures.demosaicking import Demosaicker
from deepgsr_cli.pictures.jobs import KIND, compare, reference_of, show
from deepgsr_cli.pictures.mosaics import balance, developed

# Of a file's range; what is darker throughout is likely to have fewer bits than its samples.
_DIM = 0.26


@dataclass(frozen=True)
class MosaicOptions:
    """What is done with each file.

    Attributes:
        pattern: Of `formats.mosaics.PATTERNS`; None for what a raw file says, and RGGB of others.
        black: Stored value of black; None for what a raw file says, and 0 of others.
        white: Stored value of white; None for what a raw file says, and the largest of others.
        sigma: Noise level on the 0-255 scale, None to estimate it.
        linear: Write a raw file's values proportional to light.
        reference: Clean picture, or folder of clean pictures with the names of the inputs.
        format: Format of the output, None for what its suffix says.
        max_pixels: Most pixels a file may claim to have.
    """

    pattern: str | None = None
    black: float | None = None
    white: float | None = None
    sigma: float | None = 0.0
    linear: bool = False
    reference: Path | None = None
    format: str | None = None
    max_pixels: int = MAX_PIXELS


@dataclass
class Demosaicking(StagedWork):
    """Demosaicking of one file after another.

    Attributes:
        demosaicker: The method.
        options: What is done with each file.
    """

    demosaicker: Demosaicker
    options: MosaicOptions = field(default_factory=MosaicOptions)
    title: ClassVar[str] = "Demosaicked pictures"
    columns: ClassVar[tuple[Column, ...]] = (
        *KIND,
        Column("pattern", "pattern", mean=False),
        Column("sigma", "sigma", mean=False),
        Column("psnr", "CPSNR (dB)"),
        Column("ssim", "SSIM"),
    )

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run, with the weights."""
        options = self.options
        protocol = {"method": self.demosaicker.method, **self.demosaicker.options.protocol}
        protocol["sigma"] = "auto" if options.sigma is None else f"{options.sigma:g}"
        protocol["raw files"] = "linear sRGB" if options.linear else "sRGB"
        protocol["figures"] = "of all three channels, clipped to [0, 1], rounded as written"
        for loaded in self.demosaicker.restorer.loaded.values():
            protocol["weights"] = loaded.weights.citation
        return protocol

    def do(self, job: Job, *, for_report: bool, progress: Progress | None) -> Callable[[], Result]:
        """Read and demosaick one mosaic; return what writes it.

        Args:
            job: Where from and where to.
            for_report: Whether to keep 8-bit pictures for a report.
            progress: Called with finished and total pixels.

        Raises:
            InputError: The mosaic or its reference cannot be read.
            OutputError: The result cannot be written.
            ShapeError: The mosaic has an odd side, or the reference another size.
            UsageError: The weights do not fit, or an option.
        """
        started = time.perf_counter()
        mosaic, pattern, result = self._read(job)
        reference = self._reference(job, mosaic)
        before = time.perf_counter()
        self.demosaicker.load()
        started += time.perf_counter() - before  # no time of this mosaic
        balance(mosaic, pattern)
        shown = [("Mosaic", self._as_shown(mosaic))] if for_report else []
        sigma = self.options.sigma
        if sigma is None:
            sigma = self.demosaicker.level(mosaic.values, pattern)
            estimate = f"noise estimated as sigma {sigma:.2f} (0-255 scale)"
            result.note = "; ".join(filter(None, (result.note, estimate)))
        result.facts["sigma"] = round(sigma, 2)
        pixels = self.demosaicker(mosaic.values, pattern, sigma, progress=progress)
        pixels = developed(pixels, mosaic, linear=self.options.linear)
        image = Image(pixels, mosaic.depth, mosaic.format, metadata=mosaic.metadata)
        compare(result, "", image, reference)
        seconds = time.perf_counter() - started
        if for_report:
            show(result, [*shown, ("Demosaicked", to_uint8(pixels))], reference)

        def finish() -> Result:
            started = time.perf_counter()
            if job.target is None:
                write_image(sys.stdout.buffer, image, format=self.options.format)
            else:
                make_folder(job.target.parent)
                write_image(job.target, image, format=self.options.format)
            result.facts["seconds"] = seconds + time.perf_counter() - started
            return result

        return finish

    def review(self, job: Job) -> Result:
        """Compare with its reference what an earlier run has made of a mosaic.

        Raises:
            InputError: The mosaic, its result or its reference cannot be read.
            ShapeError: They differ in size.
        """
        mosaic, pattern, result = self._read(job)
        reference = self._reference(job, mosaic)
        balance(mosaic, pattern)
        assert job.target is not None
        image = self._picture(job.target, mosaic)
        compare(result, "", image, reference)
        show(result, [("Mosaic", self._as_shown(mosaic)), ("Demosaicked", to_uint8(image.pixels))], reference)
        return result

    def _read(self, job: Job) -> tuple[Mosaic, str, Result]:
        """The mosaic, its pattern, and a result that says what it is."""
        options = self.options
        source = sys.stdin.buffer if job.source is None else job.source
        mosaic = read_mosaic(source, black=options.black, white=options.white, max_pixels=options.max_pixels)
        pattern = check_pattern(options.pattern or mosaic.pattern or "RGGB")
        width, height = _size(mosaic)
        result = Result({"width": width, "height": height, "depth": mosaic.depth, "pattern": pattern})
        result.facts["method"] = self.demosaicker.method
        if mosaic.highest is not None and mosaic.highest < _DIM * mosaic.top:
            result.note = (
                f"its largest value is {mosaic.highest:.0f} of {mosaic.top:.0f}; if white is less than that,"
                " give --white"
            )
        return mosaic, pattern, result

    def _reference(self, job: Job, mosaic: Mosaic) -> np.ndarray | None:
        """Return the pixels of the job's reference, None if there is none."""
        path = self.options.reference
        return None if path is None else self._picture(reference_of(job, path), mosaic).pixels

    def _picture(self, path: Path, mosaic: Mosaic) -> Image:
        """Return the picture in a file, which must have the size of a mosaic, and colours."""
        image = read_image(path, max_pixels=self.options.max_pixels)
        (width, height), (channels, rows, columns) = _size(mosaic), image.pixels.shape
        if (channels, rows, columns) != (3, height, width):
            raise ShapeError(
                f"{path}: is {columns} x {rows} x {channels}, and {width} x {height} x 3 comes of the mosaic;"
                " give the picture it was made from"
            )
        return image

    def _as_shown(self, mosaic: Mosaic) -> np.ndarray:
        return np.ascontiguousarray(
            upright(to_uint8(mosaic.values[None])[..., None], mosaic.orientation)[..., 0]
        )


def _size(mosaic: Mosaic) -> tuple[int, int]:
    """Width and height of a mosaic as it is seen."""
    height, width = mosaic.values.shape
    return (height, width) if mosaic.orientation > 4 else (width, height)
