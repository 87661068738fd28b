"""Commands that restore picture files."""

from __future__ import annotations

import json
import math
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.options import (
    Arithmetic,
    Batch,
    Device,
    Ensemble,
    Json,
    Offline,
    Overlap,
    Quiet,
    ReportFile,
    Tile,
    Verbose,
    Weights,
    check_report,
    parse_format,
    parse_precision,
    parse_sigma,
    parse_tile,
)
from deepgsr_cli.cli.output import emit, finite, progress_bar, say, silent
from deepgsr_cli.errors import UsageError, UserError
from deepgsr_cli.version import __version__

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Job
    from deepgsr_cli.jobs.run import Outcome
    from deepgsr_cli.pictures.restorer import Restorer


Inputs = Annotated[
    list[str], typer.Argument(help="Pictures, folders of pictures, globs, or - for standard input.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="File, folder, or - for standard output.",
        show_default="<name>_<command> beside the input",
    ),
]
Strength = Annotated[float, typer.Option(help="Share of the correction applied, 0 to 1.")]
Reference = Annotated[
    Path | None,
    typer.Option(help="Clean picture, or folder of them: print PSNR and SSIM.", show_default=False),
]
Format = Annotated[
    str | None,
    typer.Option(help="Output format: png, jpeg, tiff, webp or bmp.", show_default="by suffix"),
]
White = Annotated[float, typer.Option(help="Value of white in floating point files.")]
MaxPixels = Annotated[int, typer.Option(help="Most pixels a file may have.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Pass over finished files.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
Shard = Annotated[
    str | None, typer.Option(help="Do part i of n, as 3/8, for job arrays.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be done.")]


@dataclass(frozen=True)
class _Request:
    """What was asked for on the command line, as it was given; `sigma` is for "denoise"."""

    task: str
    inputs: list[str]
    output: str | None
    sigma: str | None
    strength: float
    reference: Path | None
    weights: str | None
    device: str
    precision: str
    tile: str
    overlap: int | None
    batch: int | None
    ensemble: bool
    format: str | None
    white: float
    max_pixels: int
    skip_existing: bool
    overwrite: bool
    shard: str | None
    dry_run: bool
    report: Path | None
    json_lines: bool
    offline: bool
    quiet: bool
    verbose: bool


def denoise(
    inputs: Inputs,
    output: Output = None,
    sigma: Annotated[
        str, typer.Option(help="Noise standard deviation on the 0-255 scale, or auto to estimate it.")
    ] = "auto",
    strength: Strength = 1.0,
    reference: Reference = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    ensemble: Ensemble = False,
    format: Format = None,
    white: White = 1.0,
    max_pixels: MaxPixels = 2**29,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    shard: Shard = None,
    dry_run: DryRun = False,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise from pictures.

    Depth, alpha, colour profile, orientation and resolution are kept, and no input is overwritten.
    """
    _restore_pictures(_Request("denoise", **locals()))


def derain(
    inputs: Inputs,
    output: Output = None,
    strength: Strength = 1.0,
    reference: Reference = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    ensemble: Ensemble = False,
    format: Format = None,
    white: White = 1.0,
    max_pixels: MaxPixels = 2**29,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    shard: Shard = None,
    dry_run: DryRun = False,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove rain from pictures.

    Depth, alpha, colour profile, orientation and resolution are kept, and no input is overwritten.
    """
    _restore_pictures(_Request("derain", sigma=None, **locals()))


def restore(
    inputs: Inputs,
    output: Output = None,
    strength: Strength = 1.0,
    reference: Reference = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    ensemble: Ensemble = False,
    format: Format = None,
    white: White = 1.0,
    max_pixels: MaxPixels = 2**29,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    shard: Shard = None,
    dry_run: DryRun = False,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise, rain or both from pictures, without being told which.

    Where the noise level is known, denoise is better. Depth, alpha, colour profile, orientation and
    resolution are kept, and no input is overwritten.
    """
    _restore_pictures(_Request("restore", sigma=None, **locals()))


def _restore_pictures(request: _Request) -> None:
    from deepgsr_cli.formats.image import SUFFIXES
    from deepgsr_cli.jobs.plan import STREAM, plan
    from deepgsr_cli.jobs.plan import shard as part
    from deepgsr_cli.jobs.run import run

    level = None if request.sigma is None else parse_sigma(request.sigma)
    if not 0 <= request.strength <= 1:
        raise UsageError(f"--strength {request.strength:g}: give 0 (nothing) to 1 (all)")
    if not request.white > 0 or not math.isfinite(request.white):
        raise UsageError(f"--white {request.white:g}: give the value of white, above 0")
    if request.max_pixels < 1:
        raise UsageError(f"--max-pixels {request.max_pixels}: give 1 or more")
    if request.skip_existing and request.overwrite:
        raise UsageError("--skip-existing and --overwrite exclude each other; give one")
    if request.json_lines and request.output == STREAM:
        raise UsageError("--json and -o - would both use standard output; give -o a file")
    if request.reference is not None and not request.reference.exists():
        raise UsageError(f"--reference {request.reference}: no such file or folder")
    check_report(request.report)
    todo = plan(request.inputs, request.output, request.task, SUFFIXES)
    jobs = todo.jobs if request.shard is None else part(todo.jobs, request.shard)
    tell = say if not request.quiet else silent
    if todo.passed_over:
        tell(f"{todo.passed_over} files passed over that are no pictures")
    if request.dry_run:
        for job in jobs:
            exists = job.target is not None and job.target.exists()
            action = (
                ("skip" if request.skip_existing else "fail" if not request.overwrite else "replace")
                if exists
                else "write"
            )
            _print_job(job, {"action": action}, request.json_lines)
        return

    # torch comes in here, so what is wrong with the command line is said before.
    from deepgsr_cli.pictures.jobs import PictureOptions, restore_file
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    options = RunOptions(
        request.device,
        parse_precision(request.precision),
        parse_tile(request.tile),
        request.overlap,
        request.batch,
        request.offline,
        request.ensemble,
    )
    restorer = Restorer(request.weights, options, tell, request.task)
    todo_options = PictureOptions(
        level,
        request.strength,
        request.reference,
        parse_format(request.format),
        request.white,
        request.max_pixels,
    )
    with progress_bar(len(jobs), request.task, request.quiet) as advance:
        outcomes: list[Outcome] = []

        def work(job: Job) -> Any:
            done = len(outcomes)
            shown = replace(todo_options, for_report=request.report is not None and done < PICTURES_IN_REPORT)
            return restore_file(job, restorer, shown, lambda now, all_: advance(done + now / all_, job.label))

        for outcome in run(
            jobs,
            guarded(work, request.verbose),
            skip_existing=request.skip_existing,
            overwrite=request.overwrite,
        ):
            outcomes.append(outcome)
            advance(len(outcomes), outcome.job.label)
            _print_outcome(outcome, request.json_lines, tell)
    _print_summary(outcomes, tell)
    if request.report is not None:
        _write_picture_report(request.report, outcomes, restorer, request.sigma)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def guarded(work: Callable[[Job], Any], verbose: bool) -> Callable[[Job], Any]:
    """Work whose unexpected errors, our own mistakes, fail one file and not the batch."""

    def guarded(job: Job) -> Any:
        try:
            return work(job)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if verbose:
                say(traceback.format_exc())
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"{job.label}: unexpected {text}; please report it, with the output of -v"
            ) from error

    return guarded


def _print_job(job: Job, facts: dict[str, Any], json_lines: bool) -> None:
    target = "-" if job.target is None else str(job.target)
    if json_lines:
        typer.echo(json.dumps({"input": job.label, "output": target, **facts}))
    else:
        typer.echo(f"{facts['action']}: {job.label} -> {target}")


def _print_outcome(outcome: Outcome, json_lines: bool, tell: Callable[[str], None]) -> None:
    """The path of a result on stdout, what there is to know on stderr; or all of it as JSON."""
    job, result = outcome.job, outcome.result
    target = "-" if job.target is None else str(job.target)
    if json_lines:
        line: dict[str, Any] = {"input": job.label, "output": target, "status": outcome.status}
        line["seconds"] = round(outcome.seconds, 3)
        if result is not None:
            line |= {name: finite(value) for name, value in result.facts.items()}
            if result.note:
                line["note"] = result.note
        if outcome.error:
            line["error"] = outcome.error
        emit(json.dumps(line))
        return
    if outcome.status == "failed":
        say(str(outcome.error), style="red")
    elif outcome.status == "done":
        facts = result.facts
        if job.target is not None:
            text = target
            if "psnr" in facts:
                text += f"  PSNR {facts['psnr_in']:.2f} -> {facts['psnr']:.2f} dB"
                text += f", SSIM {facts['ssim_in']:.4f} -> {facts['ssim']:.4f}"
            emit(text)
        if "sigma_estimated" in facts:
            levels = ", ".join(f"{level:g}" for level in facts["sigma_estimated"])
            note = f"; {result.note}" if result.note else ""
            tell(f"{job.label}: noise estimated as sigma {levels} (0-255 scale){note}")


def _print_summary(outcomes: list[Outcome], tell: Callable[[str], None]) -> None:
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    if len(outcomes) > 1:
        text = f"{counts['done']} restored"
        text += f", {counts['skipped']} skipped" if counts["skipped"] else ""
        text += f", {counts['failed']} failed" if counts["failed"] else ""
        tell(text)


# More pictures than this would make a report that no browser opens.
PICTURES_IN_REPORT = 100


def _write_picture_report(path: Path, outcomes: list[Outcome], restorer: Restorer, sigma: str | None) -> None:
    from deepgsr_cli.reports.report import Report, ReportItem, write_report

    labels = {
        "sigma": "sigma",
        "psnr_in": "PSNR in (dB)",
        "psnr": "PSNR out (dB)",
        "ssim_in": "SSIM in",
        "ssim": "SSIM out",
    }
    items = []
    for outcome in outcomes:
        if outcome.status == "skipped":
            items.append(ReportItem(outcome.job.label, note="skipped: its output exists"))
            continue
        if outcome.result is None:
            items.append(ReportItem(outcome.job.label, error=outcome.error))
            continue
        facts = outcome.result.facts
        metrics: dict[str, float | str] = {
            "size": f"{facts['width']}\u00a0×\u00a0{facts['height']}",
            "depth": facts["depth"],
        }
        metrics |= {label: facts[name] for name, label in labels.items() if name in facts}
        metrics["seconds"] = round(outcome.seconds, 3)
        items.append(ReportItem(outcome.job.label, outcome.result.images, metrics, outcome.result.note))
    protocol = run_facts(restorer) | ({} if sigma is None else {"sigma": sigma})
    protocol["figures"] = "clipped to [0, 1], rounded as written"
    for channels, loaded in restorer.loaded.items():
        resolved = loaded.weights
        name = resolved.entry.name if resolved.entry else resolved.path.name
        protocol[f"weights ({'gray' if channels == 1 else 'colour'})"] = f"{name}, sha256 {resolved.sha256}"
    summary = column_means([item.metrics for item in items], [*labels.values()][1:])
    write_report(path, Report("Restored pictures", restorer.task, items, protocol, summary))


def run_facts(restorer: Restorer) -> dict[str, str]:
    options = restorer.options
    return {
        "command": shlex.join(["deepgsr", *sys.argv[1:]]),
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": options.device,
        "precision": options.precision,
        "tile": "auto" if options.tile is None else str(options.tile),
        **({"ensemble": "mean of eight orientations"} if options.ensemble else {}),
    }


def column_means(rows: list[dict[str, Any]], names: list[str]) -> dict[str, float | str]:
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}
