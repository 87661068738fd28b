"""Commands that train: the options of `TrainConfig`, each written once, and the run told of."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgsr_cli.cli.command import add
from deepgsr_cli.cli.options import FILES, QUALITY, SPEED, Device, Json, Quiet, Seed, flag, option
from deepgsr_cli.cli.output import is_terminal, progress_bar, say
from deepgsr_cli.pictures.tasks import TASKS
from deepgsr_cli.training.config import TrainConfig

if TYPE_CHECKING:
    from deepgsr_cli.training.loop import Progress

app = typer.Typer(no_args_is_help=True, help="Train weights on your own data.")

ABOUT = (
    "The folder gets model.safetensors (the best by validation), log.csv, curve.png, and state.pt to resume"
    " from, also after an interruption."
)

CLEAN_PICTURES = option(panel=FILES, help="Folder of clean pictures; may be given several times.", default="")
# With another default for some tasks.
CropsAStep = Annotated[int, option(panel=QUALITY, help="Crops a step.")]
Patch = Annotated[int, option(panel=QUALITY, help="Side of a crop in pixels.")]
ValidateEvery = Annotated[int, option(panel=QUALITY, help="Steps between validations and saves.")]
Scenes = Annotated[int, option(panel=FILES, help="Generated scenes of repeated structure to train on, too.")]


LearningRate = Annotated[float, option(panel=QUALITY, help="Highest learning rate.")]
Optimizer = Annotated[
    str, option(panel=QUALITY, help="Optimiser: adamw, or muon for kernels of hidden layers.")
]
WarmUp = Annotated[int, option(panel=QUALITY, help="Steps of warm-up.")]
Loss = Annotated[str, option(panel=QUALITY, help="Loss: charbonnier, mse, or psnr.")]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of every training: fields of `TrainConfig`, and how the run is told of."""

    output: Annotated[Path, option("--output", "-o", panel=FILES, help="Folder of the run.")]
    validation: Annotated[
        Path | None, option(panel=FILES, help="Folder to validate on.", default="some of the data, held out")
    ] = TrainConfig.validation
    held_out: Annotated[int, option(panel=FILES, help="Pictures of the data to validate on.")] = (
        TrainConfig.held_out
    )
    start: Annotated[
        Path | None,
        option(panel=FILES, help="Weights to start from, as far as they fit.", default="random weights"),
    ] = TrainConfig.start
    resume: Annotated[bool, flag("--resume", panel=FILES, help="Go on with the run in the folder.")] = False
    without_groups: Annotated[
        bool, flag("--without-groups", panel=QUALITY, help="Leave the group blocks out, for ablations.")
    ] = TrainConfig.without_groups
    steps: Annotated[int, option(panel=QUALITY, help="Steps to train.")] = TrainConfig.steps
    max_minutes: Annotated[
        float | None, option(panel=QUALITY, help="Minutes to train, if sooner.", default="no limit")
    ] = None
    batch: CropsAStep = TrainConfig.batch
    patch: Patch = TrainConfig.patch
    learning_rate: LearningRate = TrainConfig.learning_rate
    optimizer: Optimizer = TrainConfig.optimizer
    weight_decay: Annotated[float, option(panel=QUALITY, help="Weight decay.")] = TrainConfig.weight_decay
    warmup: WarmUp = TrainConfig.warmup
    loss: Loss = TrainConfig.loss
    ema: Annotated[float, option(panel=QUALITY, help="Decay of the weights' moving average.")] = (
        TrainConfig.ema
    )
    clip: Annotated[float, option(panel=QUALITY, help="Largest norm of the gradient.")] = TrainConfig.clip
    validate_every: ValidateEvery = TrainConfig.validate_every
    seed: Seed = TrainConfig.seed
    precision: Annotated[str, option(panel=SPEED, help="Arithmetic: fp32 or bf16.")] = TrainConfig.precision
    compile: Annotated[
        bool,
        flag(
            "--compile",
            panel=SPEED,
            help="Compile first, which takes a minute that does not count, and pays off on a GPU.",
        ),
    ] = TrainConfig.compile
    device: Device = TrainConfig.device
    json_lines: Json = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Pictures(TrainOptions):
    """Options of trainings on crops of pictures."""

    scales: Annotated[
        list[float] | None,
        option(
            "--scale",
            panel=FILES,
            help="Train on the pictures at this scale, too; may be given several times.",
            default="",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Generated(Pictures):
    """Options of trainings whose degradation is generated, with the defaults that denoise learns fastest with
    (docs/training.md)."""

    batch: CropsAStep = 8
    learning_rate: LearningRate = 4e-3
    optimizer: Optimizer = "muon"
    warmup: WarmUp = 50
    loss: Loss = "psnr"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Options of the noise that is added."""

    sigma_min: Annotated[float, option(panel=QUALITY, help="Lowest noise level on the 0-255 scale.")] = (
        TrainConfig.sigma_min
    )
    sigma_max: Annotated[float, option(panel=QUALITY, help="Highest noise level on the 0-255 scale.")] = (
        TrainConfig.sigma_max
    )
    clipped: Annotated[
        float,
        option(panel=QUALITY, help="Share of noisy pictures that are clipped and rounded as in a file."),
    ] = TrainConfig.clipped


@dataclass(frozen=True, kw_only=True)
class Networks(Generated):
    """Options of trainings on clean pictures alone, for gray or colour networks of any kind."""

    data: Annotated[list[Path], CLEAN_PICTURES]
    scenes: Scenes = TrainConfig.scenes
    channels: Annotated[
        int | None, option(panel=QUALITY, help="1 for gray weights, 3 for colour.", default="1")
    ] = None
    model: Annotated[str, option(panel=QUALITY, help="Kind of network: deepgsr, groupsc or nsr.")] = (
        TrainConfig.model
    )
    preset: Annotated[
        str,
        option(
            panel=QUALITY,
            help="Shape of the network. Of deepgsr: small, wide, deep, paper, or, with a filter, base,"
            " collaborative. Of groupsc: small, paper. Of nsr: small, sparse, paper-denoise.",
        ),
    ] = TrainConfig.preset


@dataclass(frozen=True, kw_only=True)
class Denoise(Noise, Networks):
    __doc__ = TASKS["denoise"].summary


@dataclass(frozen=True, kw_only=True)
class Dejpeg(Networks):
    __doc__ = TASKS["dejpeg"].summary


@dataclass(frozen=True, kw_only=True)
class Photo(Generated):
    __doc__ = TASKS["photo"].summary

    data: Annotated[list[Path], CLEAN_PICTURES]
    scenes: Scenes = TrainConfig.scenes
    preset: Annotated[
        str,
        option(
            panel=QUALITY,
            help="Shape of the network: small, wide, deep, paper, or, with a filter, collaborative and base.",
        ),
    ] = TrainConfig.preset


@dataclass(frozen=True, kw_only=True)
class Derain(Pictures):
    __doc__ = TASKS["derain"].summary

    data: Annotated[list[Path] | None, CLEAN_PICTURES] = None
    pairs: Annotated[
        list[Path] | None,
        option(
            panel=FILES,
            help="Folder of pairs, rain/ and clean/; may be given several times.",
            default="",
        ),
    ] = None
    scenes: Scenes = TrainConfig.scenes
    preset: Annotated[str, option(panel=QUALITY, help="Shape of the network: small or paper.")] = (
        TrainConfig.preset
    )


@dataclass(frozen=True, kw_only=True)
class Restore(Noise, Derain):
    __doc__ = TASKS["restore"].summary


@dataclass(frozen=True, kw_only=True)
class Demosaick(Noise, Generated):
    __doc__ = TASKS["demosaick"].summary

    data: Annotated[list[Path], CLEAN_PICTURES]
    scenes: Scenes = TrainConfig.scenes
    sigma_max: Annotated[
        float,
        option(panel=QUALITY, help="Highest noise level on the 0-255 scale; half of the mosaics have none."),
    ] = 20.0
    model: Annotated[str, option(panel=QUALITY, help="Kind of network: deepgsr, groupsc or nsr.")] = (
        TrainConfig.model
    )
    preset: Annotated[
        str,
        option(
            panel=QUALITY,
            help="Shape of the network. Of deepgsr: small, wide, deep, paper. Of groupsc: small, paper."
            " Of nsr: small, sparse.",
        ),
    ] = TrainConfig.preset


@dataclass(frozen=True, kw_only=True)
class Upscale(Generated):
    __doc__ = TASKS["upscale"].summary

    data: Annotated[list[Path], CLEAN_PICTURES]
    batch: Annotated[int, option(panel=QUALITY, help="Crops a step, a third of them for each scale.")] = 24
    patch: Annotated[
        int, option(panel=QUALITY, help="Side of a crop in pixels, before it is reduced by four at most.")
    ] = 144
    preset: Annotated[str, option(panel=QUALITY, help="Shape of the network: upscale.")] = "upscale"


@dataclass(frozen=True, kw_only=True)
class Slices(TrainOptions):
    """Options of trainings on CT slices, with the defaults that learn fastest (docs/training.md)."""

    data: Annotated[
        list[Path],
        option(
            panel=FILES,
            help="Folder of CT slices, DICOM or 16-bit PNG of HU + 1024; may be given several times.",
        ),
    ]
    held_out: Annotated[int, option(panel=FILES, help="Files of the data to validate on, the last ones.")] = (
        TrainConfig.held_out
    )
    learning_rate: LearningRate = 4e-3
    optimizer: Optimizer = "muon"
    warmup: WarmUp = 50
    loss: Loss = "psnr"
    validate_every: ValidateEvery = 500


@dataclass(frozen=True, kw_only=True)
class CTRecon(Slices):
    """Train a network for sparse-view CT on slices; scans of them are simulated on the fly."""

    batch: CropsAStep = 4
    patch: Patch = 128


@dataclass(frozen=True, kw_only=True)
class CTDenoise(Slices):
    """Train a network for low-dose CT on slices; noise of full turns, reconstructed by kernels from smooth to
    sharp, is added on the fly."""

    batch: CropsAStep = 8
    patch: Patch = 96
    preset: Annotated[
        str, option(panel=QUALITY, help="Shape of the network: small, wide, deep or paper.")
    ] = TrainConfig.preset


@dataclass(frozen=True, kw_only=True)
class MAR(Slices):
    """Train a network for metal artifact reduction on slices without metal; metal is put into them, and scans
    of them are simulated."""

    masks: Annotated[
        list[Path] | None,
        option(
            panel=FILES,
            help="Folder of metal shapes, PNG that are not zero there, to use beside generated ones; may be"
            " given several times.",
            default="",
        ),
    ] = None
    batch: Annotated[int, option(panel=QUALITY, help="Cases a step.")] = 1
    patch: Annotated[int, option(panel=QUALITY, help="Side of a case in pixels.")] = 256


@dataclass(frozen=True, kw_only=True)
class Phase(Pictures):
    """Train a network for phase retrieval on clean pictures; coded diffraction patterns of them are simulated
    on the fly."""

    data: Annotated[list[Path], CLEAN_PICTURES]
    batch: CropsAStep = 8
    validate_every: ValidateEvery = 500


def _train(task: str, options: TrainOptions) -> None:
    """Train with the options of a command, telling how it goes on stderr; print where the weights are."""
    from deepgsr_cli.compute.memory import keep_freed_memory
    from deepgsr_cli.compute.processes import Processes
    from deepgsr_cli.tasks import train

    keep_freed_memory()
    config = _config(task, options)
    first = Processes().rank == 0
    quiet = options.quiet or not first
    if isinstance(options, Networks) and options.channels is None and not quiet:
        _say_if_in_colour(options.data)
    with progress_bar(1, "train", quiet) as advance:

        def tell(progress: Progress) -> None:
            text = _state(progress)
            advance(progress.share, text)
            if progress.validated and not quiet and not is_terminal(sys.stderr):
                say(f"{text}, {progress.seconds:.0f} s")

        end = train(config, resume=options.resume, report=tell)
    if not first:
        return
    facts = {
        "weights": str(config.output / "model.safetensors"),
        "steps": end.step,
        "seconds": round(end.seconds, 1),
        "validation_psnr": round(end.best, 3),
        "given_psnr": round(end.psnr_given, 3),
    }
    if not quiet:
        say(f"validation PSNR {end.best:.2f} dB; {end.given} has {end.psnr_given:.2f} dB")
    if options.json_lines:
        typer.echo(json.dumps(facts))
    elif not quiet:
        typer.echo(facts["weights"])


def _config(task: str, options: TrainOptions) -> TrainConfig:
    """Configuration of a run: what an option does not say is as a `TrainConfig` has it."""
    known = {field.name for field in fields(TrainConfig)}
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name in known}
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }
    if task in TASKS:
        values = {"channels": TASKS[task].channels_for(1), "model": TASKS[task].model, **values}
    return TrainConfig(task=task, **{"data": (), **values})


def _state(progress: Progress) -> str:
    best = f", {progress.psnr:.2f} dB (best {progress.best:.2f})" if progress.best > 0 else ""
    return f"step {progress.step}, loss {progress.loss:.4f}{best}"


def _say_if_in_colour(folders: list[Path]) -> None:
    """Say that weights will be gray, where the first picture of a folder is not."""
    from deepgsr_cli.formats.image import picture_paths, read_image

    if any(len(read_image(picture_paths(folder)[0]).pixels) == 3 for folder in folders):
        say("trains on the gray of these colour pictures, for gray ones; add --channels 3 for colour weights")


def _command(task: str) -> Callable[[TrainOptions], None]:
    def run(options: TrainOptions) -> None:
        from deepgsr_cli.compute.processes import ProcessError

        try:
            _train(task, options)
        except ProcessError as error:
            say(error.for_command_line(), style="red")
            sys.stderr.flush()
            # Threads that still wait for the other process may abort an interpreter that ends in order.
            os._exit(error.exit_code)

    return run


for _name, _kind, _data in (
    ("denoise", Denoise, "photos"),
    ("photo", Photo, "photos"),
    ("derain", Derain, "photos"),
    ("restore", Restore, "photos"),
    ("dejpeg", Dejpeg, "photos"),
    ("demosaick", Demosaick, "photos"),
    ("upscale", Upscale, "photos"),
    ("ct-recon", CTRecon, "series"),
    ("ct-denoise", CTDenoise, "series"),
    ("mar", MAR, "series"),
    ("phase", Phase, "photos"),
):
    add(
        app,
        _name,
        _kind,
        _command(_name),
        about=ABOUT,
        examples=[f"deepgsr train {_name} --data {_data} -o runs/mine --max-minutes 60"],
    )


def register(parent: typer.Typer) -> None:
    """Add the commands to an app, as a group."""
    parent.add_typer(app, name="train")
