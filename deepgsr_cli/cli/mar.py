"""Commands that reduce metal artifacts in CT."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.ct_recon import (
    NOTICE,
    GeometryFile,
    PixelMm,
    SliceFormat,
    SliceInputs,
    SliceOutput,
    SliceRequest,
    Window,
    describe_weights,
    parse_window,
    raise_exit,
    run_plan,
    tell_counts,
    tell_plan,
    write_slice_report,
)
from deepgsr_cli.cli.evaluate import CsvFile, SliceLimit, present, print_facts, write_csv
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
from deepgsr_cli.cli.output import print_table, progress_bar, say

if TYPE_CHECKING:
    from deepgsr_cli.mar.evaluation import MarMean, MarScore


EXAMPLE = f"For {NOTICE}. Example: deepgsr mar scan --method nmar -o corrected --report metal.html"
EVAL_EXAMPLE = "Example: deepgsr eval mar --data slices --masks metals --method li --method nmar"

# Cases whose pictures a report of an evaluation holds, a dozen each.
_CASES_IN_REPORT = 20

MetalThreshold = Annotated[float, typer.Option(help="CT number in HU above which is metal.")]


@dataclass(frozen=True, kw_only=True)
class _Request(SliceRequest):
    metal_threshold: float
    mask: Path | None
    keep_metal: bool


def mar(
    inputs: SliceInputs,
    output: SliceOutput,
    method: Annotated[
        str, typer.Option(help="deepgsr, li (linear interpolation) or nmar (normalised).")
    ] = "deepgsr",
    metal_threshold: MetalThreshold = 2500.0,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Metal, instead of the threshold: .png, .npy of (H, W) or (slices, H, W), or DICOM SEG.",
            show_default=False,
        ),
    ] = None,
    keep_metal: Annotated[
        bool, typer.Option("--keep-metal/--no-keep-metal", help="Leave metal in place, or fill it in.")
    ] = True,
    geometry: GeometryFile = None,
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
    """Reduce metal artifacts in CT slices.

    A DICOM slice is corrected from the image alone, through a virtual scan of it: the result is a derived
    series that differs only where the metal's streaks were. A measured sinogram is corrected itself and
    reconstructed as its geometry file says. Slices without metal come back unchanged.
    """
    _correct(_Request(**locals()))


def _correct(request: _Request) -> None:
    request.check()
    window_hu = parse_window(request.window)
    precision = parse_precision(request.precision)

    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.ct.jobs import plan_scans
    from deepgsr_cli.mar.masks import read_masks
    from deepgsr_cli.mar.methods import TASK, MetalMethod, load_network
    from deepgsr_cli.mar.nmar import VIRTUAL_VIEWS
    from deepgsr_cli.mar.reduction import MetalCorrection
    from deepgsr_cli.tomography.geometry_files import read_geometry

    method = MetalMethod(request.method, request.metal_threshold, request.keep_metal, precision)
    geometry = None if request.geometry is None else read_geometry(request.geometry)
    plan = plan_scans(
        request.inputs, request.output, format=request.format, geometry=geometry, pixel_mm=request.pixel_mm
    )
    masks = None if request.mask is None else read_masks(request.mask, plan.jobs, geometry)
    tell_plan(plan, request)
    if request.dry_run:
        return
    scan = f"image alone, through a virtual parallel scan of {VIRTUAL_VIEWS} views; no measurement"
    if plan.measured:
        scan = "measured sinogram"
    found = f"above {method.threshold_hu:g} HU" if masks is None else f"in the mask {request.mask}"
    request.tell(f"{scan}; method {method.describe()}; metal {found}")
    facts = {
        "scan": scan,
        "method": method.describe(),
        "metal": found if masks is None else f"{found}, sha256 {masks.sha256}",
        "metal pixels": "kept" if method.keep_metal else "filled in",
    }
    derivation = f"{TASK}: {scan}; method {method.describe()}; metal pixels {facts['metal pixels']}; metal "
    derivation += found if masks is None else f"by a mask of sha256 {masks.sha256}"
    model = None
    if method.name == "deepgsr":
        loaded = load_network(request.weights, request.device, offline=request.offline)
        model = loaded.model
        derivation += f"; weights sha256 {loaded.weights.sha256}"
        facts["weights"] = describe_weights(loaded.weights)
    correction = MetalCorrection(
        method, select_device(request.device), model, masks, geometry, derivation, window_hu
    )

    def describe(figures: dict[str, Any]) -> str:
        if not figures["metal_px"]:
            return f"no metal {found}, unchanged"
        return f"metal {figures['metal_px']} px, change {figures['change_hu']:.1f} HU (RMS in the body)"

    outcomes = run_plan(plan, request, TASK, correction, describe)
    tell_counts(outcomes, plan, request, "corrected")
    without = sum(outcome.result is not None and not outcome.result.facts["metal_px"] for outcome in outcomes)
    if without:
        request.tell(f"no metal {found} in {without} of {len(outcomes)} slices, which are unchanged")
    if request.report is not None:
        title = "Metal artifact reduction from " + ("sinograms" if plan.measured else "the image alone")
        labels = {"metal_px": "metal (px)", "change_hu": "RMS change in body (HU)"}
        write_slice_report(title, TASK, outcomes, plan, request, facts, labels)
    raise_exit(outcomes, plan)


def eval_mar(
    data: Annotated[Path, typer.Option(help="Folder of CT slices: DICOM, or 16-bit PNG of HU + 1024.")],
    masks: Annotated[Path, typer.Option(help="Folder of metal shapes: PNG, not zero is metal.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="deepgsr, li or nmar; may be given several times.", show_default="all"),
    ] = None,
    image_only: Annotated[
        bool, typer.Option("--image-only", help="Correct the reconstruction, as if there were no sinogram.")
    ] = False,
    metal: Annotated[str, typer.Option(help="titanium, iron or gold.")] = "titanium",
    photons: Annotated[float, typer.Option(help="Photons a ray that leave the source.")] = 2e7,
    filter: Annotated[
        str, typer.Option(help="Window on the ramp of the image that --image-only corrects.")
    ] = "ram-lak",
    metal_threshold: MetalThreshold = 2500.0,
    limit: SliceLimit = None,
    csv_file: CsvFile = None,
    report: ReportFile = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    seed: Seed = 0,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Put metal into CT slices by simulation, reduce its artifacts by each method, and print the figures by
    the metal's size, with the protocol.
    """
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.ct.slices import eval_slices
    from deepgsr_cli.mar.evaluation import MarEvalConfig, evaluate, means, protocol
    from deepgsr_cli.mar.masks import eval_masks
    from deepgsr_cli.mar.methods import TASK, load_network

    check_report(report)
    config = MarEvalConfig(
        data,
        masks,
        tuple(dict.fromkeys(method or ("li", "nmar", "deepgsr"))),
        image_only,
        metal,
        photons,
        filter,
        metal_threshold,
        seed,
        limit,
        parse_precision(precision),
    )
    model = text = None
    if "deepgsr" in config.methods:
        loaded = load_network(weights, device, offline=offline)
        model, text = loaded.model, loaded.weights.label
    slices, shapes = eval_slices(data, limit), eval_masks(masks)
    facts = protocol(config, slices, shapes, text)
    scores: list[MarScore] = []
    shown = _Cases()
    with progress_bar(len(slices) * len(shapes), f"eval {TASK}", quiet) as advance:
        for score in evaluate(
            config,
            slices,
            shapes,
            device=select_device(device),
            model=model,
            keep=shown.add if report is not None else None,
        ):
            scores.append(score)
            advance(len(scores) / (len(config.methods) + 2), f"{score.slice} {score.mask}")
            if json_lines:
                typer.echo(json.dumps(present(score)))
    averages = means(scores)
    outside = len({(s.slice, s.mask) for s in scores if s.outside > 0.5})
    if outside:
        say(f"in {outside} of {len(slices) * len(shapes)} cases most of the metal is outside the body")
    if csv_file is not None:
        write_csv(csv_file, scores)
    if json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [present(mean) for mean in averages]}))
    else:
        print_facts(facts)
        _print_by_size(averages)
        _print_means(averages)
    if report is not None:
        shown.write(report, facts, scores, averages)


def _print_by_size(averages: list[MarMean]) -> None:
    """PSNR and SSIM of each method, a column each, by the size of the metal."""
    sizes, methods = (list(dict.fromkeys(getattr(m, name) for m in averages)) for name in ("metal", "method"))
    found = {(mean.metal, mean.method): f"{mean.psnr:.2f} / {mean.ssim:.4f}" for mean in averages}
    header = ["metal (px)", *(f"{method} (dB / SSIM)" for method in methods)]
    print_table(header, [[size, *(found[size, method] for method in methods)] for size in sizes])
    typer.echo("")


def _print_means(averages: list[MarMean]) -> None:
    """All figures of the mean over all cases."""
    header = ["method", "PSNR (dB)", "gain", "lowest", "SSIM", "RMSE (HU)", "bias (HU)"]
    header += ["to metal-free: PSNR (dB)", "RMSE (HU)", "s"]
    rows = [
        [
            mean.method,
            f"{mean.psnr:.2f}",
            f"{mean.gain:+.2f}",
            f"{mean.lowest_gain:+.2f}",
            f"{mean.ssim:.4f}",
            f"{mean.rmse_hu:.1f}",
            f"{mean.bias_hu:+.1f}",
            f"{mean.free_psnr:.2f}",
            f"{mean.free_rmse_hu:.1f}",
            f"{mean.seconds:.2f}",
        ]
        for mean in averages
        if mean.metal == "all"
    ]
    print_table(header, rows)


class _Cases:
    """Results of an evaluation for its report, in HU, by slice and mask."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], dict[str, Any]] = {}
        self.references: dict[tuple[str, str], Any] = {}

    def add(self, score: MarScore, hu: Any, reference: Any) -> None:
        key = score.slice, score.mask
        if key in self.methods or len(self.methods) < _CASES_IN_REPORT:
            # Fine enough for a window of 8 bits.
            self.methods.setdefault(key, {})[score.method] = hu.astype("float16")
            self.references[key] = reference

    def write(
        self, path: Path, facts: dict[str, str], scores: list[MarScore], averages: list[MarMean]
    ) -> None:
        from deepgsr_cli.ct.display import slice_images
        from deepgsr_cli.reports.report import Report, ReportItem, write_report

        rows: dict[tuple[str, str], dict[str, float | str]] = {}
        for score in scores:
            row = rows.setdefault((score.slice, score.mask), {"metal (px)": score.metal_px})
            row[f"PSNR {score.method} (dB)"] = score.psnr
            row[f"RMSE {score.method} (HU)"] = score.rmse_hu
        items = []
        for key, metrics in rows.items():
            shown = self.methods.get(key)
            images = slice_images(self.references[key], shown, (40.0, 400.0)) if shown else []
            note = "window 40/400 HU" if shown else "pictures left out"
            items.append(ReportItem(", ".join(key), images, metrics, note))
        summary: dict[str, float | str] = {
            f"mean PSNR {mean.method} (dB)": mean.psnr for mean in averages if mean.metal == "all"
        }
        report = Report(
            "Evaluation of metal artifact reduction", "eval mar", items, {**facts, "notice": NOTICE}, summary
        )
        write_report(path, report)
