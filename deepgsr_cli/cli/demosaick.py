"""The command that finds the colours of Bayer mosaics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    FILES,
    MEASUREMENT,
    QUALITY,
    BatchOptions,
    Format,
    MaxPixels,
    ModelOptions,
    Reference,
    TileOptions,
    check_pictures,
    check_reference,
    flag,
    option,
    parse_format,
    parse_sigma,
    run_options,
)
from deepgsr_cli.cli.output import say, silent
from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Plan
    from deepgsr_cli.jobs.work import Facts, Result
    from deepgsr_cli.pictures.mosaic_jobs import Demosaicking


@dataclass(frozen=True, kw_only=True)
class Demosaick(ModelOptions, TileOptions, BatchOptions):
    """Find the colours of Bayer mosaics: what a camera's sensor records."""

    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Mosaics: PNG, TIFF, PGM, NPY or raw files of cameras; folders of them, globs, or - for"
            " standard input."
        ),
    ]
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            panel=FILES,
            help="File, folder, or - for standard output.",
            default="<name>_demosaick beside the input, .tif of raw files, .png of PGM and NPY",
        ),
    ] = None
    reference: Reference = None
    format: Format = None
    max_pixels: MaxPixels = 2**29
    pattern: Annotated[
        str | None,
        option(
            panel=MEASUREMENT,
            help="Colours of the first 2 x 2 pixels, row by row: RGGB, GRBG, GBRG or BGGR.",
            default="RGGB; a raw file's own",
        ),
    ] = None
    black: Annotated[
        float | None, option(panel=MEASUREMENT, help="Stored value of black.", default="0; a raw file's own")
    ] = None
    white: Annotated[
        float | None,
        option(
            panel=MEASUREMENT,
            help="Stored value of white.",
            default="the largest of the file's bits, 1 of floats; a raw file's own",
        ),
    ] = None
    sigma: Annotated[
        str,
        option(
            panel=QUALITY,
            help="Standard deviation of noise to remove as well, on a scale where white is 255, or auto to"
            " estimate it.",
        ),
    ] = "0"
    method: Annotated[str, option(panel=QUALITY, help="Method: deepgsr, bilinear or malvar.")] = "deepgsr"
    linear: Annotated[
        bool,
        flag("--linear", panel=FILES, help="Write raw files proportional to light, not encoded as sRGB."),
    ] = False

    def check(self) -> None:
        for name in ("black", "white"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"--{name} {value:g}: give a number")
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: give 1 or more")
        if self.json_lines and self.output == "-":
            raise UsageError("--json and -o - would both use standard output; give -o a file")
        check_reference(self.reference)
        super().check()


@dataclass(frozen=True)
class DemosaickCommand(Command[Demosaick, "Plan"]):
    """The command that demosaicks."""

    name: str = "demosaick"
    done = "demosaicked"

    def plan(self, options: Demosaick) -> Plan:
        from deepgsr_cli.formats.mosaics import SUFFIXES, check_pattern
        from deepgsr_cli.jobs.plan import STREAM, plan, refuse_collisions, told_apart

        parse_sigma(options.sigma)
        if options.pattern is not None:
            check_pattern(options.pattern)
        found = plan(options.inputs, options.output, self.name, SUFFIXES, kind="mosaics")
        named = options.output not in (None, STREAM) and len(found.jobs) == 1
        jobs = [
            job
            if job.target is None or (named and job.target == Path(str(options.output)))
            else replace(job, target=_picture_path(job.target))
            for job in found.jobs
        ]
        jobs, apart = told_apart(jobs)
        check_pictures((job.target for job in jobs), parse_format(options.format))
        refuse_collisions(jobs)
        return replace(found, jobs=jobs, notes=[*found.notes, *apart])

    def open(self, options: Demosaick, plan: Plan) -> Callable[[], Demosaicking]:
        return partial(_open, options)

    def describe(self, options: Demosaick, facts: Facts) -> str:
        return f"CPSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}" if "psnr" in facts else ""

    def remark(self, result: Result) -> str:
        return result.note


def _picture_path(target: Path) -> Path:
    """Where a picture goes that is made of a mosaic: of raw files to .tif, of PGM and NPY to .png."""
    from deepgsr_cli.formats.image import SUFFIXES
    from deepgsr_cli.formats.mosaics import RAW_SUFFIXES

    suffix = target.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return target.with_suffix(".tif")
    return target if suffix in SUFFIXES and suffix != ".pgm" else target.with_suffix(".png")


def _open(options: Demosaick) -> Demosaicking:
    """Make the work of a run."""
    from deepgsr_cli.pictures.demosaicking import Demosaicker
    from deepgsr_cli.pictures.mosaic_jobs import Demosaicking, MosaicOptions

    running = run_options(options, options, options.sharing)
    notify = silent if options.quiet else say
    files = MosaicOptions(
        options.pattern,
        options.black,
        options.white,
        parse_sigma(options.sigma),
        options.linear,
        options.reference,
        parse_format(options.format),
        options.max_pixels,
    )
    return Demosaicking(Demosaicker(options.weights, running, notify, options.method), files)


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    add(
        app,
        "demosaick",
        Demosaick,
        partial(run, DemosaickCommand()),
        examples=(
            "deepgsr demosaick examples/cat_mosaic.png --pattern RGGB -o cat.png",
            "deepgsr demosaick photos -o developed --skip-existing --report developed.html",
        ),
        about="Depth, orientation and resolution are kept, and no input is overwritten.",
    )
