"""The command line: options in, one call, one report. Nothing here imports torch before a command runs."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from deepgsr_cli import __version__
from deepgsr_cli.errors import UsageError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from deepgsr_cli.batch import Job, Outcome
    from deepgsr_cli.restore import Denoiser
    from deepgsr_cli.tiling import Precision


class Commands(typer.core.TyperGroup):
    """The commands, with what a user can cause told in one sentence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _say(str(error), style="red")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _say("interrupted; what was finished is kept", style="yellow")
            ctx.exit(130)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Restore images with the DeepGSR group sparsity prior.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train weights on your own pictures.")
eval_app = typer.Typer(no_args_is_help=True, help="Measure methods on clean test pictures.")
weights_app = typer.Typer(no_args_is_help=True, help="List, fetch and check weights.")
app.add_typer(train_app, name="train")
app.add_typer(eval_app, name="eval")
app.add_typer(weights_app, name="weights")

# Options that mean the same everywhere.
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
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network for weights.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of unexpected errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout, nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write a report to this .html or .json file.", show_default=False),
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"deepgsr {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name the terminal cannot show must not stop the work.
            stream.reconfigure(errors="replace")


@app.command(epilog="Example: deepgsr denoise scan.png --sigma 25 -o clean.png")
def denoise(
    inputs: Annotated[
        list[str], typer.Argument(help="Pictures, folders of pictures, globs, or - for standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File, folder, or - for standard output.",
            show_default="<name>_denoise beside the input",
        ),
    ] = None,
    sigma: Annotated[
        str, typer.Option(help="Noise standard deviation on the 0-255 scale, or auto to estimate it.")
    ] = "auto",
    strength: Annotated[float, typer.Option(help="Share of the correction applied, 0 to 1.")] = 1.0,
    reference: Annotated[
        Path | None,
        typer.Option(help="Clean picture, or folder of them: print PSNR and SSIM.", show_default=False),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    format: Annotated[
        str | None,
        typer.Option(help="Output format: png, jpeg, tiff, webp or bmp.", show_default="by suffix"),
    ] = None,
    white: Annotated[float, typer.Option(help="Value of white in floating point files.")] = 1.0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels a file may have.")] = 2**29,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Pass over finished files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Do part i of n, as 3/8, for job arrays.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done.")] = False,
    report: ReportFile = None,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise from pictures.

    Depth, alpha, colour profile, orientation and resolution are kept, and no input is overwritten.
    """
    from deepgsr_cli.batch import STREAM, plan, run
    from deepgsr_cli.batch import shard as part
    from deepgsr_cli.images import SUFFIXES

    level = _sigma(sigma)
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength {strength:g}: give 0 (nothing) to 1 (all)")
    if not white > 0 or not math.isfinite(white):
        raise UsageError(f"--white {white:g}: give the value of white, above 0")
    if max_pixels < 1:
        raise UsageError(f"--max-pixels {max_pixels}: give 1 or more")
    if skip_existing and overwrite:
        raise UsageError("--skip-existing and --overwrite exclude each other; give one")
    if json_lines and output == STREAM:
        raise UsageError("--json and -o - would both use standard output; give -o a file")
    if reference is not None and not reference.exists():
        raise UsageError(f"--reference {reference}: no such file or folder")
    _check_report(report)
    todo = plan(inputs, output, "denoise", SUFFIXES)
    jobs = todo.jobs if shard is None else part(todo.jobs, shard)
    tell = _say if not quiet else _silent
    if todo.passed_over:
        tell(f"{todo.passed_over} files passed over that are no pictures")
    if dry_run:
        for job in jobs:
            exists = job.target is not None and job.target.exists()
            action = (
                ("skip" if skip_existing else "fail" if not overwrite else "replace") if exists else "write"
            )
            _print_job(job, {"action": action}, json_lines)
        return

    # torch comes in here, so what is wrong with the command line is said before.
    from deepgsr_cli.pictures import PictureOptions, denoise_file
    from deepgsr_cli.restore import Denoiser, RunOptions

    options = RunOptions(device, _precision(precision), _tile(tile), overlap, batch, offline)
    denoiser = Denoiser(weights, options, tell)
    todo_options = PictureOptions(level, strength, reference, _format(format), white, max_pixels)
    with _progress(len(jobs), "denoise", quiet) as advance:
        outcomes: list[Outcome] = []

        def work(job: Job) -> Any:
            done = len(outcomes)
            shown = replace(todo_options, for_report=report is not None and done < _PICTURES_IN_REPORT)
            return denoise_file(job, denoiser, shown, lambda now, all_: advance(done + now / all_, job.label))

        for outcome in run(jobs, _guarded(work, verbose), skip_existing=skip_existing, overwrite=overwrite):
            outcomes.append(outcome)
            advance(len(outcomes), outcome.job.label)
            _print_outcome(outcome, json_lines, tell)
    _print_summary(outcomes, tell)
    if report is not None:
        _write_picture_report(report, outcomes, denoiser, sigma)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@train_app.command(
    "denoise", epilog="Example: deepgsr train denoise --data photos -o runs/mine --max-minutes 60"
)
def train_denoise(
    data: Annotated[list[Path], typer.Option(help="Folder of clean pictures; may be given several times.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    channels: Annotated[int, typer.Option(help="1 for gray weights, 3 for colour.")] = 1,
    preset: Annotated[str, typer.Option(help="Size of the network: small or paper.")] = "small",
    without_groups: Annotated[
        bool, typer.Option("--without-groups", help="Leave the group blocks out, for ablations.")
    ] = False,
    validation: Annotated[
        Path | None, typer.Option(help="Folder to validate on.", show_default="some of the data, held out")
    ] = None,
    held_out: Annotated[int, typer.Option(help="Pictures of the data to validate on.")] = 12,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from.", show_default="random weights")
    ] = None,
    sigma_min: Annotated[float, typer.Option(help="Lowest noise level on the 0-255 scale.")] = 0.0,
    sigma_max: Annotated[float, typer.Option(help="Highest noise level on the 0-255 scale.")] = 75.0,
    steps: Annotated[int, typer.Option(help="Steps to train.")] = 100_000,
    max_minutes: Annotated[
        float | None, typer.Option(help="Minutes to train, if sooner.", show_default="no limit")
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(help="Train on the pictures at this scale, too; may be given several times."),
    ] = None,
    scenes: Annotated[int, typer.Option(help="Generated scenes of repeated structure to train on, too.")] = 0,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = 16,
    patch: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 1e-4,
    warmup: Annotated[int, typer.Option(help="Steps of warm-up.")] = 200,
    loss: Annotated[str, typer.Option(help="Loss: charbonnier or mse.")] = "charbonnier",
    ema: Annotated[float, typer.Option(help="Decay of the weights' moving average.")] = 0.999,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1.0,
    validate_every: Annotated[int, typer.Option(help="Steps between validations and saves.")] = 1000,
    precision: Annotated[str, typer.Option(help="Arithmetic: fp32 or bf16.")] = "fp32",
    device: Device = "auto",
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a denoiser on clean pictures; noise is added on the fly.

    The folder gets model.safetensors (the best by validation), log.csv, curve.png, and state.pt to resume
    from, also after an interruption.
    """
    from deepgsr_cli.train import Progress, TrainConfig, train

    config = TrainConfig(
        tuple(data),
        output,
        channels,
        preset,
        without_groups,
        validation,
        held_out,
        start,
        sigma_min,
        sigma_max,
        steps,
        math.inf if max_minutes is None else max_minutes,
        tuple(scale or ()),
        scenes,
        batch,
        patch,
        learning_rate,
        weight_decay,
        warmup,
        loss,
        ema,
        clip,
        validate_every,
        precision,
        device,
        seed,
    )
    with _progress(1, "train", quiet) as advance:

        def tell(progress: Progress) -> None:
            best = f", {progress.psnr:.2f} dB (best {progress.best:.2f})" if progress.best > 0 else ""
            advance(progress.share, f"step {progress.step}, loss {progress.loss:.4f}{best}")

        end = train(config, resume=resume, report=tell)
    facts = {
        "weights": str(output / "model.safetensors"),
        "steps": end.step,
        "seconds": round(end.seconds, 1),
    }
    facts["validation_psnr"] = round(end.best, 3)
    if json_lines:
        typer.echo(json.dumps(facts))
    else:
        typer.echo(facts["weights"])


@eval_app.command(
    "denoise", epilog="Example: deepgsr eval denoise --data BSD68 --sigma 15 --sigma 25 --sigma 50"
)
def eval_denoise(
    data: Annotated[Path, typer.Option(help="Folder of clean pictures.")],
    sigma: Annotated[
        list[float], typer.Option(help="Noise level on the 0-255 scale; may be given several times.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(help="deepgsr, bm3d, nlm or tv; may be given several times.", show_default="deepgsr"),
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Convert colour to luma.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first pictures.", show_default="all")] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write each picture's figures to this file.", show_default=False),
    ] = None,
    report: ReportFile = None,
    weights: Weights = None,
    device: Device = "auto",
    precision: Arithmetic = "fp32",
    tile: Tile = "auto",
    overlap: Overlap = None,
    batch: Batch = None,
    seed: Seed = 0,
    json_lines: Json = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Add noise to clean pictures, remove it by each method, and print PSNR and SSIM with the protocol."""
    from deepgsr_cli.data import picture_paths
    from deepgsr_cli.evaluate import EvalConfig, Score, evaluate, means, protocol
    from deepgsr_cli.restore import Denoiser, RunOptions

    _check_report(report)
    config = EvalConfig(data, tuple(sigma), tuple(method or ["deepgsr"]), gray, seed, limit)
    denoiser = Denoiser(
        weights, RunOptions(device, _precision(precision), _tile(tile), overlap, batch, offline), _say
    )
    facts = protocol(config, denoiser)
    total = len(picture_paths(data)[:limit]) * len(config.sigmas) * (1 + len(config.methods))
    scores: list[Score] = []
    shown = _EvalPictures() if report is not None else None
    sizes: dict[str, int] = {}

    def keep(picture: str, level: float, by: str, pixels: Any) -> None:
        sizes[picture] = pixels[0].size
        if shown is not None:
            shown.add(picture, level, by, pixels)

    with _progress(total, "eval", quiet) as advance:
        for score in evaluate(config, denoiser, keep=keep):
            scores.append(score)
            advance(len(scores), score.picture)
            if json_lines:
                typer.echo(json.dumps(asdict(score)))
    averages = means(scores, sizes)
    if csv_file is not None:
        _write_csv(csv_file, scores)
    if json_lines:
        typer.echo(json.dumps({"protocol": facts, "means": [asdict(mean) for mean in averages]}))
    else:
        _print_eval(facts, averages)
    if report is not None:
        assert shown is not None
        shown.write(report, facts, scores, averages)


@weights_app.command("list")
def weights_list(json_lines: Json = False) -> None:
    """List all known weights, and where they are."""
    from deepgsr_cli.weights import list_weights

    rows = []
    for status in list_weights():
        entry = status.entry
        facts = {
            "name": entry.name,
            "task": entry.task,
            "channels": entry.channels,
            "parameters": entry.parameters,
        }
        facts |= {"bytes": entry.bytes, "licence": entry.licence, "default": entry.default}
        facts |= {"source": status.source, "status": status.status, "path": str(status.path or "")}
        if json_lines:
            typer.echo(json.dumps({**facts, "measured": dict(entry.measured)}))
        rows.append(facts)
    if not json_lines:
        columns = ("name", "task", "channels", "parameters", "bytes", "source", "status", "licence")
        _print_table([*columns], [[str(row[column]) for column in columns] for row in rows])


@weights_app.command("path")
def weights_path(name: Annotated[str, typer.Argument(help="NAME or hf:// address.")]) -> None:
    """Print where a weights file is, after checking it; fetch it if need be."""
    from deepgsr_cli.weights import resolve

    typer.echo(str(resolve(name).path))


@weights_app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="NAMEs or hf:// addresses.")],
) -> None:
    """Fetch weights into the cache, for work without a network."""
    from deepgsr_cli.weights import pull

    for name in names:
        typer.echo(str(pull(name)))


@weights_app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="NAMEs; all if none is given.")] = None,
) -> None:
    """Compare weights on this machine with the manifest's checksums."""
    from deepgsr_cli.weights import load_manifest, verify

    statuses = [verify(name) for name in names or load_manifest()]
    for status in statuses:
        typer.echo(f"{status.entry.name}: {status.status}")
    if any(status.status == "wrong checksum" or (names and status.status != "ok") for status in statuses):
        raise typer.Exit(1)


@app.command()
def doctor(json_lines: Json = False) -> None:
    """Show versions, devices, codecs and folders, for a bug report."""
    import importlib.metadata
    import platform

    import torch

    from deepgsr_cli.device import describe_devices
    from deepgsr_cli.weights import list_weights

    facts = {"deepgsr": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in (
        "torch",
        "numpy",
        "pillow",
        "imagecodecs",
        "tifffile",
        "pydicom",
        "safetensors",
        "huggingface-hub",
    ):
        facts[package] = importlib.metadata.version(package)
    for device in describe_devices():
        facts[f"device {device.name}"] = f"{device.description}, {device.free_bytes / 2**30:.1f} GiB free"
    facts["threads"] = str(torch.get_num_threads())
    from huggingface_hub.constants import HF_HUB_CACHE

    facts["hub cache"] = HF_HUB_CACHE
    for status in list_weights():
        facts[f"weights {status.entry.name}"] = status.status
    if json_lines:
        typer.echo(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for label, text in facts.items():
            typer.echo(f"{label:<{width}}  {text}")


def _sigma(text: str) -> float | None:
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


def _precision(text: str) -> Precision:
    if text not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"--precision {text}: give fp32, bf16 or fp16")
    return cast("Precision", text)


def _tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--tile {text}: give a number of pixels, 0 for the whole picture, or auto")
    return int(text)


def _format(text: str | None) -> str | None:
    from deepgsr_cli.images import SUFFIXES

    if text is None:
        return None
    kinds = {suffix[1:]: kind for suffix, kind in SUFFIXES.items()}
    if text.lower() not in kinds:
        raise UsageError(f"--format {text}: known are {', '.join(kinds)}")
    return kinds[text.lower()]


def _check_report(path: Path | None) -> None:
    """Refuse a report that could not be written before the work is done rather than after."""
    if path is not None and path.suffix.lower() not in (".html", ".json"):
        raise UsageError(f"--report {path}: give a file that ends in .html or .json")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--report {path}: there is no folder {path.parent}; make it first")


def _guarded(work: Callable[[Job], Any], verbose: bool) -> Callable[[Job], Any]:
    """Work whose unexpected errors, our own mistakes, fail one file and not the batch."""

    def guarded(job: Job) -> Any:
        try:
            return work(job)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if verbose:
                _say(traceback.format_exc())
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"{job.label}: unexpected {text}; please report it, with the output of -v"
            ) from error

    return guarded


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _say(text: str, style: str | None = None) -> None:
    """Print to stderr."""
    # Not rich: file names have brackets, and rich is slow to start.
    colour = style if style and sys.stderr.isatty() and "NO_COLOR" not in os.environ else None
    typer.echo(typer.style(text, fg=colour) if colour else text, err=True)


def _silent(text: str) -> None:
    pass


@contextmanager
def _progress(total: int, label: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr with the remaining time, where stderr is a terminal; call it with what is done."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, text: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=_console(), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(label, total=total, text="")

        def advance(done: float, text: str) -> None:
            progress.update(task, completed=done, text=escape(text))

        yield advance


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
            line |= {name: _finite(value) for name, value in result.facts.items()}
            if result.note:
                line["note"] = result.note
        if outcome.error:
            line["error"] = outcome.error
        typer.echo(json.dumps(line))
        return
    if outcome.status == "failed":
        _say(str(outcome.error), style="red")
    elif outcome.status == "done":
        facts = result.facts
        if job.target is not None:
            text = target
            if "psnr" in facts:
                text += f"  PSNR {facts['psnr_in']:.2f} -> {facts['psnr']:.2f} dB"
                text += f", SSIM {facts['ssim_in']:.4f} -> {facts['ssim']:.4f}"
            typer.echo(text)
        if "sigma_estimated" in facts:
            levels = ", ".join(f"{level:g}" for level in facts["sigma_estimated"])
            note = f"; {result.note}" if result.note else ""
            tell(f"{job.label}: noise estimated as sigma {levels} (0-255 scale){note}")


def _finite(value: Any) -> Any:
    """JSON has no infinity: PSNR of equal pictures is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_summary(outcomes: list[Outcome], tell: Callable[[str], None]) -> None:
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    if len(outcomes) > 1:
        text = f"{counts['done']} restored"
        text += f", {counts['skipped']} skipped" if counts["skipped"] else ""
        text += f", {counts['failed']} failed" if counts["failed"] else ""
        tell(text)


# More pictures than this would make a report that no browser opens.
_PICTURES_IN_REPORT = 100


def _write_picture_report(path: Path, outcomes: list[Outcome], denoiser: Denoiser, sigma: str) -> None:
    from deepgsr_cli.report import Report, ReportItem, write_report

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
    protocol = _protocol(denoiser) | {"sigma": sigma, "figures": "clipped to [0, 1], rounded as written"}
    for channels in denoiser.loaded:
        resolved, _ = denoiser.load(channels)
        name = resolved.entry.name if resolved.entry else resolved.path.name
        protocol[f"weights ({'gray' if channels == 1 else 'colour'})"] = f"{name}, sha256 {resolved.sha256}"
    summary = _means([item.metrics for item in items], [*labels.values()][1:])
    write_report(path, Report("Denoised pictures", "denoise", items, protocol, summary))


def _protocol(denoiser: Denoiser) -> dict[str, str]:
    options = denoiser.options
    return {
        "command": shlex.join(["deepgsr", *sys.argv[1:]]),
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": options.device,
        "precision": options.precision,
        "tile": "auto" if options.tile is None else str(options.tile),
    }


def _means(rows: list[dict[str, Any]], names: list[str]) -> dict[str, float | str]:
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


class _EvalPictures:
    """Pictures of an evaluation for its report, at the first noise level."""

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, float], dict[str, Any]] = {}

    def add(self, picture: str, sigma: float, method: str, pixels: Any) -> None:
        from deepgsr_cli.images import to_uint8

        if (picture, sigma) in self.pictures or len(self.pictures) < _PICTURES_IN_REPORT:
            self.pictures.setdefault((picture, sigma), {})[method] = to_uint8(pixels)

    def write(self, path: Path, facts: dict[str, str], scores: list[Any], averages: list[Any]) -> None:
        from deepgsr_cli.report import Report, ReportImage, ReportItem, fit_for_report, write_report

        rows: dict[tuple[str, float], dict[str, float | str]] = {}
        for score in scores:
            row = rows.setdefault((score.picture, score.sigma), {"sigma": score.sigma})
            row[f"PSNR {score.method} (dB)"] = score.psnr
            row[f"SSIM {score.method}"] = score.ssim
        items = []
        for (picture, sigma), metrics in rows.items():
            shown = self.pictures.get((picture, sigma), {})
            ours = [name for name in shown if name not in ("clean", "noisy")]
            order = ["noisy", *ours, "clean"] if shown else []
            crops, cut = (
                fit_for_report(*(shown[name] for name in order)) if shown else ([], "pictures left out")
            )
            images = [ReportImage(name, crop) for name, crop in zip(order, crops)]
            items.append(ReportItem(f"{picture}, sigma {sigma:g}", images, metrics, cut))
        summary: dict[str, float | str] = {}
        for mean in averages:
            summary[f"mean PSNR {mean.method} at sigma {mean.sigma:g} (dB)"] = mean.psnr
        write_report(path, Report("Evaluation of denoising", "eval denoise", items, facts, summary))


def _write_csv(path: Path, scores: list[Any]) -> None:
    import csv

    from deepgsr_cli.files import atomic_write

    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["picture", "sigma", "method", "psnr", "ssim", "seconds"])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def _print_eval(facts: dict[str, str], averages: list[Any]) -> None:
    for label, text in facts.items():
        typer.echo(f"{label:<8} {text}")
    typer.echo("")
    rows = []
    for mean in averages:
        speed = "" if mean.method == "noisy" else f"{mean.pixels_per_second / 1e6:.3f}"
        rows.append([f"{mean.sigma:g}", mean.method, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}", speed])
    _print_table(["sigma", "method", "PSNR (dB)", "SSIM", "Mpx/s"], rows)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns, words to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [all(row[i].replace(".", "").isdigit() for row in rows if row[i]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = (cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric))
        typer.echo("  ".join(cells).rstrip())
