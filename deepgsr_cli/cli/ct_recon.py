"""Commands that reconstruct CT."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.command import PICTURES_IN_REPORT, column_means
from deepgsr_cli.cli.options import (
    Arithmetic,
    Device,
    DryRun,
    Json,
    Offline,
    Overwrite,
    Quiet,
    ReportFile,
    Seed,
    SkipExisting,
    Verbose,
    Weights,
    check_report,
    parse_precision,
)
from deepgsr_cli.cli.output import emit, finite, progress_bar, say, silent
from deepgsr_cli.errors import UsageError
from deepgsr_cli.version import __version__

if TYPE_CHECKING:
    from deepgsr_cli.ct.jobs import ScanPlan
    from deepgsr_cli.ct.reconstruction import ScanResult
    from deepgsr_cli.jobs.plan import Job
    from deepgsr_cli.jobs.run import Outcome
    from deepgsr_cli.tomography.geometry import Geometry
    from deepgsr_cli.weights.resolve import ResolvedWeights


NOTICE = "research use only, not for diagnosis: reconstructions can lack or invent structures"
DEFAULT_VIEWS = 60
# What --geometry has in place of a file.
SCANNER = Path("scanner")

Photons = Annotated[
    float | None,
    typer.Option(
        help="Photons a ray that leave the source, as 1e5, or inf.",
        show_default="inf, no noise; estimated from measured scans",
    ),
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

SliceInputs = Annotated[
    list[str],
    typer.Argument(help="CT slices, DICOM files or folders; or sinograms: .npy, .npz, .h5 or .tif."),
]
SliceOutput = Annotated[str, typer.Option("--output", "-o", help="Folder, or file for one slice.")]
GeometryFile = Annotated[
    Path | None,
    typer.Option(help="Geometry of measured sinograms, .toml or .json.", show_default=False),
]
ScanGeometry = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|scanner",
        help="Geometry of measured sinograms, .toml or .json. For DICOM slices, of the simulated scan, but"
        " for the file's shape and pixel_mm; or scanner, for the distances each slice states.",
        show_default=False,
    ),
]
Window = Annotated[
    str, typer.Option(help="Centre,width in HU of the pictures in the report; no result depends on it.")
]
PixelMm = Annotated[
    float | None,
    typer.Option(help="Pixel size in mm of DICOM files that do not state it.", show_default=False),
]
SliceFormat = Annotated[
    str | None,
    typer.Option(help="Output format: dicom, or tiff or npy of float32 HU.", show_default="dicom"),
]


@dataclass(frozen=True, kw_only=True)
class SliceRequest:
    """What was asked of a command over slices, as it was given."""

    inputs: list[str]
    output: str
    geometry: Path | None
    method: str
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

    def check(self) -> None:
        """Raise a UsageError for options that cannot be."""
        if self.skip_existing and self.overwrite:
            raise UsageError("--skip-existing and --overwrite exclude each other; give one")
        if self.pixel_mm is not None and not 0 < self.pixel_mm < math.inf:
            raise UsageError(f"--pixel-mm {self.pixel_mm:g}: give a size in mm, above 0")
        check_report(self.report)

    @property
    def tell(self) -> Callable[[str], None]:
        """Prints a sentence to stderr, unless that is to be quiet."""
        return silent if self.quiet else say


@dataclass(frozen=True, kw_only=True)
class _Request(SliceRequest):
    views: int | None
    photons: float | None
    filter: str
    iterations: int | None
    strength: float
    seed: int


def ct_recon(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="CT slices, DICOM files or folders; sinograms: .npy, .npz, .h5 or .tif; or folders of"
            " DICOM-CT-PD projections."
        ),
    ],
    output: SliceOutput,
    views: Annotated[
        int | None,
        typer.Option(
            help="Views over a full turn: of the scan simulated from slices, or chosen from projections.",
            show_default="60, or all projections",
        ),
    ] = None,
    photons: Photons = None,
    geometry: ScanGeometry = None,
    method: Annotated[str, typer.Option(help="deepgsr, fbp, sirt, cgls or tv.")] = "deepgsr",
    filter: Filter = "hann",
    iterations: Iterations = None,
    strength: Strength = 1.0,
    seed: Seed = 0,
    window: Window = "40,400",
    pixel_mm: PixelMm = None,
    format: SliceFormat = None,
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
    A measured sinogram is reconstructed as its geometry file says, and projections in DICOM-CT-PD, axial or
    helical, as they say themselves. Results are in HU; those of DICOM slices and projections are a derived
    series. A report shows FBP and TV, which are computed for it, beside the method.
    """
    _reconstruct(_Request(**locals()))


def _reconstruct(request: _Request) -> None:
    request.check()
    scanner = request.geometry == SCANNER
    if request.geometry is not None and request.views is not None and not scanner:
        raise UsageError(f"--views {request.views}: {request.geometry} has the views; leave one of them out")
    window_hu = parse_window(request.window)
    precision = parse_precision(request.precision)

    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.ct.jobs import plan_projections, plan_scans
    from deepgsr_cli.ct.methods import Method, load_network
    from deepgsr_cli.ct.reconstruction import Reconstruction
    from deepgsr_cli.ct.simulation import check_seed, check_views
    from deepgsr_cli.ct.training import MOST_VIEWS
    from deepgsr_cli.tomography.geometry_files import read_geometry

    num_views = DEFAULT_VIEWS if request.views is None else request.views
    check_views(num_views)
    check_seed(request.seed)
    photons = None if request.photons == math.inf else request.photons
    method = Method(request.method, photons, request.filter, request.iterations, request.strength, precision)
    plan = plan_projections(request.inputs, request.output, format=request.format, num_views=request.views)
    if plan is not None and request.geometry is not None:
        raise UsageError("--geometry: DICOM-CT-PD projections have their geometry; leave it out")
    geometry = None
    if request.geometry is not None and not scanner:
        geometry = read_geometry(request.geometry)
        num_views = geometry.num_views
    if plan is None:
        plan = plan_scans(
            request.inputs,
            request.output,
            format=request.format,
            geometry=geometry,
            pixel_mm=request.pixel_mm,
            simulation=True,
        )
    if plan.projections:
        num_views = plan.projections[0].views_per_turn
    tell_plan(plan, request)
    if request.dry_run:
        return
    estimating = plan.measured and request.photons is None
    scan = _describe_scan(plan, num_views, photons, geometry, scanner)
    scan += ", photons a ray estimated from the noise of each slice" if estimating else ""
    request.tell(f"{scan}; method {method.describe()}")
    derivation = f"ct-recon: {scan}; method {method.describe()}"
    facts = {"scan": scan, "method": method.describe()}
    if geometry is not None and request.geometry is not None:
        facts["geometry"] = f"sha256 {hashlib.sha256(request.geometry.read_bytes()).hexdigest()}"
        derivation += f"; geometry {facts['geometry']}"
    if not plan.measured and photons is not None:
        derivation += f"; seed {request.seed}"
        facts["seed"] = str(request.seed)
    model = None
    if method.name == "deepgsr":
        loaded = load_network(request.weights, request.device, offline=request.offline)
        model = loaded.model
        derivation += f"; weights sha256 {loaded.weights.sha256}"
        facts["weights"] = describe_weights(loaded.weights)
        if num_views > MOST_VIEWS:
            request.tell(
                f"{num_views} views are more than the {MOST_VIEWS} the network was trained on; compare with"
                " --method fbp or tv"
            )
    reconstruction = Reconstruction(
        method,
        select_device(request.device),
        model,
        num_views,
        geometry,
        scanner,
        plan.measured,
        estimating,
        request.seed,
        derivation,
        window_hu,
    )
    outcomes = run_plan(plan, request, "ct-recon", reconstruction, _figures_text)
    tell_counts(outcomes, plan, request, "reconstructed")
    if request.report is not None:
        title = "CT from a simulated sparse-view scan"
        if plan.measured:
            title = f"CT from {'measured projections' if plan.projections else 'a measured sinogram'}"
        labels = _MEASURED_FIGURES if plan.measured else _FIGURES
        write_slice_report(title, "ct-recon", outcomes, plan, request, facts, labels)
    raise_exit(outcomes, plan)


def parse_window(text: str) -> tuple[float, float]:
    """Centre and width in HU."""
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        centre = width = math.nan
    if not (math.isfinite(centre) and 0 < width < math.inf):
        raise UsageError(f"--window {text}: give centre,width in HU with a width above 0, as 40,400")
    return centre, width


def _describe_scan(
    plan: ScanPlan, num_views: int, photons: float | None, geometry: Geometry | None, scanner: bool
) -> str:
    from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION

    dose = "" if photons is None else f", {photons:g} photons a ray"
    if plan.projections:
        stated = {projections.water_attenuation for projections in plan.projections} - {None}
        water = f"attenuation of water is not in the files, {WATER_ATTENUATION} /mm taken"
        if stated:
            water = f"water {', '.join(f'{value:g}' for value in stated)} /mm by the files"
        scans = "; ".join(dict.fromkeys(projections.describe() for projections in plan.projections))
        return f"measured DICOM-CT-PD projections, {scans}; {water}{dose}"
    if plan.measured:
        return f"measured sinogram{dose}"
    kind = "parallel-beam" if geometry is not None and geometry.kind == "parallel" else "fan-beam"
    of = " of the geometry file" if geometry is not None else " at the scanner's distances" if scanner else ""
    return f"simulated {num_views}-view {kind} scan{of}{dose or ' without noise'}, no measurement"


def describe_weights(resolved: ResolvedWeights) -> str:
    """Name and checksum."""
    name = resolved.entry.name if resolved.entry else resolved.path.name
    return f"{name}, sha256 {resolved.sha256}"


def tell_plan(plan: ScanPlan, request: SliceRequest) -> None:
    """Print the notice, notes and failures of a plan, and for a dry run its jobs."""
    request.tell(NOTICE)
    for note in plan.notes:
        request.tell(note)
    for failure in plan.failures:
        say(str(failure), style="red")
    for job in plan.jobs if request.dry_run else ():
        action = "write"
        if job.target is not None and job.target.exists():
            action = "skip" if request.skip_existing else "replace" if request.overwrite else "fail"
        if request.json_lines:
            typer.echo(json.dumps({"input": job.label, "output": str(job.target), "action": action}))
        else:
            typer.echo(f"{action}: {job.label} -> {job.target}")


def run_plan(
    plan: ScanPlan,
    request: SliceRequest,
    task: str,
    process: Callable[..., ScanResult],
    describe: Callable[[dict[str, Any]], str],
) -> list[Outcome]:
    """Outcomes of the jobs of a plan, each printed.

    Args:
        plan: Of `plan_scans`.
        request: The options.
        task: Name of the command.
        process: Called with a job, `for_report` and `progress`, as `Reconstruction` is.
        describe: Figures of a `ScanResult` in words.
    """
    from deepgsr_cli.jobs.run import guarded, run

    outcomes: list[Outcome] = []
    with progress_bar(len(plan.jobs), task, request.quiet) as advance:

        def work(job: Job) -> ScanResult:
            done = len(outcomes)
            return process(
                job,
                for_report=request.report is not None and done < PICTURES_IN_REPORT,
                progress=lambda now, all_: advance(done + now / all_, job.label),
            )

        for outcome in run(
            plan.jobs,
            guarded(work, say if request.verbose else None),
            skip_existing=request.skip_existing,
            overwrite=request.overwrite,
        ):
            outcomes.append(outcome)
            advance(len(outcomes), outcome.job.label)
            _print_outcome(outcome, request.json_lines, describe)
    return outcomes


def _print_outcome(outcome: Outcome, json_lines: bool, describe: Callable[[dict[str, Any]], str]) -> None:
    """The path of a result, with its figures, on stdout and an error on stderr; or all of it as JSON."""
    job, result = outcome.job, outcome.result
    if json_lines:
        line: dict[str, Any] = {"input": job.label, "output": str(job.target), "status": outcome.status}
        line["seconds"] = round(outcome.seconds, 3)
        if result is not None:
            line |= {name: finite(value) for name, value in result.facts.items()}
        if outcome.error:
            line["error"] = outcome.error
        emit(json.dumps(line))
    elif outcome.status == "failed":
        say(str(outcome.error), style="red")
    elif outcome.status == "done":
        emit(f"{job.target}  {describe(result.facts)}")


def _figures_text(facts: dict[str, Any]) -> str:
    if "psnr" not in facts:
        photons = "" if facts["photons"] is None else f", {facts['photons']:.2g} photons a ray"
        return f"residual {facts['residual']:.4f}{photons}"
    quality = f"PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}"
    return f"{quality}, body: RMSE {facts['rmse_hu']:.1f} HU, bias {facts['bias_hu']:+.1f} HU"


def tell_counts(outcomes: list[Outcome], plan: ScanPlan, request: SliceRequest, done: str) -> None:
    """Print how many slices were `done`, a participle, and how many were not."""
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    text = f"{counts['done']} slices {done}"
    text += f", {counts['skipped']} skipped" if counts["skipped"] else ""
    text += f", {counts['failed']} failed" if counts["failed"] else ""
    text += f", {len(plan.failures)} inputs that cannot be used" if plan.failures else ""
    if len(outcomes) > 1 or plan.failures:
        request.tell(text)


def raise_exit(outcomes: list[Outcome], plan: ScanPlan) -> None:
    """End the command with exit code 1 if anything failed."""
    if plan.failures or any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


_FIGURES = {
    "psnr": "PSNR (dB)",
    "psnr_fbp": "PSNR FBP (dB)",
    "psnr_tv": "PSNR TV (dB)",
    "ssim": "SSIM",
    "rmse_hu": "RMSE in body (HU)",
    "bias_hu": "bias in body (HU)",
}
_MEASURED_FIGURES = {"residual": "residual"}


def write_slice_report(
    title: str,
    task: str,
    outcomes: list[Outcome],
    plan: ScanPlan,
    request: SliceRequest,
    facts: dict[str, str],
    labels: dict[str, str],
) -> None:
    """Write the report that was asked for.

    Args:
        title: Heading.
        task: Name of the command.
        outcomes: Of `run_plan`.
        plan: Of `plan_scans`.
        request: The options.
        facts: What was done, for the protocol.
        labels: Of the figures of a `ScanResult` to show, by name.
    """
    from deepgsr_cli.reports.report import Report, ReportItem, write_report

    items = []
    for outcome in outcomes:
        label = outcome.job.label
        if outcome.status == "skipped":
            items.append(ReportItem(label, note="skipped: its output exists"))
        elif outcome.result is None:
            items.append(ReportItem(label, error=outcome.error))
        else:
            found = outcome.result.facts
            metrics: dict[str, float | str] = {labels[n]: found[n] for n in labels if n in found}
            metrics["seconds"] = found.get("seconds", round(outcome.seconds, 3))
            items.append(ReportItem(label, outcome.result.images, metrics, outcome.result.note))
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
    summary = column_means([item.metrics for item in items], list(labels.values()))
    assert request.report is not None
    write_report(request.report, Report(title, task, items, protocol, summary))
