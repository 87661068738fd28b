"""Picture files: read, restored, compared with a reference, written."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import make_folder
from deepgsr_cli.formats.codecs import MAX_PIXELS
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.reports.report import ReportImage, fit_for_report


@dataclass(frozen=True)
class PictureOptions:
    """What is done with each file.

    Attributes:
        sigma: Noise level on the 0-255 scale, None to estimate it; for the task "denoise" alone.
        strength: Share of the correction that is applied.
        reference: Clean picture, or folder of clean pictures with the names of the inputs.
        format: Format of the output, None for what its suffix says, or the input's on standard output.
        white: Value that stands for 1 in a float file.
        max_pixels: Most pixels a file may claim to have.
        for_report: Keep 8-bit pictures for a report.
    """

    sigma: float | None = None
    strength: float = 1.0
    reference: Path | None = None
    format: str | None = None
    white: float = 1.0
    max_pixels: int = MAX_PIXELS
    for_report: bool = False


@dataclass
class PictureResult:
    """What was done to one picture.

    Attributes:
        facts: Size, depth, noise level, and metrics in dB where there is a reference; JSON types.
        note: What the user should know about it, or nothing.
        images: Pictures for the report.
    """

    facts: dict[str, float | int | str | list[float]]
    note: str = ""
    images: list[ReportImage] = field(default_factory=list)


def restore_file(
    job: Job,
    restorer: Restorer,
    options: PictureOptions,
    progress: Callable[[int, int], None] | None = None,
) -> PictureResult:
    """Read, restore and write one picture.

    Args:
        job: Where from and where to.
        restorer: The model.
        options: What to do.
        progress: Called with finished and total pixels.

    Raises:
        InputError: The picture or its reference cannot be read.
        OutputError: The result cannot be written.
        ShapeError: The reference has another size or number of channels.
        UsageError: The weights do not fit.
    """
    source = sys.stdin.buffer if job.source is None else job.source
    image = read_image(source, max_pixels=options.max_pixels, white=options.white)
    reference = _reference(job, image, options) if options.reference is not None else None

    channels, height, width = image.pixels.shape
    result = PictureResult({"width": width, "height": height, "channels": channels, "depth": image.depth})
    sigma = _level(image, restorer, options, result) if restorer.task == "denoise" else None

    shown: list[tuple[str, np.ndarray]] = []
    if reference is not None:
        _compare(result, "_in", image, reference)
    if options.for_report:
        shown.append(("Input", to_uint8(image.pixels)))
    image.pixels = restorer(
        image.pixels,
        sigma,
        clipped=_is_clipped(image),
        strength=options.strength,
        in_place=True,
        progress=progress,
    )
    if reference is not None:
        _compare(result, "", image, reference)
    if options.for_report:
        shown.append(("Restored", to_uint8(image.pixels)))
        if reference is not None:
            shown.append(("Reference", to_uint8(reference)))
        crops, cut = fit_for_report(*(pixels for _, pixels in shown))
        result.images = [ReportImage(label, crop) for (label, _), crop in zip(shown, crops)]
        result.note = "; ".join(text for text in (result.note, cut) if text)

    if job.target is None:
        write_image(sys.stdout.buffer, image, format=options.format)
    else:
        make_folder(job.target.parent)
        write_image(job.target, image, format=options.format)
    return result


def _is_clipped(image: Image) -> bool:
    """Whether noise beyond black and white was cut off: always in integers, and in floats that end there."""
    return image.depth.startswith("uint") or {float(image.pixels.min()), float(image.pixels.max())} <= {0, 1}


def _level(image: Image, restorer: Restorer, options: PictureOptions, result: PictureResult) -> float:
    """Noise level of the picture, given or estimated, noted in the result."""
    sigma = options.sigma
    if sigma is None:
        estimates = estimate_sigma(image.pixels)
        sigma = min(picture_sigma(estimates), restorer.sigma_limit(len(image.pixels)))
        result.facts["sigma_estimated"] = [round(level, 2) for level in estimates]
        if sigma == 0:
            result.note = "no noise found, written unchanged"
    result.facts["sigma"] = round(sigma, 2)
    return sigma


def _reference(job: Job, image: Image, options: PictureOptions) -> np.ndarray:
    """Pixels of the job's reference."""
    path = options.reference
    assert path is not None
    if path.is_dir():
        path = path / job.name
        if not path.exists():
            # The clean picture may be stored in another format.
            others = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
            if len(others) != 1:
                raise InputError(
                    f"{job.label}: {options.reference} has no picture {job.name}; "
                    "give a reference for each input, under its name"
                )
            path = others[0]
    clean = read_image(path, max_pixels=options.max_pixels, white=options.white).pixels
    if clean.shape != image.pixels.shape:
        sizes = [f"{w} x {h} x {c}" for c, h, w in (clean.shape, image.pixels.shape)]
        raise ShapeError(
            f"{path}: is {sizes[0]}, the picture itself {sizes[1]}; give the picture it was made from"
        )
    return clean


def _compare(result: PictureResult, suffix: str, image: Image, reference: np.ndarray) -> None:
    """Add PSNR and SSIM of the pixels as a file of this depth holds them: clipped, and rounded at 8 bits."""
    pixels = image.pixels
    if image.depth == "uint8":
        # Both, so that an 8-bit reference equals itself exactly.
        pixels, reference = rounded8(pixels), rounded8(reference)
    elif image.depth == "uint16":
        pixels = pixels.clip(0, 1)
    result.facts[f"psnr{suffix}"] = round(psnr(pixels, reference), 4)
    result.facts[f"ssim{suffix}"] = round(ssim(pixels, reference), 5)
