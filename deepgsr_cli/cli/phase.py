"""Commands for phase retrieval."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgsr_cli.cli.command import PICTURES_IN_REPORT
from deepgsr_cli.cli.evaluate import CsvFile, Limit, present, print_facts, write_csv
from deepgsr_cli.cli.options import Device, Json, Offline, Quiet, ReportFile, Seed, Weights, check_report
from deepgsr_cli.cli.output import emit, finite, print_table, progress_bar, say, silent
from deepgsr_cli.errors import OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from deepgsr_cli.formats.patterns import Measurement
    from deepgsr_cli.phase.evaluation import PhaseMean, PhaseScore
    from deepgsr_cli.phase.jobs import PhaseResult
    from deepgsr_cli.pictures.restorer import Restorer


EXAMPLE = "Example: deepgsr phase --simulate photo.png --model cdp --alpha 27 -o retrieved.png"
EVAL_EXAMPLE = "Example: deepgsr eval phase --data photos --model cdp --alpha 27 --method red --method er"

Restarts = Annotated[
    int | None,
    typer.Option(
        help="Random starts, of which the best goes on.",
        show_default="50 for fourier (20 with red), 3 for cdp",
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        help="Iterations of the projections from the best start.",
        show_default="1000 for fourier (100 with red), 300 for cdp",
    ),
]


def phase(
    measurement: Annotated[
        Path | None,
        typer.Argument(help="Intensities: .npz, .npy, .h5 or .tif.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Picture to write; .tif gets floating point, others 8 bits.",
            show_default="<name>_phase.png beside the input",
        ),
    ] = None,
    simulate: Annotated[
        Path | None, typer.Option(help="Make the measurement from this picture.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="fourier (oversampled) or cdp (coded diffraction patterns).",
            show_default="what the file says",
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks of cdp, (J, H, W), as .npy.", show_default="what the file says")
    ] = None,
    num_masks: Annotated[int, typer.Option(help="Random masks of a simulation.")] = 4,
    mask_kind: Annotated[
        str, typer.Option(help="Masks of a simulation: uniform, quaternary or binary.")
    ] = "uniform",
    noise: Annotated[
        str, typer.Option(help="Noise of a simulation by --alpha: gaussian or poisson.")
    ] = "gaussian",
    oversampling: Annotated[
        float | None,
        typer.Option(help="Samples a pixel in each direction, for fourier.", show_default="the file's, or 2"),
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            help="Where the object may be, (H, W), as .npy, for fourier.", show_default="everywhere"
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Noise level: the intensities' deviation is alpha times the magnitude.",
            show_default="the file's; 27 for a simulation",
        ),
    ] = None,
    snr: Annotated[
        float | None,
        typer.Option(
            help="Signal-to-noise ratio of the intensities in dB, for white noise.", show_default="the file's"
        ),
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(help="Largest value of the picture, as magnitude.", show_default="the file's, or 255"),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="Of the Fourier transform: prdeep or unitary.", show_default="the file's, or prdeep"
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="red (iterations with a denoiser), unrolled (trained weights, for cdp), er, hio or raar."
        ),
    ] = "red",
    prior: Annotated[
        str, typer.Option(help="Denoiser of red: deepgsr, or, to compare with it, tv or bm3d.")
    ] = "deepgsr",
    restarts: Restarts = None,
    iterations: Iterations = None,
    reference: Annotated[
        Path | None, typer.Option(help="True picture: print PSNR and SSIM.", show_default=False)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side a simulation's picture is resized to.", show_default="its own")
    ] = None,
    keep_measurement: Annotated[
        Path | None, typer.Option(help="Write the simulated measurement to this .npz.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    seed: Seed = 0,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Make a picture of the intensities of its diffraction patterns.

    The phase of the patterns is lost in the measurement. A Fourier pattern does not tell a picture from the
    shifted or turned one: these ambiguities are resolved before a comparison with a true picture.
    """
    if (measurement is None) == (simulate is None):
        raise UsageError("give either a measurement or --simulate with a picture")
    only_files: dict[str, object] = {"--masks": masks, "--support": support, "--reference": reference}
    only_files |= {"--peak": peak, "--scaling": scaling}
    only_simulations: dict[str, object] = {"--size": size, "--keep-measurement": keep_measurement}
    for name, value in (only_files if simulate is not None else only_simulations).items():
        if value is not None:
            does = "does not go with" if simulate is not None else "needs"
            raise UsageError(f"{name} {does} --simulate; leave it out")
    if alpha is not None and snr is not None:
        raise UsageError("--alpha and --snr exclude each other; give one")
    check_report(report)
    source = simulate if measurement is None else measurement
    assert source is not None
    target = source.with_name(f"{source.stem}_phase.png") if output is None else output
    for path in (target, keep_measurement):
        _check_target(path, source, overwrite)

    from deepgsr_cli.formats.patterns import read_masks, read_measurement, write_measurement
    from deepgsr_cli.phase.evaluation import read_gray
    from deepgsr_cli.phase.jobs import reconstruct, write_picture
    from deepgsr_cli.phase.methods import Settings
    from deepgsr_cli.phase.priors import DENOISER
    from deepgsr_cli.phase.simulation import Simulation
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    settings = Settings(method, prior, restarts, iterations)
    tell = silent if quiet else say
    if method != "unrolled":
        weights = weights or DENOISER
    restorer = Restorer(weights, RunOptions(device, offline=offline), tell)
    truth: np.ndarray | None
    if simulate is not None:
        picture = read_gray(simulate, size)
        simulation = Simulation(
            model or "cdp",
            num_masks,
            mask_kind,
            2.0 if oversampling is None else oversampling,
            27.0 if alpha is None else alpha,
            snr,
            noise,
            seed,
        )
        data, truth = simulation.measure(picture), picture
        if keep_measurement is not None:
            write_measurement(keep_measurement, data)
    else:
        truth = None if reference is None else read_gray(reference)
        data = read_measurement(
            source,
            model=model,
            masks=None if masks is None else read_masks(masks),
            oversampling=oversampling,
            support=None if support is None else read_masks(support)[0],
            peak=peak,
            scaling=scaling,
        )
        if alpha is not None or snr is not None:
            # What is given takes the place of both of the file's.
            data = replace(data, alpha=alpha, snr_db=snr)
    started = time.perf_counter()
    with progress_bar(1, "phase", quiet) as advance:
        result = reconstruct(
            data,
            restorer,
            settings,
            seed=seed,
            truth=truth,
            progress=lambda done, total: advance(done / total, f"{done} of {total}"),
        )
    seconds = round(time.perf_counter() - started, 3)
    write_picture(target, result.picture)
    if json_lines:
        facts = {name: finite(value) for name, value in result.facts.items()}
        line = {"input": str(source), "output": str(target), "status": "done", "seconds": seconds, **facts}
        emit(json.dumps(line | ({"note": result.note} if result.note else {})))
    else:
        text = f"{target}  residual {result.retrieval.residual:.4f}"
        if truth is not None:
            text += f", PSNR {result.facts['psnr']:.2f} dB, SSIM {result.facts['ssim']:.4f}"
        emit(text)
        if result.note:
            tell(f"{source}: {result.note}")
    if report is not None:
        _write_report(report, str(source), result, data, restorer, seed, seconds)


def _check_target(path: Path | None, source: Path, overwrite: bool) -> None:
    """Refuse a target that could not be written before the work is done rather than after."""
    if path is None:
        return
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(f"{path}: is the input itself; give another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; give --overwrite or another name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")


def _write_report(
    path: Path,
    name: str,
    result: PhaseResult,
    data: Measurement,
    restorer: Restorer,
    seed: int,
    seconds: float,
) -> None:
    from deepgsr_cli.cli.command import run_facts
    from deepgsr_cli.phase.jobs import curve_picture
    from deepgsr_cli.reports.report import Report, ReportImage, ReportItem, write_report

    labels = {"residual": "residual", "psnr": "PSNR (dB)", "ssim": "SSIM", "iterations": "iterations"}
    metrics: dict[str, float | str] = {
        label: result.facts[fact] for fact, label in labels.items() if fact in result.facts
    }
    metrics["seconds"] = seconds
    curve = ReportItem("residual by iteration", [ReportImage("Residual", curve_picture(result.retrieval))])
    protocol = run_facts() | {
        "model": str(data.model),
        "patterns": f"{len(data.intensity)} of {data.intensity.shape[2]} x {data.intensity.shape[1]}",
        "noise": f"SNR {data.snr_db:g} dB" if data.snr_db is not None else f"alpha {data.alpha}",
        "seed": str(seed),
        "figures": "clipped to [0, 1], rounded to 8 bits",
    }
    if result.weights:
        protocol["weights"] = result.weights
    items = [ReportItem(name, result.images, metrics, result.note), curve]
    write_report(path, Report("Phase retrieval", "phase", items, protocol))


def eval_phase(
    data: Annotated[Path, typer.Option(help="Folder of true pictures.")],
    model: Annotated[
        str,
        typer.Option(
            help="fourier (oversampled twice), cdp (4 masks of uniform phase) or cdp1 (1 quaternary mask)."
        ),
    ] = "cdp",
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Noise level, as of phase; may be given several times.", show_default=False),
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(
            help="Signal-to-noise ratio of the intensities in dB; may be given several times.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="red, red-tv, red-bm3d, unrolled, er, hio or raar; may be given several times.",
            show_default="red",
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side in pixels the pictures are resized to.")] = 128,
    restarts: Restarts = None,
    iterations: Iterations = None,
    limit: Limit = None,
    csv_file: CsvFile = None,
    report: ReportFile = None,
    weights: Weights = None,
    device: Device = "auto",
    seed: Seed = 0,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Simulate diffraction patterns of pictures, retrieve them by each method, and print PSNR and SSIM with
    the protocol.

    Where unrolled is among the methods, --weights are its weights, and red has the shipped ones.
    """
    from deepgsr_cli.formats.image import picture_paths
    from deepgsr_cli.phase.evaluation import PhaseEvalConfig, evaluate, means, protocol
    from deepgsr_cli.phase.methods import Settings
    from deepgsr_cli.phase.priors import DENOISER, load_unrolled
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    check_report(report)
    config = PhaseEvalConfig(
        data,
        model,
        tuple(alpha or ()),
        tuple(snr or ()),
        tuple(method or ["red"]),
        size,
        seed,
        limit,
        Settings(restarts=restarts, iterations=iterations),
    )
    label, network = "", None
    if "unrolled" in config.methods:
        loaded = load_unrolled(weights, device, offline=offline)
        label, network = loaded.weights.label, loaded.model
        weights = None
    restorer = Restorer(weights or DENOISER, RunOptions(device, offline=offline), say)
    facts = protocol(config, restorer, label)
    levels = len(config.alphas) + len(config.snrs_db)
    total = len(picture_paths(data)[:limit]) * levels * len(config.methods)
    scores: list[PhaseScore] = []
    shown: dict[tuple[str, str], dict[str, Any]] = {}

    def keep(picture: str, level: str, by: str, pixels: Any) -> None:
        if report is not None and ((picture, level) in shown or len(shown) < PICTURES_IN_REPORT):
            shown.setdefault((picture, level), {})[by] = pixels

    with progress_bar(total, "eval", quiet) as advance:
        for score in evaluate(config, restorer, network=network, keep=keep):
            scores.append(score)
            advance(len(scores), score.picture)
            if json_lines:
                typer.echo(json.dumps(present(score)))
    averages = means(scores)
    if csv_file is not None:
        write_csv(csv_file, scores)
    if json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [present(mean) for mean in averages]}))
    else:
        print_facts(facts)
        rows = [
            [m.level, m.method, f"{m.psnr:.2f}", f"{m.ssim:.4f}", f"{m.residual:.4f}", f"{m.seconds:.2f}"]
            for m in averages
        ]
        print_table(["level", "method", "PSNR (dB)", "SSIM", "residual", "seconds"], rows)
    if report is not None:
        _write_eval_report(report, facts, scores, averages, shown)


def _write_eval_report(
    path: Path,
    facts: dict[str, str],
    scores: list[PhaseScore],
    averages: list[PhaseMean],
    shown: dict[tuple[str, str], dict[str, Any]],
) -> None:
    from deepgsr_cli.formats.image import to_uint8
    from deepgsr_cli.reports.report import Report, ReportImage, ReportItem, write_report

    rows: dict[tuple[str, str], dict[str, float | str]] = {}
    for score in scores:
        row = rows.setdefault((score.picture, score.level), {})
        row[f"PSNR {score.method} (dB)"] = score.psnr
        row[f"SSIM {score.method}"] = score.ssim
    items = []
    for (picture, level), metrics in rows.items():
        pictures = shown.get((picture, level), {})
        # The truth is kept first and shown last.
        order = [*list(pictures)[1:], "truth"] if pictures else []
        images = [ReportImage(name, to_uint8(pictures[name])) for name in order]
        items.append(ReportItem(f"{picture}, {level}", images, metrics))
    summary: dict[str, float | str] = {
        f"mean PSNR {mean.method} at {mean.level} (dB)": mean.psnr for mean in averages
    }
    write_report(path, Report("Evaluation of phase retrieval", "eval phase", items, facts, summary))
