"""Commands that reconstruct CT."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli import __version__
from deepgsr_cli.cli.options import (
    Arithmetic,
    Device,
    Json,
    Offline,
    Quiet,
    ReportFile,
    Seed,
    Verbose,
    Weights,
    check_report,
    parse_precision,
)
from deepgsr_cli.cli.output import finite, progress_bar, say, silent
from deepgsr_cli.cli.pictures import (
    PICTURES_IN_REPORT,
    DryRun,
    Overwrite,
    SkipExisting,
    column_means,
    guarded,
)
from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.batch import Outcome
    from deepgsr_cli.scans import ScanPlan

NOTICE = "research use only, not for diagnosis: reconstructions can lack or invent structures"
DEFAULT_VIEWS = 60

Photons = Annotated[
    float | None,
    typer.Option(help="Photons a ray that leave the source, as 1e5, or inf.", show_default="inf, no noise"),
]
Filter = Annotated[
    str, typer.Option(help="Window on the ramp for fbp: ram-lak, shepp-logan, cosine or hann.")
]
Iterations = Annotated[
    int | None,
    typer.Option(help="Most iterations for sirt, cgls and tv.", show_default="200, 20 and 300"),
]
Strength = Annotated[
    float, typer.Option(help="Weight of total variation for tv, times the one tuned for the scan.")
]


@dataclass(frozen=True)
class _Request:
    """What was asked for on the command line, as it was given."""

    inputs: list[str]
    output: str
    views: int | None
    photons: float | None
    geometry: Path | None
    method: str
    filter: str
    iterations: int | None
    strength: float
    seed: int
    window: str
    pixel_mm: float | None
    format: str | None
    weights: str | None
    device: str
    precision: str
    skip_existing: bool
    overwrite: bool
    dry_run: bool
    report: Path | None
    json_lines: bool
    offline: bool
    quiet: bool
    verbose: bool


def ct_recon(
    inputs: Annotated[
        list[str],
        typer.Argument(help="CT slices, DICOM files or folders; or sinograms: .npy, .npz, .h5 or .tif."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder, or file for one slice.")],
    views: Annotated[
        int | None,
        typer.Option(help="Views over a full turn of the scan simulated from DICOM.", show_default="60"),
    ] = None,
    photons: Photons = None,
    geometry: Annotated[
        Path | None,
        typer.Option(help="Geometry of measured sinograms, .toml or .json.", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option(help="deepgsr, fbp, sirt, cgls or tv.")] = "deepgsr",
    filter: Filter = "hann",
    iterations: Iterations = None,
    strength: Strength = 1.0,
    seed: Seed = 0,
    window: Annotated[
        str, typer.Option(help="Centre,width in HU of the pictures in the report; no result depends on it.")
    ] = "40,400",
    pixel_mm: Annotated[
        float | None,
        typer.Option(help="Pixel size in mm of DICOM files that do not state it.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Output format: dicom, or tiff or npy of float32 HU.", show_default="dicom"),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Reconstruct CT slices from few views.

    From DICOM slices, a sparse fan-beam scan is simulated first, and the result is compared with the slice.
    A measured sinogram is reconstructed as its geometry file says. Results are in HU; those of DICOM slices
    are a derived series.
    """
    _reconstruct(_Request(**locals()))


def _reconstruct(request: _Request) -> None:
    from deepgsr_cli.batch import run

    if request.skip_existing and request.overwrite:
        raise UsageError("--skip-existing and --overwrite exclude each other; give one")
    if request.geometry is not None and request.views is not None:
        raise UsageError("--views is for scans simulated from DICOM, --geometry for measured ones; give one")
    if request.pixel_mm is not None and not 0 < request.pixel_mm < math.inf:
        raise UsageError(f"--pixel-mm {request.pixel_mm:g}: give a size in mm, above 0")
    window_hu = _parse_window(request.window)
    check_report(request.report)
    precision = parse_precision(request.precision)
    tell = say if not request.quiet else silent

    from deepgsr_cli.ct_recon import Method, check_views, load_model
    from deepgsr_cli.device import select_device
    from deepgsr_cli.geometry import read_geometry
    from deepgsr_cli.scans import Reconstruction, plan_scans

    num_views = DEFAULT_VIEWS if request.views is None else request.views
    check_views(num_views)
    photons = None if request.photons == math.inf else request.photons
    method = Method(request.method, photons, request.filter, request.iterations, request.strength, precision)
    geometry = None if request.geometry is None else read_geometry(request.geometry)
    plan = plan_scans(
        request.inputs, request.output, format=request.format, geometry=geometry, pixel_mm=request.pixel_mm
    )
    tell(NOTICE)
    for note in plan.notes:
        tell(note)
    for failure in plan.failures:
        say(str(failure), style="red")
    if request.dry_run:
        _print_plan(plan, request)
        return
    scan = _describe_scan(plan, num_views, photons)
    tell(f"{scan}; method {method.describe()}")
    derivation = f"ct-recon: {scan}; method {method.describe()}"
    facts = {"scan": scan, "method": method.describe()}
    if not plan.measured and photons is not None:
        derivation += f"; seed {request.seed}"
        facts["seed"] = str(request.seed)
    model = None
    if method.name == "deepgsr":
        resolved, checkpoint = load_model(request.weights, request.device, offline=request.offline)
        model = checkpoint.model
        derivation += f"; weights sha256 {resolved.sha256}"
        name = resolved.entry.name if resolved.entry else resolved.path.name
        facts["weights"] = f"{name}, sha256 {resolved.sha256}"
    reconstruction = Reconstruction(
        method, select_device(request.device), model, num_views, geometry, request.seed, derivation, window_hu
    )
    outcomes: list[Outcome] = []
    with progress_bar(len(plan.jobs), "ct-recon", request.quiet) as advance:

        def work(job: Any) -> Any:
            done = len(outcomes)
            return reconstruction(
                job,
                for_report=request.report is not None and done < PICTURES_IN_REPORT,
                progress=lambda now, all_: advance(done + now / all_, job.label),
            )

        for outcome in run(
            plan.jobs,
            guarded(work, request.verbose),
            skip_existing=request.skip_existing,
            overwrite=request.overwrite,
        ):
            outcomes.append(outcome)
            advance(len(outcomes), outcome.job.label)
            _print_outcome(outcome, request.json_lines)
    _print_summary(outcomes, len(plan.failures), tell)
    if request.report is not None:
        _write_report(request.report, outcomes, plan, facts, request)
    if plan.failures or any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _parse_window(text: str) -> tuple[float, float]:
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        centre = width = math.nan
    if not (math.isfinite(centre) and 0 < width < math.inf):
        raise UsageError(f"--window {text}: give centre,width in HU with a width above 0, as 40,400")
    return centre, width


def _describe_scan(plan: ScanPlan, num_views: int, photons: float | None) -> str:
    dose = "" if photons is None else f", {photons:g} photons a ray"
    if plan.measured:
        return f"measured sinogram{dose}"
    return f"simulated {num_views}-view fan-beam scan{dose or ' without noise'}, no measurement"


def _print_plan(plan: ScanPlan, request: _Request) -> None:
    for job in plan.jobs:
        action = "write"
        if job.target is not None and job.target.exists():
            action = "skip" if request.skip_existing else "replace" if request.overwrite else "fail"
        if request.json_lines:
            typer.echo(json.dumps({"input": job.label, "output": str(job.target), "action": action}))
        else:
            typer.echo(f"{action}: {job.label} -> {job.target}")


def _print_outcome(outcome: Outcome, json_lines: bool) -> None:
    """The path of a result, with its figures, on stdout and an error on stderr; or all of it as JSON."""
    job, result = outcome.job, outcome.result
    if json_lines:
        line: dict[str, Any] = {"input": job.label, "output": str(job.target), "status": outcome.status}
        line["seconds"] = round(outcome.seconds, 3)
        if result is not None:
            line |= {name: finite(value) for name, value in result.facts.items()}
        if outcome.error:
            line["error"] = outcome.error
        typer.echo(json.dumps(line))
    elif outcome.status == "failed":
        say(str(outcome.error), style="red")
    elif outcome.status == "done":
        text, facts = str(job.target), result.facts
        if "psnr" in facts:
            text += f"  PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}"
            text += f", body: RMSE {facts['rmse_hu']:.1f} HU, bias {facts['bias_hu']:+.1f} HU"
        else:
            text += f"  residual {facts['residual']:.4f}"
        typer.echo(text)


def _print_summary(outcomes: list[Outcome], num_failures: int, tell: Any) -> None:
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    text = f"{counts['done']} slices reconstructed"
    text += f", {counts['skipped']} skipped" if counts["skipped"] else ""
    text += f", {counts['failed']} failed" if counts["failed"] else ""
    text += f", {num_failures} inputs that cannot be used" if num_failures else ""
    if len(outcomes) > 1 or num_failures:
        tell(text)


_LABELS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "rmse_hu": "RMSE in body (HU)",
    "bias_hu": "bias in body (HU)",
    "residual": "residual",
}


def _write_report(
    path: Path, outcomes: list[Outcome], plan: ScanPlan, facts: dict[str, str], request: _Request
) -> None:
    from deepgsr_cli.report import Report, ReportItem, write_report

    items = []
    for outcome in outcomes:
        label = outcome.job.label
        if outcome.status == "skipped":
            items.append(ReportItem(label, note="skipped: its output exists"))
        elif outcome.result is None:
            items.append(ReportItem(label, error=outcome.error))
        else:
            found = outcome.result.facts
            metrics: dict[str, float | str] = {_LABELS[n]: found[n] for n in _LABELS if n in found}
            metrics["seconds"] = round(outcome.seconds, 3)
            items.append(ReportItem(label, outcome.result.images, metrics))
    items += [ReportItem("input", error=str(failure)) for failure in plan.failures]
    protocol = {
        "command": shlex.join(["deepgsr", *sys.argv[1:]]),
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": request.device,
        "precision": request.precision,
        **facts,
        "window": f"centre,width {request.window} HU",
        "notice": NOTICE,
    }
    summary = column_means([item.metrics for item in items], list(_LABELS.values()))
    title = "CT from a measured sinogram" if plan.measured else "CT from a simulated sparse-view scan"
    write_report(path, Report(title, "ct-recon", items, protocol, summary))
