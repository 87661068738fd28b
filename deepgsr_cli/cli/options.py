"""Options that mean the same everywhere, and their values parsed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.compute.tiling import Precision


Weights = Annotated[
    str | None,
    typer.Option(help="Weights: a NAME, a FILE, or hf://owner/repo[@rev]/file.", show_default="shipped"),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.")]
Arithmetic = Annotated[str, typer.Option(help="Arithmetic: fp32, bf16 or fp16.")]
Tile = Annotated[
    str, typer.Option(help="Tile side in pixels, 0 for the whole picture, auto to choose by free memory.")
]
Overlap = Annotated[
    int | None,
    typer.Option(help="Pixels that neighbouring tiles share.", show_default="what the model needs"),
]
Batch = Annotated[int | None, typer.Option(help="Tiles at once.", show_default="by free memory")]
Ensemble = Annotated[
    bool,
    typer.Option(
        "--ensemble", help="Average over eight orientations: a little better, and eight times the time."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network for weights.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of unexpected errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout, nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write a report to this .html or .json file.", show_default=False),
]


def parse_sigma(text: str) -> float | None:
    """Noise level, None for auto."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 255:
        raise UsageError(f"--sigma {text}: give a number from 0 to 255, or auto to have it estimated")
    return value


def parse_precision(text: str) -> Precision:
    if text not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"--precision {text}: give fp32, bf16 or fp16")
    return cast("Precision", text)


def parse_tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--tile {text}: give a number of pixels, 0 for the whole picture, or auto")
    return int(text)


def parse_format(text: str | None) -> str | None:
    from deepgsr_cli.formats.image import SUFFIXES

    if text is None:
        return None
    kinds = {suffix[1:]: kind for suffix, kind in SUFFIXES.items()}
    if text.lower() not in kinds:
        raise UsageError(f"--format {text}: known are {', '.join(kinds)}")
    return kinds[text.lower()]


def check_report(path: Path | None) -> None:
    """Refuse a report that could not be written before the work is done rather than after."""
    if path is not None and path.suffix.lower() not in (".html", ".json"):
        raise UsageError(f"--report {path}: give a file that ends in .html or .json")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--report {path}: there is no folder {path.parent}; make it first")
