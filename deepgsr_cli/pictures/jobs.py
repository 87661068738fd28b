"""Picture files: read, restored, compared with a reference, written."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from deepgsr_cli.compute.memory import give_back_freed_memory
from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import copy_file, make_folder, reading
from deepgsr_cli.formats.codecs import MAX_PIXELS
from deepgsr_cli.formats.image import (
    FORMATS,
    Image,
    check_range,
    enlarged,
    format_of,
    losses,
    of_the_old_size,
    read_image,
    to_uint8,
    write_image,
)
from deepgsr_cli.formats.pages import Pages, check_paged, open_pages, write_pages
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result, StagedWork
from deepgsr_cli.pictures.arrays import is_clipped, is_flat
from deepgsr_cli.pictures.compression import compression_of
from deepgsr_cli.pictures.resampling import Method, enlarged_alpha, interpolated, without_hidden_colours
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.pictures.tasks import DENOISE
from deepgsr_cli.reports.report import ReportImage, fit_for_report
from deepgsr_cli.reports.sheet import contact_sheet

# Restores the pixels of a picture; called with what is told of its progress.
Restore = Callable[[Progress | None], np.ndarray]
# A preview shows a square of so many pixels, at these parts of the noise level, of this one where there is
# none, and at these strengths.
PREVIEW_SIDE, PREVIEW_PARTS, PREVIEW_SIGMA = 256, (0.5, 0.75, 1.0, 1.5, 2.0), 10.0
PREVIEW_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
# Columns of what picture it is.
KIND = (
    Column("width", "size", mean=False, text="{width}\u00a0×\u00a0{height}"),
    Column("depth", "depth", mean=False),
)
# From here on the memory of tiles is given back before a picture is written, which takes as much again.
_LARGE_BYTES = 2**25
GIF_NOTE = "a GIF holds 256 colours a picture"


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
class Restoration(StagedWork):
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
        *KIND,
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
        protocol = self.restorer.options.protocol
        if self.restorer.takes_sigma:
            level = self.options.level
            protocol["sigma"] = "auto" if level is None else f"{level:g}"
            protocol["noise"] = self.restorer.noise
        protocol["figures"] = "clipped to [0, 1], rounded as written"
        for name, loaded in self.restorer.all_loaded.items():
            protocol[f"weights ({name})"] = loaded.weights.citation
        return protocol

    def do(self, job: Job, *, for_report: bool, progress: Progress | None) -> Callable[[], Result]:
        """Read and restore one picture; return what writes it. Of several in a file, each is written here.

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
        source = _source(job)
        if (pages := self._pages(source)) is not None:
            result = self._restore_pages(job, source, pages, for_report, progress)
            result.facts["seconds"] = time.perf_counter() - started - result.facts.pop("loading")
            return lambda: result
        image = self._read(source)
        result, reason = self._restore(image, job.label, self._reference(job, image), for_report, progress)
        seconds = time.perf_counter() - started - result.facts.pop("loading")

        def finish() -> Result:
            started = time.perf_counter()
            notes = [*image.notes, *self._write(job, source, image, reason), result.note]
            result.note = "; ".join(filter(None, notes))
            result.facts["seconds"] = seconds + time.perf_counter() - started
            return result

        return finish

    def review(self, job: Job) -> Result:
        """Compare a picture with what an earlier run has made of it.

        Raises:
            InputError: The picture, its result or its reference cannot be read.
            ShapeError: They differ in size or number of channels.
        """
        image = self.first(_source(job))
        reference = next(self._references(job))
        self._check_like(self._reference_path(job), reference, image)
        result = _result(image)
        shown = self._compare_given(result, image, reference)
        assert job.target is not None
        after = self.first(job.target).pixels
        self._check_like(job.target, after, image)
        image.pixels = after
        compare(result, "", image, reference)
        show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
        return result

    def _pages(self, source: Path | BytesIO) -> Pages | None:
        return open_pages(source, max_pixels=self.options.max_pixels, white=self.options.white)

    def first(self, source: Path | BytesIO) -> Image:
        """Read the picture of a file, or the first of several."""
        pages = self._pages(source)
        return self._read(source) if pages is None else next(pages.read())

    def _read(self, source: Path | BytesIO) -> Image:
        return read_image(source, max_pixels=self.options.max_pixels, white=self.options.white)

    def _restore(
        self,
        image: Image,
        name: str,
        reference: np.ndarray | None,
        for_report: bool,
        progress: Progress | None,
    ) -> tuple[Result, str | None]:
        """Restore the pixels of a picture, in place.

        Returns:
            What came of it, whose fact "loading" is the time in seconds of loading the weights; and why
            nothing was to be done, empty where the options say so, None where the pixels are restored.

        Raises:
            InputError: The values of the picture are on another scale than that of its white.
        """
        before = self.restorer.all_seconds_loading
        self._load(image)
        result = _result(image)
        restore: Restore | str | None = self._idle(image, result)
        if restore is None:
            check_range(image, name, has_option=True)
            restore = self._prepare(image, result)
        shown = self._compare_given(result, image, reference) if for_report or reference is not None else []
        if not isinstance(restore, str):
            image.pixels = restore(progress)
        compare(result, "", image, reference)
        if for_report:
            show(result, [*shown, ("Restored", to_uint8(image.pixels))], reference)
        result.facts["loading"] = self.restorer.all_seconds_loading - before
        return result, restore if isinstance(restore, str) else None

    def _load(self, image: Image) -> None:
        """Load the model for a picture, unless what is found in the picture decides which. Weights that are
        asked for have to fit although nothing may be left to do."""
        if self.restorer.weights is not None or not self.restorer.looks:
            self.restorer.load(len(image.stored))

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

    def restored(self, image: Image) -> np.ndarray:
        """Return the pixels of a picture restored, or as they are where there is nothing to be done."""
        restore = self._prepare(image, _result(image))
        return image.pixels if isinstance(restore, str) else restore(None)

    def _idle(self, image: Image, result: Result) -> str | None:
        """Return why nothing need be looked for, empty where the options say so, None where there may be
        something; a level that is given is noted in the result."""
        given = self.options.level if self.restorer.takes_sigma else None
        if given is not None:
            result.facts["sigma"] = round(given, 2)
        if self.options.strength == 0 or given == 0:
            return ""
        return "one colour throughout" if is_flat(image.stored) else None

    def _prepare(self, image: Image, result: Result) -> Restore | str:
        """Note in the result what is known of a picture before; return what restores its pixels, or why
        nothing is to be done."""
        # What one network does is rounded once, as it is stored; what several do, not between them.
        alone = not self.restorer.looks or self.restorer.task == DENOISE.name
        pixels = image.stored if alone else image.pixels
        route = self.restorer.route(pixels, self.options.level, image.metadata.jpeg)
        result.facts |= route.facts
        result.note = route.advice if route.idle else route.words
        if route.idle:
            return route.words

        def restore(progress: Progress | None) -> np.ndarray:
            return route.run(
                pixels,
                clipped=is_clipped(pixels, image.depth),
                strength=self.options.strength,
                progress=progress,
            )

        return restore

    def _streamed(self, format: str) -> str:
        """Return the format of a result on standard output, given that of the input."""
        return format

    def _restore_pages(
        self, job: Job, source: Path | BytesIO, pages: Pages, for_report: bool, progress: Progress | None
    ) -> Result:
        """Restore the pictures of a file, each as it would be alone, and write each as it comes."""
        target, format = self._target(job, pages.format)
        written = target if isinstance(target, Path) else BytesIO()
        check_paged(job.label, pages, format)
        results: list[Result] = []
        reasons: list[str | None] = []
        notes = [f"{pages.count} pictures"]
        left_out = [*pages.left_out]
        advice: list[str] = []

        def restored() -> Iterator[Image]:
            for number, (image, reference) in enumerate(
                zip(pages.read(), self._references(job, pages.count))
            ):
                name = f"{job.label}, picture {number + 1}"
                self._check_like(self._reference_path(job), reference, image)
                told = None if progress is None else partial(_as_part, progress, number, pages.count)
                result, reason = self._restore(image, name, reference, for_report and number == 0, told)
                results.append(result)
                reasons.append(reason)
                if number == 0:
                    lost = losses(image, format)
                    lost += ["durations"] if pages.format != "TIFF" == format else []
                    notes.extend([f"a {format} file holds no {', no '.join(lost)}"] if lost else [])
                # What was removed from each is told of all of them, below.
                removed = reason is None and not result.facts.keys().isdisjoint(("noise", "rain"))
                told_of = image.notes if removed or reason else (*image.notes, result.note)
                notes.extend(note for note in told_of if note and note not in notes)
                if reason and result.note and result.note not in advice:
                    advice.append(result.note)
                left_out.extend(note for note in image.left_out if note not in left_out)
                yield image

        write_pages(written, restored(), pages, format)
        unchanged = sum(reason is not None for reason in reasons)
        if unchanged == pages.count and format == pages.format:
            written = source
        else:
            notes[1:1] = left_out
            notes += [GIF_NOTE] if format == "GIF" else []
        if written is not target:
            copy_file(written, target)
        result = _of_pages(results)
        if levels := list(filter(None, result.facts.get("sigma_by_page", ()))):  # 0 where nothing is done
            notes.insert(1, f"noise found, sigma {min(levels):g} to {max(levels):g} (0-255 scale)")
        if rainy := sum(result.facts.get("rain_by_page", ())):
            notes.insert(1, f"rain found in {rainy} of them")
        if unchanged and any(reasons):
            notes.append(f"written unchanged: {unchanged} of them ({next(filter(None, reasons))})")
            notes.extend(advice)
        result.note = "; ".join(notes)
        return result

    def _target(self, job: Job, format: str) -> tuple[Path | BinaryIO, str]:
        """Return where the result of a job goes, and in which format, given that of its input."""
        if job.target is None:
            format = format if FORMATS[format].encode else "PNG"
            return sys.stdout.buffer, self.options.format or self._streamed(format)
        make_folder(job.target.parent)
        return job.target, self.options.format or format_of(job.target) or format

    def _write(self, job: Job, source: Path | BytesIO, image: Image, reason: str | None) -> list[str]:
        """Write a picture, or the bytes of its file where nothing was to be done.

        Args:
            job: Where to.
            source: The file.
            image: The picture.
            reason: Why nothing was to be done, as `_restore` returns.

        Returns:
            What there is to know about what was written, as sentences without an end.
        """
        target, format = self._target(job, image.format)
        prefix = f"{reason}, " if reason else ""
        # The content does not tell a PGM from a PPM, the names of input and output do.
        named = image.format if job.source is None else format_of(job.source)
        same = format in (image.format, named if image.format == "PNM" else None)
        if reason is not None and same and not image.mended:
            copy_file(source, target)
            return [f"{prefix}written unchanged"] if reason else []
        if image.stored.nbytes >= _LARGE_BYTES:
            give_back_freed_memory()
        write_image(target, image, format=format)
        notes = [*image.left_out]
        if not same and named == format:
            notes.append(f"is a {image.format} by its content, and is written as {format} by its name")
        if reason is not None:
            coded = f"coded anew as {format}" if format == "JPEG" else "pixels unchanged"
            notes += [f"{prefix}{coded}"] if reason or format == "JPEG" else []
        elif image.depth == "float64":
            notes.append("64-bit values are restored at 32-bit precision")
        elif format == "GIF":
            notes.append(GIF_NOTE)
        if lost := losses(image, format):
            notes.append(f"a {format} file holds no {', no '.join(lost)}")
        return notes

    def _reference(self, job: Job, image: Image) -> np.ndarray | None:
        """Return the pixels of the reference of a job with one picture, None if there is none."""
        reference = next(self._references(job, 1))
        self._check_like(self._reference_path(job), reference, image)
        return reference

    def _reference_path(self, job: Job) -> Path | None:
        """Return the file of the reference of a job, None if there is none; errors as of `reference_of`."""
        given = self.options.reference
        return None if given is None else reference_of(job, given)

    def _references(self, job: Job, count: int | None = None) -> Iterator[np.ndarray | None]:
        """Yield the pixels of the reference of each picture of a job; one picture is that of all.

        Raises:
            ShapeError: There are several, and not as many as `count`.
        """
        path = self._reference_path(job)
        if path is None:
            yield from repeat(None)
            return
        pages = self._pages(path)
        if pages is None:
            yield from repeat(self._read(path).pixels)
            return
        if count not in (None, pages.count):
            raise ShapeError(
                f"{path}: has {pages.count} pictures, {job.label} has {count}; give one, or {count}"
            )
        yield from (image.pixels for image in pages.read())

    def _check_like(self, path: Path | None, pixels: np.ndarray | None, image: Image) -> None:
        """Refuse pixels of a file that have another size or other channels than what an image becomes."""
        shape = self._shape(image)
        if pixels is not None and pixels.shape != shape:
            sizes = [f"{w} x {h} x {c}" for c, h, w in (pixels.shape, shape)]
            raise ShapeError(
                f"{path}: is {sizes[0]}, the {self.made} {sizes[1]}; give the picture it was made from"
            )

    def _shape(self, image: Image) -> tuple[int, ...]:
        """Return the size and channels, (C, H, W), of what an image becomes."""
        return image.stored.shape


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

    def _prepare(self, image: Image, result: Result) -> Restore | str:
        given, coding = self.options.level, image.metadata.jpeg
        compression = compression_of(image.pixels, coding, given)
        if compression is None:
            result.note = "give --quality if there is one"
            return "no trace of JPEG found"
        source = "pixels" if coding is None or compression.last is not None else "file"
        result.facts["quality"] = compression.quality
        result.facts["quality_from"] = source if given is None else "option"
        if compression.corner != (0, 0):
            result.facts["first_block"] = list(compression.corner)
        if compression.last is not None:
            result.facts["quality_last"] = compression.last
            result.note = f"compressed twice, the last time at quality {compression.last}"
        if compression.negligible:
            return "nothing to remove at this quality"

        def restore(progress: Progress | None) -> np.ndarray:
            return self.restorer.restore_compressed(
                image.pixels,
                compression,
                strength=self.options.strength,
                in_place=True,
                progress=progress,
            )

        return restore

    def _streamed(self, format: str) -> str:
        # A JPEG would get back what has just been removed.
        return "PNG" if format == "JPEG" else format


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
        *KIND,
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
        return replace(image, stored=interpolated(image.pixels, self.scale))

    def _shape(self, image: Image) -> tuple[int, ...]:
        channels, height, width = image.stored.shape
        return channels, self.scale * height, self.scale * width

    def _idle(self, image: Image, result: Result) -> str | None:
        return None

    def _prepare(self, image: Image, result: Result) -> Restore | str:
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
                if image.format == "GIF":  # which holds no half transparent pixels
                    image.alpha = np.where(image.alpha < 128, 0, 255).astype(np.uint8)
            if image.holes is not None:
                where = image.holes.where.repeat(self.scale, 1).repeat(self.scale, 2)
                image.holes = image.holes._replace(where=where)
            if lost := of_the_old_size(image.metadata):
                image.left_out = (*image.left_out, f"{', '.join(lost)} are of the old pixels and left out")
            image.metadata = enlarged(image.metadata, (width, height), self.scale)
            return self.restorer.enlarge_pixels(
                pixels, self.scale, self.method, strength=self.options.strength, progress=progress
            )

        return restore


@dataclass
class Preview:
    """One crop of each picture at several settings, side by side in a PNG, for a person to choose by.

    Noise is removed at parts and multiples of the level that is given or estimated; the other tasks are shown
    by their strength.

    Attributes:
        restoration: What is done to the pictures.
    """

    restoration: Restoration
    title: ClassVar[str] = "Previews"
    columns: ClassVar[tuple[Column, ...]] = KIND

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run."""
        return self.restoration.protocol

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read a picture, or the first of several, and write its preview.

        Args:
            job: Where from and where to.
            for_report: Whether to keep the crops for a report.
            progress: Called with finished and total settings.

        Raises:
            UserError: As of `Restoration`.
        """
        started, restorer = time.perf_counter(), self.restoration.restorer
        before = restorer.all_seconds_loading
        image = self.restoration.first(_source(job))
        check_range(image, job.label, has_option=True)
        result = _result(image)
        top, left = detailed_corner(image.pixels, PREVIEW_SIDE)
        crop = image.pixels[:, top : top + PREVIEW_SIDE, left : left + PREVIEW_SIDE]
        image.pixels = np.ascontiguousarray(crop)
        tiles = [("input", to_uint8(image.pixels))]
        settings = self._settings(image, result)
        for done, (name, pixels) in enumerate(settings, 1):
            tiles.append((name, to_uint8(pixels)))
            if progress is not None:
                progress(done, len(PREVIEW_PARTS))
        sheet = contact_sheet(tiles).transpose(2, 0, 1) / np.float32(255)
        written = Image(sheet, "uint8", "PNG")
        if job.target is None:
            write_image(sys.stdout.buffer, written)
        else:
            make_folder(job.target.parent)
            write_image(job.target, written, format="PNG")
        loading = restorer.all_seconds_loading - before
        result.facts["seconds"] = time.perf_counter() - started - loading
        result.note = f"a crop at column {left}, row {top}"
        if for_report:
            result.images = [ReportImage(name, pixels) for name, pixels in tiles]
            result.caption = result.note
        return result

    def review(self, job: Job) -> Result:
        """Return the size of a picture whose preview an earlier run has made."""
        return _result(self.restoration.first(_source(job)))

    def _settings(self, image: Image, result: Result) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each setting and what it makes of the pixels."""
        restorer = self.restoration.restorer
        clipped = is_clipped(image.pixels, image.depth)
        if restorer.takes_sigma:
            choice = restorer.choose(image.pixels, self.restoration.options.level)
            chosen, level = choice.restorer or restorer, choice.sigma or PREVIEW_SIGMA
            known = chosen.sigma_limit(len(image.pixels))
            weights = "--noise camera " if chosen.task == "photo" else ""
            result.facts["sigmas"] = [round(min(known, part * level), 1) for part in PREVIEW_PARTS]
            for sigma in result.facts["sigmas"]:
                pixels = chosen.restore_pixels(image.pixels, sigma, clipped=clipped)
                yield f"{weights}--sigma {sigma:g}", pixels
            return
        given = image.pixels
        pixels = self.restoration.restored(replace(image, stored=given.copy()))
        result.facts["strengths"] = [*PREVIEW_STRENGTHS]
        for strength in PREVIEW_STRENGTHS:
            yield f"--strength {strength:g}", given + np.float32(strength) * (pixels - given)


def detailed_corner(pixels: np.ndarray, side: int) -> tuple[int, int]:
    """Row and column of the square in a picture, (C, H, W), where means of 8 x 8 pixels vary most.

    Means, as noise varies everywhere, and structure where there is something to see.
    """
    height, width = pixels.shape[1:]
    corners = [
        (top, left)
        for top in {*range(0, max(1, height - side), max(8, side // 2)), max(0, height - side)}
        for left in {*range(0, max(1, width - side), max(8, side // 2)), max(0, width - side)}
    ]

    def variation(corner: tuple[int, int]) -> float:
        crop = pixels[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side].mean(0)
        rows, columns = len(crop) // 8, crop.shape[1] // 8
        if not rows or not columns:
            return 0.0
        return float(crop[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).mean((1, 3)).std())

    return max(sorted(corners), key=variation)


def _as_part(progress: Progress, number: int, count: int, done: int, all_: int) -> None:
    """Tell the progress of one of several pictures as that of all."""
    progress(number * all_ + done, count * all_)


def _of_pages(results: list[Result]) -> Result:
    """What came of several pictures: facts of the first, and means of figures."""
    first = results[0]
    every = [result.facts for result in results]
    facts = {
        name: value for name, value in first.facts.items() if name not in ("noise", "sigma_estimated", "rain")
    }
    facts["pages"] = len(results)
    facts["loading"] = sum(one["loading"] for one in every)
    for name in ("psnr_in", "psnr", "ssim_in", "ssim"):
        if name in facts:
            facts[name] = float(np.mean([one[name] for one in every]))
    if any("rain" in one for one in every):
        facts["rain_by_page"] = [one.get("rain", False) for one in every]
    if any("noise" in one for one in every):
        facts["noise_by_page"] = [one.get("noise", "none") for one in every]
        facts["sigma_by_page"] = [one.get("sigma") for one in every]
        if levels := [level for level in facts["sigma_by_page"] if level is not None]:
            facts["sigma"] = round(float(np.median(levels)), 2)
    return Result(facts, images=first.images, caption=first.caption)


def _source(job: Job) -> Path | BytesIO:
    """The input of a job; what can be read once only, as standard input and pipes, is read to its end."""
    if job.source is None:
        return BytesIO(sys.stdin.buffer.read())
    if os.path.exists(job.source) and (job.source.is_fifo() or job.source.is_char_device()):
        with reading(job.source):
            return BytesIO(job.source.read_bytes())
    return job.source


def reference_of(job: Job, reference: Path) -> Path:
    """Return the path of a job's reference, a file or one in a folder under the name of the input.

    Raises:
        InputError: There is none in the folder.
    """
    path = reference / job.name if os.path.isdir(reference) else reference
    if not os.path.exists(path) and os.path.isdir(reference):
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
    channels, height, width = image.stored.shape
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
