"""Commands that measure methods."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.command import PICTURES_IN_REPORT
from deepgsr_cli.cli.ct_recon import DEFAULT_VIEWS, NOTICE
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
    Seed,
    Tile,
    Weights,
    check_report,
    parse_precision,
    parse_tile,
)
from deepgsr_cli.cli.output import finite, print_table, progress_bar, say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from deepgsr_cli.ct.evaluation import CtMean, CtScore
    from deepgsr_cli.pictures.evaluation import EvalConfig, Mean, Score
    from deepgsr_cli.pictures.restorer import RunOptions


app = typer.Typer(no_args_is_help=True, help="Measure methods on test pictures.")

Limit = Annotated[int | None, typer.Option(help="Only the first pictures.", show_default="all")]
SliceLimit = Annotated[int | None, typer.Option(help="Only the first slices.", show_default="all")]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", help="Write the figures of each to this file.", show_default=False)
]


@app.command("denoise", epilog="Example: deepgsr eval denoise --data BSD68 --sigma 15 --sigma 25 --sigma 50")
def eval_denoise(
    data: Annotated[Path, typer.Option(help="Folder of clean pictures.")],
    sigma: Annotated[
        list[float], typer.Option(help="Noise level on the 0-255 scale; may be given several times.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="deepgsr, restore, bm3d, nlm or tv; may be given several times.", show_default="deepgsr"
        ),
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Convert colour to luma.")] = False,
    clipped: Annotated[
        bool, typer.Option("--clipped", help="Clip the noisy pictures and round them, as 8-bit files do.")
    ] = False,
    limit: Limit = None,
    csv_file: CsvFile = None,
    report: ReportFile = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    ensemble: Ensemble = False,
    seed: Seed = 0,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Add noise to clean pictures, remove it by each method, and print PSNR and SSIM with the protocol."""
    from deepgsr_cli.pictures.evaluation import EvalConfig
    from deepgsr_cli.pictures.restorer import RunOptions

    config = EvalConfig(data, tuple(sigma), tuple(method or ["deepgsr"]), gray, clipped, seed, limit)
    arithmetic, side = parse_precision(precision), parse_tile(tile)
    options = RunOptions(device, arithmetic, side, overlap, batch, offline, ensemble)
    _evaluate(config, weights, options, csv_file, report, json_lines, quiet)


@app.command("derain", epilog="Example: deepgsr eval derain --data Rain100L --report rain.html")
def eval_derain(
    data: Annotated[Path, typer.Option(help="Folder of pairs, in rain/ and clean/ under the same names.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="deepgsr or restore; may be given several times.", show_default="deepgsr"),
    ] = None,
    limit: Limit = None,
    csv_file: CsvFile = None,
    report: ReportFile = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    ensemble: Ensemble = False,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Remove rain from pictures whose clean version is there, and print PSNR and SSIM with the protocol."""
    from deepgsr_cli.pictures.evaluation import EvalConfig
    from deepgsr_cli.pictures.restorer import RunOptions

    config = EvalConfig(data, methods=tuple(method or ["deepgsr"]), limit=limit, task="derain")
    arithmetic, side = parse_precision(precision), parse_tile(tile)
    options = RunOptions(device, arithmetic, side, overlap, batch, offline, ensemble)
    _evaluate(config, weights, options, csv_file, report, json_lines, quiet)


@app.command(
    "ct-recon",
    epilog="Example: deepgsr eval ct-recon --data slices --views 60 --photons inf --photons 1e5 --method tv",
)
def eval_ct_recon(
    data: Annotated[Path, typer.Option(help="Folder of CT slices: DICOM, or 16-bit PNG of HU + 1024.")],
    views: Annotated[
        list[int] | None,
        typer.Option(help="Views over a full turn; may be given several times.", show_default="60"),
    ] = None,
    photons: Annotated[
        list[float] | None,
        typer.Option(help="Photons a ray, inf for no noise; may be given several times.", show_default="inf"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="deepgsr, fbp, sirt, cgls or tv; may be given several times.", show_default="deepgsr"
        ),
    ] = None,
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
    """Simulate sparse scans of CT slices, reconstruct them by each method, and print the figures with the
    protocol.
    """
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.ct.evaluation import CtEvalConfig, evaluate, means, protocol
    from deepgsr_cli.ct.methods import load_network
    from deepgsr_cli.ct.slices import eval_slices

    check_report(report)
    config = CtEvalConfig(
        data,
        tuple(dict.fromkeys(views or [DEFAULT_VIEWS])),
        tuple(dict.fromkeys(photons or [math.inf])),
        tuple(dict.fromkeys(method or ["deepgsr"])),
        seed,
        limit,
        parse_precision(precision),
    )
    model = text = None
    if "deepgsr" in config.methods:
        loaded = load_network(weights, device, offline=offline)
        model, text = loaded.model, loaded.weights.label
    slices = eval_slices(data, limit)
    facts = protocol(config, slices, text)
    scores: list[CtScore] = []
    shown = _CtSlices()
    total = len(slices) * len(config.views) * len(config.photons) * len(config.methods)
    with progress_bar(total, "eval", quiet) as advance:
        for score in evaluate(
            config,
            slices,
            device=select_device(device),
            model=model,
            keep=shown.add if report is not None else None,
        ):
            scores.append(score)
            advance(len(scores), score.slice)
            if json_lines:
                typer.echo(json.dumps(present(score)))
    averages = means(scores)
    if csv_file is not None:
        write_csv(csv_file, scores)
    if json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [present(mean) for mean in averages]}))
    else:
        print_facts(facts)
        _print_ct(averages)
    if report is not None:
        shown.write(report, facts, scores, averages)


def _scan_name(views: int, photons: float) -> str:
    return f"{views} views, {'no noise' if math.isinf(photons) else f'{photons:g} photons'}"


class _CtSlices:
    """Reconstructions of an evaluation for its report, in HU windows, by slice and scan."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], dict[str, Any]] = {}
        self.references: dict[str, Any] = {}

    def add(self, score: CtScore, hu: Any, reference: Any) -> None:
        key = score.slice, _scan_name(score.views, score.photons)
        if key in self.methods or len(self.methods) < PICTURES_IN_REPORT:
            # Fine enough for a window of 8 bits.
            self.methods.setdefault(key, {})[score.method] = hu.astype("float16")
            self.references[score.slice] = reference

    def write(self, path: Path, facts: dict[str, str], scores: list[CtScore], averages: list[CtMean]) -> None:
        from deepgsr_cli.ct.display import slice_images
        from deepgsr_cli.reports.report import Report, ReportItem, write_report

        rows: dict[tuple[str, str], dict[str, float | str]] = {}
        for score in scores:
            row = rows.setdefault((score.slice, _scan_name(score.views, score.photons)), {})
            row[f"PSNR {score.method} (dB)"] = score.psnr
            row[f"RMSE {score.method} (HU)"] = score.rmse_hu
        items = []
        for (name, scan), metrics in rows.items():
            shown = self.methods.get((name, scan))
            images = slice_images(self.references[name], shown, (40.0, 400.0)) if shown else []
            note = "window 40/400 HU" if shown else "pictures left out"
            items.append(ReportItem(f"{name}, {scan}", images, metrics, note))
        summary: dict[str, float | str] = {
            f"mean PSNR {mean.method}, {_scan_name(mean.views, mean.photons)} (dB)": mean.psnr
            for mean in averages
        }
        title = "Evaluation of sparse-view CT"
        write_report(path, Report(title, "eval ct-recon", items, {**facts, "notice": NOTICE}, summary))


def _print_ct(averages: list[CtMean]) -> None:
    header = ["views", "photons", "method", "PSNR (dB)", "lowest", "SSIM", "RMSE (HU)", "bias (HU)", "s"]
    rows = [
        [
            str(mean.views),
            f"{mean.photons:g}",
            mean.method,
            f"{mean.psnr:.2f}",
            f"{mean.lowest_psnr:.2f}",
            f"{mean.ssim:.4f}",
            f"{mean.rmse_hu:.1f}",
            f"{mean.bias_hu:+.1f}",
            f"{mean.seconds:.2f}",
        ]
        for mean in averages
    ]
    print_table(header, rows)


def _evaluate(
    config: EvalConfig,
    weights: str | None,
    options: RunOptions,
    csv_file: Path | None,
    report: Path | None,
    json_lines: bool,
    quiet: bool,
) -> None:
    from deepgsr_cli.formats.image import picture_paths
    from deepgsr_cli.pictures.dataset import pair_paths
    from deepgsr_cli.pictures.evaluation import evaluate, means, protocol
    from deepgsr_cli.pictures.restorer import Restorer

    check_report(report)
    restorers = {
        "deepgsr": Restorer(weights, options, say, config.task),
        "restore": Restorer(None, options, say, "restore"),
    }
    facts = protocol(config, restorers)
    rain = config.task == "derain"
    count = len((pair_paths(config.data, "rain") if rain else picture_paths(config.data))[: config.limit])
    total = count * max(len(config.sigmas), 1) * (1 + len(config.methods))
    scores: list[Score] = []
    shown = _EvalPictures() if report is not None else None
    sizes: dict[str, int] = {}

    def keep(picture: str, level: float, by: str, pixels: Any) -> None:
        sizes[picture] = pixels[0].size
        if shown is not None:
            shown.add(picture, level, by, pixels)

    with progress_bar(total, "eval", quiet) as advance:
        for score in evaluate(config, restorers, keep=keep):
            scores.append(score)
            advance(len(scores), score.picture)
            if json_lines:
                typer.echo(json.dumps(present(score)))
    averages = means(scores, sizes)
    if csv_file is not None:
        write_csv(csv_file, scores)
    if json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [present(mean) for mean in averages]}))
    else:
        _print_eval(facts, averages)
    if report is not None:
        assert shown is not None
        shown.write(report, config.task, facts, scores, averages)


def present(record: DataclassInstance) -> dict[str, Any]:
    """Fields that have a value; infinite ones, which JSON does not know, are None."""
    return {name: finite(value) for name, value in asdict(record).items() if value is not None}


class _EvalPictures:
    """Pictures of an evaluation for its report, at the first noise level."""

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, float], dict[str, Any]] = {}

    def add(self, picture: str, sigma: float, method: str, pixels: Any) -> None:
        from deepgsr_cli.formats.image import to_uint8

        if (picture, sigma) in self.pictures or len(self.pictures) < PICTURES_IN_REPORT:
            self.pictures.setdefault((picture, sigma), {})[method] = to_uint8(pixels)

    def write(
        self, path: Path, task: str, facts: dict[str, str], scores: list[Score], averages: list[Mean]
    ) -> None:
        from deepgsr_cli.reports.report import Report, ReportImage, ReportItem, fit_for_report, write_report

        rows: dict[tuple[str, float], dict[str, float | str]] = {}
        for score in scores:
            row = rows.setdefault((score.picture, score.sigma), {"sigma": score.sigma} if score.sigma else {})
            row[f"PSNR {score.method} (dB)"] = score.psnr
            row[f"SSIM {score.method}"] = score.ssim
            if score.psnr_y is not None:
                row[f"PSNR-Y {score.method} (dB)"] = score.psnr_y
        items = []
        for (picture, sigma), metrics in rows.items():
            shown = self.pictures.get((picture, sigma), {})
            # The clean picture is kept first and shown last.
            order = [*list(shown)[1:], "clean"] if shown else []
            crops, cut = (
                fit_for_report(*(shown[name] for name in order)) if shown else ([], "pictures left out")
            )
            images = [ReportImage(name, crop) for name, crop in zip(order, crops)]
            items.append(
                ReportItem(f"{picture}, sigma {sigma:g}" if sigma else picture, images, metrics, cut)
            )
        summary: dict[str, float | str] = {}
        for mean in averages:
            level = f" at sigma {mean.sigma:g}" if mean.sigma else ""
            summary[f"mean PSNR {mean.method}{level} (dB)"] = mean.psnr
            if mean.psnr_y is not None:
                summary[f"mean PSNR-Y {mean.method} (dB)"] = mean.psnr_y
        title = "Evaluation of denoising" if task == "denoise" else "Evaluation of deraining"
        write_report(path, Report(title, f"eval {task}", items, facts, summary))


def write_csv(path: Path, scores: Sequence[DataclassInstance]) -> None:
    """Write records of one kind, a row each; fields without a value are left out."""
    import csv

    from deepgsr_cli.files import atomic_write

    rows = [{k: v for k, v in asdict(score).items() if v is not None} for score in scores]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def print_facts(facts: dict[str, str]) -> None:
    """Print a protocol on stdout, and an empty line."""
    width = max(map(len, facts))
    for label, text in facts.items():
        typer.echo(f"{label:<{width}} {text}")
    typer.echo("")


def _print_eval(facts: dict[str, str], averages: list[Mean]) -> None:
    print_facts(facts)
    rain = averages[0].psnr_y is not None
    header = ["method", *(("PSNR-Y (dB)", "SSIM-Y") if rain else ()), "PSNR (dB)", "SSIM", "Mpx/s"]
    rows = []
    for mean in averages:
        speed = "" if mean.method in ("noisy", "rainy") else f"{mean.pixels_per_second / 1e6:.3f}"
        row = [mean.method, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}", speed]
        row[1:1] = [f"{mean.psnr_y:.2f}", f"{mean.ssim_y:.4f}"] if rain else []
        rows.append(row if rain else [f"{mean.sigma:g}", *row])
    print_table(header if rain else ["sigma", *header], rows)
