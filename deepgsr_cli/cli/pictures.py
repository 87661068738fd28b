"""Commands that restore picture files: an options class and a row each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    QUALITY,
    PictureOptions,
    PixelMm,
    PreviewOptions,
    Window,
    check_pictures,
    option,
    parse_format,
    parse_quality,
    parse_sigma,
    run_options,
)
from deepgsr_cli.cli.output import say, silent
from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.files import reading
from deepgsr_cli.pictures.tasks import check_enlargement

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Plan
    from deepgsr_cli.jobs.work import Facts, Result
    from deepgsr_cli.pictures.jobs import FileOptions, Preview, Restoration
    from deepgsr_cli.pictures.resampling import Method as Resampling
    from deepgsr_cli.pictures.restorer import Noise, Restorer

Sigma = Annotated[
    str,
    option(
        panel=QUALITY,
        help="Noise standard deviation on the 0-255 scale, of CT in HU, or auto to estimate it.",
    ),
]
Scale = Annotated[
    int, option(panel=QUALITY, help="Sides of the result over those of the picture: 2, 3 or 4.")
]
Method = Annotated[str, option(panel=QUALITY, help="Way to enlarge: deepgsr, bicubic or lanczos.")]
Quality = Annotated[
    str,
    option(
        panel=QUALITY,
        help="JPEG quality of the inputs on libjpeg's scale of 1 to 100, or auto to read or find it.",
    ),
]
NoiseKind = Annotated[
    str,
    option(
        panel=QUALITY,
        help="Noise: white; camera, as photographs have it; or auto, to look, or white with --sigma.",
    ),
]
NOISES = ("auto", "white", "camera")


@dataclass(frozen=True, kw_only=True)
class Denoise(PreviewOptions):
    """Remove noise from pictures, or from CT slices in DICOM files, whose results are a derived series."""

    sigma: Sigma = "auto"
    noise: NoiseKind = "auto"
    window: Window = "40,400"
    pixel_mm: PixelMm = None

    def check(self) -> None:
        if self.noise not in NOISES:
            raise UsageError(f"--noise {self.noise}: give {', '.join(NOISES[:-1])} or {NOISES[-1]}")
        super().check()

    def level(self) -> float | None:
        return parse_sigma(self.sigma)

    def kind_of_noise(self) -> Noise:
        return cast("Noise", self.noise)


@dataclass(frozen=True, kw_only=True)
class Derain(PreviewOptions):
    """Remove rain from pictures."""


@dataclass(frozen=True, kw_only=True)
class Restore(PreviewOptions):
    """Remove noise, rain, both or coarse JPEG from pictures, without being told which.

    It looks first, says what it found, and leaves a picture as it is that has nothing of all that.
    """


@dataclass(frozen=True, kw_only=True)
class Dejpeg(PreviewOptions):
    """Remove what JPEG compression has done to pictures.

    How strongly a file was compressed is read from its own tables, and is found in the pixels of pictures
    that were saved in another format since. What was a JPEG is written as PNG, as a JPEG would get artefacts
    again; -o out.jpg or --format jpeg does so nevertheless.
    """

    quality: Quality = "auto"

    def level(self) -> float | None:
        return parse_quality(self.quality)

    def result_suffixes(self) -> dict[str, str]:
        from deepgsr_cli.formats.image import FORMATS

        return dict.fromkeys(FORMATS["JPEG"].suffixes, ".png")


@dataclass(frozen=True, kw_only=True)
class Upscale(PictureOptions):
    """Enlarge pictures two, three or four times.

    Depth and colour profile are kept, and no input is overwritten. Alpha is interpolated. On paper a picture
    stays as large: its dots an inch are multiplied.
    """

    scale: Scale = 2
    method: Method = "deepgsr"

    def check(self) -> None:
        check_enlargement(self.scale, self.method)
        for name in ("weights", "ensemble", "strength"):
            if self.method != "deepgsr" and getattr(self, name) != getattr(Upscale, name):
                raise UsageError(f"--{name} and --method {self.method} exclude each other; give one")
        super().check()


# By the name of the task: the options, and what its help ends with.
COMMANDS: dict[str, tuple[type[PictureOptions], tuple[str, ...]]] = {
    "denoise": (
        Denoise,
        (
            "deepgsr denoise examples/cat_noisy.png",
            "deepgsr denoise examples/cat_noisy.png --sigma 25 -o clean.png",
            "deepgsr denoise photos -o restored --skip-existing --report restored.html",
            "deepgsr denoise examples/ct -o quiet",
        ),
    ),
    "derain": (
        Derain,
        (
            "deepgsr derain examples/cat_noisy.png -o dry.png",
            "deepgsr derain photos -o dry --skip-existing --report dry.html",
        ),
    ),
    "restore": (
        Restore,
        (
            "deepgsr restore examples/cat_noisy.png -o restored.png",
            "deepgsr restore photos -o restored --skip-existing --report restored.html",
        ),
    ),
    "dejpeg": (
        Dejpeg,
        (
            "deepgsr dejpeg examples/cat_saved.jpg -o clean.png",
            "deepgsr dejpeg photos -o restored --skip-existing --report restored.html",
        ),
    ),
    "upscale": (
        Upscale,
        (
            "deepgsr upscale examples/cat.png",
            "deepgsr upscale examples/cat.png --scale 4 -o large.png",
            "deepgsr upscale photos -o enlarged --skip-existing --report enlarged.html",
        ),
    ),
}
_KEPT = "Depth, alpha, colour profile, orientation and resolution are kept, and no input is overwritten."


@dataclass(frozen=True)
class PictureCommand(Command[PictureOptions, "Plan"]):
    """The command of a task on pictures."""

    name: str
    done = "restored"

    def plan(self, options: PictureOptions) -> Plan:
        from deepgsr_cli.formats.image import FORMATS, RESULT_SUFFIXES, suffixes_in_folders
        from deepgsr_cli.jobs.plan import plan

        options.level()
        format = "PNG" if options.shows_preview() else parse_format(options.format)
        suffixes = (
            RESULT_SUFFIXES | options.result_suffixes() if format is None else FORMATS[format].suffixes[0]
        )
        taken, foreign = suffixes_in_folders()
        found = plan(
            options.inputs,
            options.output,
            f"{self.name}_preview" if options.shows_preview() else self.name,
            taken,
            target_suffix=suffixes,
            foreign=foreign,
        )
        if typed_target(found, options.output):
            check_pictures((job.target for job in found.jobs), format)
            return found
        return named_by_content(found, suffixes if isinstance(suffixes, dict) else {})

    def open(self, options: PictureOptions, plan: Plan) -> Callable[[], Restoration | Preview]:
        return partial(_open, self.name, options)

    def describe(self, options: PictureOptions, facts: Facts) -> str:
        if "psnr" not in facts:
            return ""
        text = f"PSNR {facts['psnr_in']:.2f} -> {facts['psnr']:.2f} dB"
        return f"{text}, SSIM {facts['ssim_in']:.4f} -> {facts['ssim']:.4f}"

    def remark(self, result: Result) -> str:
        return _of_quality(result)


def typed_target(plan: Plan, output: str | None) -> bool:
    """Whether the result of a plan has the name that was typed, and not one made of its input's.

    Raises:
        InputError: It has, and its input is not there.
    """
    from deepgsr_cli.jobs.plan import STREAM

    if output in (None, STREAM) or [job.target for job in plan.jobs] != [Path(str(output))]:
        return False
    source = plan.jobs[0].source
    if source is not None:
        with reading(source):
            os.lstat(source)
    return True


def named_by_content(plan: Plan, suffixes: Mapping[str, str]) -> Plan:
    """Give results whose names say no format the suffix of what their inputs hold.

    An input that is no picture, or not there, keeps its job, which says so when it is done.

    Args:
        plan: Jobs whose results are named after their inputs.
        suffixes: Of results, by those of inputs in lower case, where they differ.

    Raises:
        UsageError: A result would take the place of an input or of another result.
    """
    from deepgsr_cli.formats.image import FORMATS, WRITTEN_SUFFIXES, opened, sniff
    from deepgsr_cli.jobs.plan import refuse_collisions

    jobs = plan.jobs.copy()
    for number, job in enumerate(jobs):
        source, target = job.source, job.target
        if source is None or target is None or target.suffix.lower() in WRITTEN_SUFFIXES:
            continue
        if os.path.exists(source) and not os.path.isfile(source):  # as a pipe, which can be read once only
            raise UsageError(f"{source}: has no name that a result could have; give -o FILE")
        with suppress(InputError), opened(source) as stream:
            suffix = FORMATS[sniff(str(source), stream)].suffixes[0]
            named = target.with_name(target.name + suffixes.get(suffix, suffix))
            jobs[number] = replace(job, target=named)
    refuse_collisions(jobs)
    return replace(plan, jobs=jobs)


def _denoise(command: PictureCommand, options: PictureOptions) -> None:
    """Run `denoise` over pictures or over CT slices, by what the inputs are."""
    from deepgsr_cli.cli.ct_denoise import are_slices, run_slices

    assert isinstance(options, Denoise)
    if are_slices(options.inputs):
        run_slices(options)
        return
    for name in ("window", "pixel_mm"):
        if getattr(options, name) != getattr(Denoise, name):
            raise UsageError(f"--{name.replace('_', '-')}: is for CT slices; leave it out for pictures")
    run(command, options)


class UpscaleCommand(PictureCommand):
    """The command that enlarges."""

    done = "enlarged"

    def open(self, options: PictureOptions, plan: Plan) -> Callable[[], Restoration]:
        assert isinstance(options, Upscale)
        return partial(_open_enlargement, options)


def _of_quality(result: Result) -> str:
    """Return what is known of the compression of a picture, in words; empty if that was not asked."""
    if "quality_from" not in result.facts:
        return result.note
    origins = {"file": "as the file says", "pixels": "found in the pixels", "option": "as given"}
    text = f"quality {result.facts['quality']}, {origins[result.facts['quality_from']]}"
    return f"{text}; {result.note}" if result.note else text


def _open(task: str, options: PictureOptions) -> Restoration | Preview:
    """Make the work of a run of a picture command."""
    from deepgsr_cli.pictures.jobs import Decompression, Preview, Restoration

    restoration = (Decompression if task == "dejpeg" else Restoration)(*_settings(task, options))
    return Preview(restoration) if options.shows_preview() else restoration


def _open_enlargement(options: Upscale) -> Restoration:
    """Make the work of a run of upscale."""
    from deepgsr_cli.pictures.jobs import Enlargement

    return Enlargement(*_settings("upscale", options), options.scale, cast("Resampling", options.method))


def _settings(task: str, options: PictureOptions) -> tuple[Restorer, FileOptions]:
    """Return the model of a task, and what is done with each file."""
    from deepgsr_cli.pictures.jobs import FileOptions
    from deepgsr_cli.pictures.restorer import Restorer

    running = run_options(options, options, options.sharing)
    restorer = Restorer(
        options.weights, running, silent if options.quiet else say, task, options.kind_of_noise()
    )
    files = FileOptions(
        options.level(),
        options.strength,
        options.reference,
        parse_format(options.format),
        options.white,
        options.max_pixels,
    )
    return restorer, files


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    for name, (options, examples) in COMMANDS.items():
        command = UpscaleCommand(name) if name == "upscale" else PictureCommand(name)
        about = "" if name == "upscale" else _KEPT
        do = partial(_denoise, command) if name == "denoise" else partial(run, command)
        add(app, name, options, do, examples=examples, about=about)
