"""Commands that measure methods."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.command import add
from deepgsr_cli.cli.options import (
    Arithmetic,
    Device,
    Json,
    Offline,
    Quiet,
    ReportFile,
    Seed,
    TileOptions,
    Weights,
    check_csv,
    check_report,
    parse_precision,
    parse_tile,
)
from deepgsr_cli.cli.output import finite, print_table, progress_bar, say, silent
from deepgsr_cli.cli.phase import Iterations, Restarts
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.files import clean_up
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.evaluation.records import Score

app = typer.Typer(no_args_is_help=True, help="Measure methods on test pictures.")


def _several(flag: str, help: str, default: str | bool = False) -> Any:
    """An option that may be given several times."""
    return typer.Option(flag, help=f"{help}; may be given several times.", show_default=default)


Slices = Annotated[Path, typer.Option(help="Folder of CT slices: DICOM, or 16-bit PNG of HU + 1024.")]
Pairs = Annotated[Path, typer.Option(help="Folder of pairs, in rain/ and clean/ under the same names.")]
Masks = Annotated[Path, typer.Option(help="Folder of metal shapes: PNG, not zero is metal.")]
Denoisers = Annotated[list[str] | None, _several("--method", "deepgsr, restore, bm3d, nlm or tv", "deepgsr")]
Derainers = Annotated[list[str] | None, _several("--method", "deepgsr or restore", "deepgsr")]
Demosaickers = Annotated[
    list[str] | None,
    _several("--method", "deepgsr, bilinear, malvar, or denoise after deepgsr", "all but denoise"),
]
Reconstructions = Annotated[
    list[str] | None, _several("--method", "deepgsr, fbp, sirt, cgls or tv", "deepgsr")
]
SliceDenoisers = Annotated[list[str] | None, _several("--method", "deepgsr, bm3d, nlm or tv", "deepgsr")]
Doses = Annotated[list[float] | None, _several("--dose", "Share of the full dose", "0.25")]
Kernels = Annotated[
    list[str] | None,
    _several("--filter", "Window on the ramp: ram-lak, shepp-logan, cosine or hann", "hann, cosine, ram-lak"),
]
LevelHu = Annotated[
    float | None,
    typer.Option("--sigma", help="Noise level in HU that deepgsr is told.", show_default="estimated"),
]
Reductions = Annotated[list[str] | None, _several("--method", "deepgsr, li or nmar", "all")]
Retrievals = Annotated[
    list[str] | None, _several("--method", "red, red-tv, red-bm3d, unrolled, er, hio or raar", "red")
]
Sigmas = Annotated[list[float], _several("--sigma", "Noise level on the 0-255 scale")]
MosaicSigmas = Annotated[
    list[float] | None, _several("--sigma", "Noise level of the mosaics on the 0-255 scale", "0")
]
Views = Annotated[list[int] | None, _several("--views", "Views over a full turn", "60")]
Photons = Annotated[list[float] | None, _several("--photons", "Photons a ray, inf for no noise", "inf")]
Alphas = Annotated[list[float] | None, _several("--alpha", "Noise level, as of phase")]
Snrs = Annotated[list[float] | None, _several("--snr", "Signal-to-noise ratio of the intensities in dB")]
Scales = Annotated[list[int] | None, _several("--scale", "2, 3 or 4", "all")]
Enlargers = Annotated[list[str] | None, _several("--method", "deepgsr, bicubic or lanczos", "deepgsr")]
Gray = Annotated[bool, typer.Option("--gray", help="Convert colour to luma.")]
Qualities = Annotated[list[int], _several("--quality", "JPEG quality, 1 to 100")]
Luma = Annotated[bool, typer.Option("--gray", help="Compress the luma of colour pictures.")]
FullChroma = Annotated[
    bool, typer.Option("--full-chroma", help="Compress colour as 4:4:4, and not as 4:2:0.")
]
Clipped = Annotated[
    bool, typer.Option("--clipped", help="Clip the noisy pictures and round them, as 8-bit files do.")
]
ImageOnly = Annotated[
    bool, typer.Option("--image-only", help="Correct the reconstruction, as if there were no sinogram.")
]
Metal = Annotated[str, typer.Option(help="titanium, iron or gold.")]
Flux = Annotated[float, typer.Option(help="Photons a ray that leave the source.")]
Threshold = Annotated[float, typer.Option("--metal-threshold", help="CT number in HU above which is metal.")]
Ramp = Annotated[str, typer.Option(help="Window on the ramp of the image that --image-only corrects.")]
Model = Annotated[
    str,
    typer.Option(
        help="fourier (oversampled twice), cdp (4 masks of uniform phase) or cdp1 (1 quaternary mask)."
    ),
]
Size = Annotated[int, typer.Option(help="Side in pixels the pictures are resized to.")]


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    limit: Annotated[int | None, typer.Option(help="Only the first pictures.", show_default="all")] = None


@dataclass(frozen=True, kw_only=True)
class _Slices:
    limit: Annotated[int | None, typer.Option(help="Only the first slices.", show_default="all")] = None


@dataclass(frozen=True, kw_only=True)
class _Files:
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the figures of each to this .csv file.", show_default=False),
    ] = None
    report: ReportFile = None


@dataclass(frozen=True, kw_only=True)
class _Network:
    weights: Weights = None
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class _Precision:
    precision: Arithmetic = "fp32"


@dataclass(frozen=True, kw_only=True)
class _Seed:
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class _Printing:
    json_lines: Json = False
    offline: Offline = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Denoise(_Pictures, _Files, _Network, _Precision, TileOptions, _Seed, _Printing):
    """Add noise to clean pictures, remove it by each method, and print PSNR and SSIM with the protocol."""

    data: Annotated[Path, typer.Option(help="Folder of clean pictures.")]
    sigmas: Sigmas
    method_names: Denoisers = None
    gray: Gray = False
    clipped: Clipped = False


@dataclass(frozen=True, kw_only=True)
class Derain(_Pictures, _Files, _Network, _Precision, TileOptions, _Printing):
    """Remove rain from pictures whose clean version is there, and print PSNR and SSIM with the protocol."""

    data: Pairs
    method_names: Derainers = None


@dataclass(frozen=True, kw_only=True)
class Dejpeg(_Pictures, _Files, _Network, _Precision, TileOptions, _Printing):
    """Compress clean pictures as JPEG, restore them, and print PSNR, SSIM and PSNR-B with the protocol."""

    data: Annotated[Path, typer.Option(help="Folder of clean pictures.")]
    qualities: Qualities
    gray: Luma = False
    full_chroma: FullChroma = False


@dataclass(frozen=True, kw_only=True)
class Demosaick(_Pictures, _Files, _Network, _Precision, TileOptions, _Seed, _Printing):
    """Make Bayer mosaics of clean pictures, with noise or without, demosaick them by each method, and print
    PSNR and SSIM with the protocol.
    """

    data: Annotated[Path, typer.Option(help="Folder of clean pictures in colour.")]
    sigmas: MosaicSigmas = None
    method_names: Demosaickers = None


@dataclass(frozen=True, kw_only=True)
class CtRecon(_Slices, _Files, _Network, _Precision, _Seed, _Printing):
    """Simulate sparse scans of CT slices, reconstruct them by each method, and print the figures with the
    protocol.
    """

    data: Slices
    views: Views = None
    photons: Photons = None
    method_names: Reconstructions = None


@dataclass(frozen=True, kw_only=True)
class CtDenoise(_Slices, _Files, _Network, _Precision, _Seed, _Printing):
    """Simulate slices of less dose, denoise them by each method, and print the figures with the protocol."""

    data: Slices
    doses: Doses = None
    filters: Kernels = None
    level_hu: LevelHu = None
    method_names: SliceDenoisers = None


@dataclass(frozen=True, kw_only=True)
class Mar(_Slices, _Files, _Network, _Precision, _Seed, _Printing):
    """Put metal into CT slices by simulation, reduce its artifacts by each method, and print the figures by
    the metal's size, with the protocol.
    """

    data: Slices
    masks: Masks
    method_names: Reductions = None
    image_only: ImageOnly = False
    metal: Metal = "titanium"
    photons: Flux = 2e7
    filter: Ramp = "ram-lak"
    threshold_hu: Threshold = 2500.0


@dataclass(frozen=True, kw_only=True)
class Phase(_Pictures, _Files, _Network, _Seed, _Printing):
    """Simulate diffraction patterns of pictures, retrieve them by each method, and print PSNR and SSIM with
    the protocol.

    Where unrolled is among the methods, --weights are its weights, and red has the shipped ones.
    """

    data: Annotated[Path, typer.Option(help="Folder of true pictures.")]
    model: Model = "cdp"
    alphas: Alphas = None
    snrs_db: Snrs = None
    method_names: Retrievals = None
    size: Size = 128
    restarts: Restarts = None
    iterations: Iterations = None


@dataclass(frozen=True, kw_only=True)
class Upscale(_Pictures, _Files, _Network, _Precision, TileOptions, _Printing):
    """Reduce pictures, enlarge them again by each method, and print PSNR and SSIM with the protocol."""

    data: Annotated[Path, typer.Option(help="Folder of pictures.")]
    scales: Scales = None
    method_names: Enlargers = None


Options = Denoise | Derain | Dejpeg | Upscale | CtRecon | CtDenoise | Mar | Phase | Demosaick
# Options of the command for each task of `tasks.evaluation_of`, and an example of them.
COMMANDS: dict[str, tuple[type[Options], str]] = {
    "denoise": (Denoise, "--data BSD68 --sigma 15 --sigma 25 --sigma 50"),
    "derain": (Derain, "--data Rain100L --report rain.html"),
    "dejpeg": (Dejpeg, "--data Classic5 --quality 10 --quality 20 --quality 30 --quality 40"),
    "upscale": (Upscale, "--data Set5 --method deepgsr --method lanczos"),
    "demosaick": (Demosaick, "--data Kodak24 --sigma 0 --sigma 10"),
    "ct-recon": (CtRecon, "--data slices --views 60 --photons inf --photons 1e5 --method tv"),
    "ct-denoise": (CtDenoise, "--data slices --dose 0.25 --method deepgsr --method bm3d"),
    "mar": (Mar, "--data slices --masks metals --method li --method nmar"),
    "phase": (Phase, "--data photos --model cdp --alpha 27 --method red --method er"),
}


def _settings(options: Options, record: type) -> dict[str, Any]:
    """Options that a record has a field for, parsed; those without a value are left to its defaults."""
    parsers = {"precision": parse_precision, "tile": parse_tile}
    names = [field.name for field in fields(record) if getattr(options, field.name, None) not in (None, [])]
    values = {name: parsers.get(name, lambda value: value)(getattr(options, name)) for name in names}
    return {name: tuple(dict.fromkeys(v)) if isinstance(v, list) else v for name, v in values.items()}


def _evaluate(task: str, options: Options) -> None:
    """Run an evaluation; print its protocol and means, and write what was asked for."""
    from deepgsr_cli.compute.device import select_device, wait
    from deepgsr_cli.compute.memory import keep_freed_memory
    from deepgsr_cli.evaluation.run import scores
    from deepgsr_cli.evaluation.summary import Items, means, record, write_csv
    from deepgsr_cli.tasks import evaluation_of

    keep_freed_memory()
    check_report(options.report)
    check_csv(options.csv_file)
    clean_up([path for path in (options.report, options.csv_file) if path is not None], sparing=True)
    tell = silent if options.quiet else say
    evaluation = evaluation_of(task)(**_settings(options, evaluation_of(task)), notify=tell)
    methods = evaluation.methods  # a package that is missing is said first
    facts = evaluation.protocol()
    items = Items(evaluation)
    found: list[Score] = []
    with progress_bar(len(evaluation) * len(methods), f"eval {task}", options.quiet) as advance:
        for score in scores(
            evaluation,
            keep=items if options.report is not None else None,
            wait=partial(wait, select_device(options.device)),
        ):
            found.append(score)
            advance(len(found), evaluation.item(score.labels).name)
            if options.json_lines:
                typer.echo(json.dumps(_finite(record(evaluation, score))))
    averages = means(evaluation, found)
    if remark := evaluation.remark(found):
        tell(remark)
    if options.csv_file is not None:
        write_csv(options.csv_file, evaluation, found)
    if options.json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [_finite(mean.record()) for mean in averages]}))
    elif not options.quiet:
        _print(facts, evaluation.tables(averages))
    if options.report is not None:
        notice = {"notice": NOTICE} if evaluation.medical else {}
        items.write(options.report, task, {**facts, **notice}, averages)
    if evaluation.failures:
        for failure in evaluation.failures if options.quiet else ():  # else each was told where it was read
            say(failure, style="red")
        say(
            f"{counted(len(evaluation.failures), 'file')} could not be used, and the means are of the others",
            style="red",
        )
        raise typer.Exit(1)


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON takes it: what is infinite or not known is None."""
    return {name: finite(value) for name, value in record.items()}


def _print(facts: dict[str, str], tables: list[list[list[str]]]) -> None:
    """Print a protocol and tables on stdout, an empty line before each table."""
    width = max(map(len, facts))
    for label, text in facts.items():
        typer.echo(f"{label:<{width}} {text}")
    for header, *rows in tables:
        typer.echo("")
        print_table(header, rows)


for task, (options, example) in COMMANDS.items():
    add(app, task, options, partial(_evaluate, task), examples=[f"deepgsr eval {task} {example}"])


def register(parent: typer.Typer) -> None:
    """Add the commands to an app, as a group."""
    parent.add_typer(app, name="eval")
