"""Options, each written once, and the groups of them that commands are made of.

A group is a frozen dataclass; a command's options are a class that inherits the groups it has. `command.add`
makes the command of it. Values are checked where they are parsed, before torch is imported.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from deepgsr_cli.ct import MOST_LEVEL_HU
from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import AskedPrecision
    from deepgsr_cli.pictures.restorer import Noise, RunOptions

MOST_JOBS = 1024
# The panels of a help, in order. An option without a panel comes first.
FILES, MEASUREMENT, QUALITY, SPEED, BATCH, OUTPUT = PANELS = (
    "Input and output",
    "Measurement",
    "Quality",
    "Speed",
    "Batch",
    "Output style",
)


def option(*names: str, panel: str, help: str, default: str | None = None, metavar: str | None = None) -> Any:
    """Describe an option of a command.

    Args:
        names: As "--output", "-o"; by default the field's name.
        panel: Of `PANELS`.
        help: What it is, with its unit.
        default: What happens without it, where its default value does not say so; "" shows nothing.
        metavar: What stands for its value, if not its type.
    """
    shown = default is None or (default or False)
    return typer.Option(*names, help=help, show_default=shown, metavar=metavar, rich_help_panel=panel)


def flag(*names: str, panel: str, help: str) -> Any:
    """Describe an option without a value."""
    return typer.Option(*names, help=help, metavar="", rich_help_panel=panel)


Weights = Annotated[
    str | None,
    option(
        panel=QUALITY,
        help="Weights: a NAME, a FILE, or hf://owner/repo/file, @rev after repo at will.",
        default="shipped",
    ),
]
Offline = Annotated[bool, flag("--offline", panel=QUALITY, help="Do not use the network for weights.")]
Device = Annotated[str, option(panel=SPEED, help="Device: auto, cpu, cuda, cuda:N or mps.")]
Arithmetic = Annotated[
    str,
    option(
        panel=SPEED,
        help="Arithmetic: fp32, bf16, fp16, or auto: bf16 where there are units for it, else fp32.",
    ),
]
Tile = Annotated[
    str,
    option(panel=SPEED, help="Tile side in pixels, 0 for the whole picture, auto to choose by free memory."),
]
Overlap = Annotated[
    int | None,
    option(panel=SPEED, help="Pixels that neighbouring tiles share.", default="what the model needs"),
]
Batch = Annotated[int | None, option(panel=SPEED, help="Tiles at once.", default="by free memory")]
Ensemble = Annotated[
    bool,
    flag(
        "--ensemble",
        panel=QUALITY,
        help="Average over eight orientations: a little better, and eight times the time.",
    ),
]
Seed = Annotated[int, option(panel=QUALITY, help="Seed of everything random.")]

Jobs = Annotated[str, option(panel=SPEED, help="Processes side by side, or auto: one a GPU, or a core.")]
Cluster = Annotated[
    str | None,
    option(
        panel=SPEED,
        help="Do files on a Dask cluster: tcp://host:8786, a scheduler file, or local:N.",
        default="",
    ),
]
SkipExisting = Annotated[bool, flag("--skip-existing", panel=BATCH, help="Pass over finished files.")]
Overwrite = Annotated[bool, flag("--overwrite", panel=BATCH, help="Replace existing outputs.")]
Shard = Annotated[str | None, option(panel=BATCH, help="Do part i of n, as 3/8, for job arrays.", default="")]
DryRun = Annotated[bool, flag("--dry-run", panel=BATCH, help="List what would be done.")]
Strict = Annotated[
    bool, flag("--strict", panel=BATCH, help="Exit with 1 where a result is written with a warning.")
]
ReportFile = Annotated[
    Path | None,
    option("--report", panel=FILES, help="Write a report to this .html or .json file.", default=""),
]
Json = Annotated[
    bool, flag("--json", panel=OUTPUT, help="Print one JSON object a line on stdout, nothing else.")
]
Quiet = Annotated[bool, flag("--quiet", "-q", panel=OUTPUT, help="Print errors only, and --json.")]
Verbose = Annotated[
    bool,
    flag(
        "--verbose",
        "-v",
        panel=OUTPUT,
        help="Name files passed over, and show tracebacks of unexpected errors.",
    ),
]

PictureInputs = Annotated[
    list[str], typer.Argument(help="Pictures, folders of pictures, globs, or - for standard input.")
]
PictureOutput = Annotated[
    str | None,
    option(
        "--output",
        "-o",
        panel=FILES,
        help="File, folder, or - for standard output.",
        default="<name>_<command> beside the input",
    ),
]
Reference = Annotated[
    Path | None,
    option(panel=FILES, help="Clean picture, or folder of them: print PSNR and SSIM.", default=""),
]
Format = Annotated[
    str | None,
    option(
        panel=FILES, help="Output format: png, jpeg, tiff, webp, gif, bmp, jp2 or ppm.", default="by suffix"
    ),
]
White = Annotated[float, option(panel=FILES, help="Value of white in floating point files.")]
MaxPixels = Annotated[int, option(panel=FILES, help="Most pixels a file may have.")]
Preview = Annotated[
    bool,
    flag(
        "--preview",
        panel=FILES,
        help="Write one PNG of a crop at several levels or strengths instead, to choose by.",
    ),
]
Share = Annotated[float, option(panel=QUALITY, help="Share of the correction applied, 0 to 1.")]

SliceInputs = Annotated[
    list[str],
    typer.Argument(
        help="CT slices, DICOM files or folders; or sinograms: .npy, .npz, .h5, .mat or .tif; globs too."
    ),
]
SliceOutput = Annotated[str, option("--output", "-o", panel=FILES, help="Folder, or file for one slice.")]
GeometryFile = Annotated[
    Path | None,
    option(panel=MEASUREMENT, help="Geometry of measured sinograms, .toml or .json.", default=""),
]
Values = Annotated[
    str | None,
    option(
        panel=MEASUREMENT,
        help="What sinograms hold: integrals of attenuation, counts, or transmission, which is I / I0.",
        default="told by the file",
    ),
]
PixelMm = Annotated[
    float | None,
    option(panel=MEASUREMENT, help="Pixel size in mm of DICOM files that do not state it.", default=""),
]
SliceFormat = Annotated[
    str | None,
    option(panel=FILES, help="Output format: dicom, or tiff or npy of float32 HU.", default="dicom"),
]
SliceBatch = Annotated[
    int | None,
    option(panel=SPEED, help="Slices computed at once.", default="by free memory; fewer on the CPU"),
]
Window = Annotated[
    str,
    option(panel=FILES, help="Centre,width in HU of the pictures in the report; no result depends on it."),
]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of every command that makes files of files.

    The output's option is not here, as each kind of file has its own words for it.
    """

    jobs: Jobs = "1"
    cluster: Cluster = None
    skip_existing: SkipExisting = False
    overwrite: Overwrite = False
    shard: Shard = None
    dry_run: DryRun = False
    report: ReportFile = None
    json_lines: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    def check(self) -> None:
        """Raise a UsageError for values that cannot be; groups that add options add to it."""
        _check_streams(getattr(self, "inputs", None) or (), getattr(self, "output", None))
        if self.skip_existing and self.overwrite:
            raise UsageError("--skip-existing and --overwrite exclude each other; give one")
        parse_jobs(self.jobs)
        if self.cluster is not None:
            parse_cluster(self.cluster)
            if self.jobs != "1":
                raise UsageError("--jobs and --cluster exclude each other; give one")
        check_report(self.report)

    @property
    def sharing(self) -> int:
        """Processes that share the memory of a device, in the options that one of them has."""
        return parse_jobs(self.jobs) or 1


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of every command that runs a model."""

    weights: Weights = None
    offline: Offline = False
    device: Device = "auto"
    precision: Arithmetic = "auto"


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How a picture is cut into what the model sees at once."""

    tile: Tile = "auto"
    overlap: Overlap = None
    batch: Batch = None
    ensemble: Ensemble = False


def run_options(model: ModelOptions, tiles: TileOptions, sharing: int) -> RunOptions:
    """Make of the options how a model runs, in each of so many processes that share a device.

    Raises:
        UsageError: A precision or a tile that cannot be, or a device that is not there, before anything is
            written: nothing may be found that a device is needed for.
    """
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.pictures.restorer import RunOptions

    select_device(model.device)
    return RunOptions(
        model.device,
        parse_precision(model.precision),
        parse_tile(tiles.tile),
        tiles.overlap,
        tiles.batch,
        model.offline,
        tiles.ensemble,
        sharing,
    )


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ModelOptions, TileOptions, BatchOptions):
    """Options of the commands that restore pictures."""

    inputs: PictureInputs
    output: PictureOutput = None
    reference: Reference = None
    format: Format = None
    white: White = 1.0
    max_pixels: MaxPixels = 2**29
    strength: Share = 1.0

    def check(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength:g}: give 0 (nothing) to 1 (all)")
        if not 0 < self.white < math.inf:
            raise UsageError(f"--white {self.white:g}: give the value of white, above 0")
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: give 1 or more")
        if self.json_lines and self.output == "-":
            raise UsageError("--json and -o - would both use standard output; give -o a file")
        check_reference(self.reference)
        super().check()

    def shows_preview(self) -> bool:
        """Whether a preview is written instead of a result."""
        return False

    def level(self) -> float | None:
        """What the network is told of the degradation; None to estimate it, or if it is told nothing."""
        return None

    def result_suffixes(self) -> dict[str, str]:
        """Suffixes of results without a name of their own, where they differ from those of the inputs."""
        return {}

    def kind_of_noise(self) -> Noise:
        """Which noise the pictures have, where that matters; "auto" to look."""
        return "auto"


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(PictureOptions):
    """Options of the commands whose results at several levels or strengths can be compared first."""

    preview: Preview = False

    def check(self) -> None:
        if self.preview and (self.reference is not None or self.format is not None):
            raise UsageError("--preview writes a PNG beside no result: leave --reference and --format out")
        super().check()

    def shows_preview(self) -> bool:
        return self.preview


@dataclass(frozen=True, kw_only=True)
class SliceOptions(ModelOptions, BatchOptions):
    """Options of the commands over CT slices."""

    inputs: SliceInputs
    output: SliceOutput
    format: SliceFormat = None
    strict: Strict = False
    window: Window = "40,400"
    pixel_mm: PixelMm = None
    batch: SliceBatch = None

    def check(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= MOST_JOBS:
            raise UsageError(f"--batch {self.batch}: give a number of slices from 1 to {MOST_JOBS}")
        if self.batch is not None and (self.jobs != "1" or self.cluster is not None):
            raise UsageError("--batch is for one process; leave it out with --jobs and --cluster")
        if self.pixel_mm is not None and not 0 < self.pixel_mm < math.inf:
            raise UsageError(f"--pixel-mm {self.pixel_mm:g}: give a size in mm, above 0")
        parse_window(self.window)
        parse_precision(self.precision)
        super().check()


def _check_streams(inputs: Collection[str], output: str | None) -> None:
    """Refuse standard input and output that are closed."""
    if "-" in inputs and sys.stdin is None:
        raise UsageError("- stands for standard input, which is closed; name a file")
    if output == "-" and sys.stdout is None:
        raise UsageError("-o -: standard output is closed; give a file")


def parse_sigma(text: str) -> float | None:
    """Noise level, None for auto."""
    return _number_or_auto("--sigma", text, (0, 255), "estimated")


def parse_level_hu(text: str) -> float | None:
    """Noise level of CT in HU, None for auto."""
    return _number_or_auto("--sigma", text, (0, MOST_LEVEL_HU), "estimated", " HU")


def parse_quality(text: str) -> float | None:
    """Quality of a JPEG, None for auto."""
    return _number_or_auto("--quality", text, (1, 100), "found")


def _number_or_auto(
    option: str, text: str, bounds: tuple[float, float], done: str, unit: str = ""
) -> float | None:
    """Value of an option that is a number within bounds or auto, None then, by which it is done."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    low, high = bounds
    if not low <= value <= high:
        raise UsageError(
            f"{option} {text}: give a number from {low:g} to {high:g}{unit}, or auto to have it {done}"
        )
    return value


def parse_precision(text: str) -> AskedPrecision:
    """Precision, or "auto", which is settled where the model runs."""
    if text not in ("fp32", "bf16", "fp16", "auto"):
        raise UsageError(f"--precision {text}: give fp32, bf16, fp16 or auto")
    return cast("AskedPrecision", text)


def parse_tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--tile {text}: give a number of pixels, 0 for the whole picture, or auto")
    return int(text)


def parse_jobs(text: str) -> int | None:
    """Number of processes, None for auto."""
    if text == "auto":
        return None
    if not (text.isdecimal() and 1 <= int(text) <= MOST_JOBS):
        raise UsageError(f"--jobs {text}: give a number of processes from 1 to {MOST_JOBS}, or auto")
    return int(text)


def parse_cluster(text: str) -> int | Path | str:
    """Number of workers to start on this machine, the scheduler's file, or its address."""
    if match := re.fullmatch(r"local:(\d+)", text, re.ASCII):
        if 1 <= int(match[1]) <= MOST_JOBS:
            return int(match[1])
    elif re.fullmatch(r"([a-z]+://)?[^/]+:\d+/?", text):
        return text
    elif Path(text).is_file():
        return Path(text)
    raise UsageError(
        f"--cluster {text}: give a scheduler's address, as tcp://host:8786, its file, or local:N for N"
        " workers on this machine"
    )


def parse_window(text: str) -> tuple[float, float]:
    """Centre and width in HU."""
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        centre = width = math.nan
    if not (math.isfinite(centre) and 0 < width < math.inf):
        raise UsageError(f"--window {text}: give centre,width in HU with a width above 0, as 40,400")
    return centre, width


def parse_format(text: str | None) -> str | None:
    from deepgsr_cli.formats.image import WRITTEN_SUFFIXES

    if text is None:
        return None
    kinds = {suffix[1:]: kind for suffix, kind in WRITTEN_SUFFIXES.items()}
    if text.lower() not in kinds:
        raise UsageError(f"--format {text}: known are {', '.join(kinds)}")
    return kinds[text.lower()]


def check_report(path: Path | None) -> None:
    """Refuse a report that could not be written before the work is done rather than after."""
    check_suffix("--report", path, ".html", ".json")
    check_place("--report", path)


def check_csv(path: Path | None) -> None:
    """Refuse a table that could not be written before the work is done rather than after."""
    check_place("--csv", path)
    check_suffix("--csv", path, ".csv")


def check_suffix(name: str, path: Path | None, *suffixes: str) -> None:
    """Refuse another kind of file, which may be one that is not to be replaced, as a picture."""
    if path is not None and path.suffix.lower() not in suffixes:
        raise UsageError(f"{name} {path}: give a file that ends in {' or '.join(suffixes)}")


def check_place(name: str, path: Path | None) -> None:
    """Refuse a file of an option that could not be written before the work is done rather than after."""
    if path is not None and path.is_dir():
        raise UsageError(f"{name} {path}: is a folder; give a file")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{name} {path}: there is no folder {path.parent}; make it first")


def check_pictures(targets: Iterable[Path | None], format: str | None = None) -> None:
    """Refuse results that no picture format is written by, or another than the one that is asked for, before
    the work is done rather than after."""
    from deepgsr_cli.formats.image import WRITTEN_SUFFIXES

    for target in filter(None, targets):
        kind = WRITTEN_SUFFIXES.get(target.suffix.lower())
        if format is not None:
            if kind not in (None, format):
                raise UsageError(f"-o {target} and --format {format.lower()} name two formats; give one")
        elif not target.suffix:
            advice = f"for a folder, give {target}/, or for a file a suffix, as {target}.png"
            raise UsageError(f"-o {target}: is the name of a file; {advice}")
        elif kind is None:
            known = ", ".join(WRITTEN_SUFFIXES)
            raise UsageError(f"{target}: no picture format is written by this name; use one of {known}")


def check_reference(path: Path | None) -> None:
    """Refuse a reference that is not there."""
    if path is not None and not path.exists():
        raise UsageError(f"--reference {path}: no such file or folder")
