"""Commands that reduce metal artifacts in CT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.evaluate import CsvFile, SliceLimit, present, print_facts, write_csv
from deepgsr_cli.cli.options import (
    QUALITY,
    Arithmetic,
    Device,
    GeometryFile,
    Json,
    Offline,
    Quiet,
    ReportFile,
    Seed,
    SliceOptions,
    Weights,
    check_report,
    flag,
    option,
    parse_precision,
    parse_window,
)
from deepgsr_cli.cli.output import print_table, progress_bar, say
from deepgsr_cli.ct import NOTICE

if TYPE_CHECKING:
    from deepgsr_cli.jobs.work import Facts, Result
    from deepgsr_cli.mar.evaluation import MarMean, MarScore
    from deepgsr_cli.mar.methods import MetalMethod
    from deepgsr_cli.mar.reduction import MetalCorrection, MetalPlan


EVAL_EXAMPLE = "Example: deepgsr eval mar --data slices --masks metals --method li --method nmar"

# Cases whose pictures a report of an evaluation holds, a dozen each.
_CASES_IN_REPORT = 20

MetalThreshold = Annotated[float, option(panel=QUALITY, help="CT number in HU above which is metal.")]


@dataclass(frozen=True, kw_only=True)
class Mar(SliceOptions):
    """Reduce metal artifacts in CT slices.

    A DICOM slice is corrected from the image alone, through a virtual scan of it: the result is a derived
    series that differs only where the metal's streaks were. A measured sinogram is corrected itself and
    reconstructed as its geometry file says. Slices without metal come back unchanged.
    """

    method: Annotated[
        str, option(panel=QUALITY, help="deepgsr, li (linear interpolation) or nmar (normalised).")
    ] = "deepgsr"
    metal_threshold: MetalThreshold = 2500.0
    mask: Annotated[
        Path | None,
        option(
            panel=QUALITY,
            help="Metal, instead of the threshold: .png, .npy of (H, W) or (slices, H, W), or DICOM SEG.",
            default="",
        ),
    ] = None
    keep_metal: Annotated[
        bool,
        flag("--keep-metal/--no-keep-metal", panel=QUALITY, help="Leave metal in place, or fill it in."),
    ] = True
    geometry: GeometryFile = None

    @property
    def metal(self) -> str:
        """Where metal is, in words."""
        if self.mask is not None:
            return f"in the mask {self.mask}"
        return f"above {self.metal_threshold:g} HU"

    def settings(self) -> MetalMethod:
        """Return the method and its settings."""
        from deepgsr_cli.mar.methods import MetalMethod

        precision = parse_precision(self.precision)
        return MetalMethod(self.method, self.metal_threshold, self.keep_metal, precision)


class _Mar(Command[Mar, "MetalPlan"]):
    name = "mar"
    done = "slices corrected"

    def plan(self, options: Mar) -> MetalPlan:
        from deepgsr_cli.ct.jobs import plan_scans
        from deepgsr_cli.mar.masks import read_masks
        from deepgsr_cli.mar.reduction import MetalPlan
        from deepgsr_cli.tomography.geometry_files import read_geometry

        method = options.settings()
        geometry = None if options.geometry is None else read_geometry(options.geometry)
        scans = plan_scans(
            options.inputs,
            options.output,
            format=options.format,
            geometry=geometry,
            pixel_mm=options.pixel_mm,
        )
        masks = None if options.mask is None else read_masks(options.mask, scans.jobs, geometry)
        plan = MetalPlan(**vars(scans), masks=masks)
        aims = [f"{plan.scan}; method {method.describe()}; metal {options.metal}"]
        return replace(plan, notes=[NOTICE, *plan.notes], aims=aims)

    def open(self, options: Mar, plan: MetalPlan) -> Callable[[], MetalCorrection]:
        return partial(_open, options, replace(plan, jobs=[]))

    def describe(self, options: Mar, facts: Facts) -> str:
        if not facts["metal_px"]:
            return f"no metal {options.metal}, unchanged"
        return f"metal {facts['metal_px']} px, change {facts['change_hu']:.1f} HU (RMS in the body)"

    def conclude(self, options: Mar, results: list[Result]) -> list[str]:
        without = sum(not result.facts["metal_px"] for result in results)
        if not without:
            return []
        return [f"no metal {options.metal} in {without} of {len(results)} slices, which are unchanged"]


def _open(options: Mar, plan: MetalPlan) -> MetalCorrection:
    """Make the work of a run."""
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.mar.methods import load_network
    from deepgsr_cli.mar.reduction import MetalCorrection

    network = None
    if options.method == "deepgsr":
        network = load_network(options.weights, options.device, offline=options.offline)
    device, window_hu = select_device(options.device), parse_window(options.window)
    return MetalCorrection(options.settings(), plan, options.metal, device, network, window_hu)


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    examples = (
        "deepgsr mar examples/implant.npy --geometry examples/implant.toml -o corrected.npy",
        "deepgsr mar series --method nmar -o corrected --skip-existing --report metal.html",
    )
    add(app, "mar", Mar, partial(run, _Mar()), examples=examples, note=f"For {NOTICE}.")


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
