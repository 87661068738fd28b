"""Commands that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgsr_cli.cli.options import Device, Json, Quiet, Seed
from deepgsr_cli.cli.output import progress_bar
from deepgsr_cli.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Train weights on your own data.")

HELP = {
    "denoise": "Train a denoiser on clean pictures; noise is added on the fly.",
    "derain": "Train a deraining network on clean pictures, over which rain is drawn, on pairs, or on both.",
    "restore": "Train a network for noise, rain or both, on the data that derain takes.",
}
_FILES = """

    The folder gets model.safetensors (the best by validation), log.csv, curve.png, and state.pt to resume
    from, also after an interruption.
    """

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
WithoutGroups = Annotated[
    bool, typer.Option("--without-groups", help="Leave the group blocks out, for ablations.")
]
Validation = Annotated[
    Path | None, typer.Option(help="Folder to validate on.", show_default="some of the data, held out")
]
Start = Annotated[
    Path | None,
    typer.Option(help="Weights to start from, as far as they fit.", show_default="random weights"),
]
Steps = Annotated[int, typer.Option(help="Steps to train.")]
MaxMinutes = Annotated[
    float | None, typer.Option(help="Minutes to train, if sooner.", show_default="no limit")
]
Scales = Annotated[
    list[float] | None,
    typer.Option("--scale", help="Train on the pictures at this scale, too; may be given several times."),
]
CropsAStep = Annotated[int, typer.Option(help="Crops a step.")]
Patch = Annotated[int, typer.Option(help="Side of a crop in pixels.")]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay.")]
Optimizer = Annotated[str, typer.Option(help="Optimiser: adamw, or muon for kernels of hidden layers.")]
Warmup = Annotated[int, typer.Option(help="Steps of warm-up.")]
Loss = Annotated[str, typer.Option(help="Loss: charbonnier, mse, or psnr (not mar).")]
Average = Annotated[float, typer.Option(help="Decay of the weights' moving average.")]
Clip = Annotated[float, typer.Option(help="Largest norm of the gradient.")]
ValidateEvery = Annotated[int, typer.Option(help="Steps between validations and saves.")]
Arithmetic = Annotated[str, typer.Option(help="Arithmetic: fp32 or bf16.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile first, which takes a minute that does not count, and pays off on a GPU."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")]


def train_pictures(
    context: typer.Context,
    output: Output,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of clean pictures; may be given several times.")
    ] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of pairs, rain/ and clean/ (derain, restore); may be given several times."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="1 for gray weights, 3 for colour.", show_default="1 for denoise, else 3"),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Shape of the network: small, paper, or, with a filter, for denoise, collaborative and base."
        ),
    ] = "small",
    without_groups: WithoutGroups = False,
    validation: Validation = None,
    held_out: Annotated[int, typer.Option(help="Pictures of the data to validate on.")] = 12,
    start: Start = None,
    sigma_min: Annotated[float, typer.Option(help="Lowest noise level on the 0-255 scale.")] = 0.0,
    sigma_max: Annotated[float, typer.Option(help="Highest noise level on the 0-255 scale.")] = 75.0,
    clipped: Annotated[
        float,
        typer.Option(help="Share of pictures whose noise is clipped and rounded as in a file (denoise)."),
    ] = 0.5,
    steps: Steps = 100_000,
    max_minutes: MaxMinutes = None,
    scales: Scales = None,
    scenes: Annotated[int, typer.Option(help="Generated scenes of repeated structure to train on, too.")] = 0,
    batch: CropsAStep = 16,
    patch: Patch = 64,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 1e-4,
    warmup: Warmup = 200,
    loss: Loss = "charbonnier",
    ema: Average = 0.999,
    clip: Clip = 1.0,
    validate_every: ValidateEvery = 1000,
    precision: Arithmetic = "fp32",
    compile: Compile = False,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    options = locals()
    task = str(options.pop("context").info_name)
    if task == "denoise" and pairs:
        raise UsageError("--pairs is for derain and restore; give denoise clean pictures by --data")
    _train(task, options | {"channels": channels or (1 if task == "denoise" else 3)})


def train_ct_recon(
    output: Output,
    data: Annotated[
        list[Path],
        typer.Option(
            help="Folder of CT slices, DICOM or 16-bit PNG of HU + 1024; may be given several times."
        ),
    ],
    without_groups: WithoutGroups = False,
    validation: Validation = None,
    held_out: Annotated[int, typer.Option(help="Files of the data to validate on, the last ones.")] = 12,
    start: Start = None,
    steps: Steps = 100_000,
    max_minutes: MaxMinutes = None,
    batch: CropsAStep = 4,
    patch: Patch = 128,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 1e-4,
    warmup: Warmup = 200,
    loss: Loss = "charbonnier",
    ema: Average = 0.999,
    clip: Clip = 1.0,
    validate_every: ValidateEvery = 500,
    precision: Arithmetic = "fp32",
    compile: Compile = False,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    _train("ct-recon", locals())


def train_mar(
    output: Output,
    data: Annotated[
        list[Path],
        typer.Option(
            help="Folder of CT slices without metal, DICOM or 16-bit PNG of HU + 1024; may be given several"
            " times."
        ),
    ],
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of metal shapes, PNG that are not zero there, to use beside generated ones; may be"
            " given several times."
        ),
    ] = None,
    without_groups: WithoutGroups = False,
    validation: Validation = None,
    held_out: Annotated[int, typer.Option(help="Files of the data to validate on, the last ones.")] = 12,
    start: Start = None,
    steps: Steps = 100_000,
    max_minutes: MaxMinutes = None,
    batch: Annotated[int, typer.Option(help="Cases a step.")] = 1,
    patch: Annotated[int, typer.Option(help="Side of a case in pixels.")] = 256,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 1e-4,
    warmup: Warmup = 200,
    loss: Loss = "charbonnier",
    ema: Average = 0.999,
    clip: Clip = 1.0,
    validate_every: ValidateEvery = 500,
    precision: Arithmetic = "fp32",
    compile: Compile = False,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    _train("mar", locals())


def train_phase(
    output: Output,
    data: Annotated[list[Path], typer.Option(help="Folder of clean pictures; may be given several times.")],
    without_groups: WithoutGroups = False,
    validation: Validation = None,
    held_out: Annotated[int, typer.Option(help="Pictures of the data to validate on.")] = 12,
    start: Start = None,
    steps: Steps = 100_000,
    max_minutes: MaxMinutes = None,
    scales: Scales = None,
    batch: CropsAStep = 8,
    patch: Patch = 64,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 1e-4,
    warmup: Warmup = 200,
    loss: Loss = "charbonnier",
    ema: Average = 0.999,
    clip: Clip = 1.0,
    validate_every: ValidateEvery = 500,
    precision: Arithmetic = "fp32",
    compile: Compile = False,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    _train("phase", locals())


def _train(task: str, options: dict[str, Any]) -> None:
    """Train with the options of a command, with a progress bar, and print where the weights are."""
    from deepgsr_cli.compute.processes import Processes
    from deepgsr_cli.tasks import train
    from deepgsr_cli.training.config import TrainConfig
    from deepgsr_cli.training.loop import Progress

    resume, json_lines, quiet = (options.pop(name) for name in ("resume", "json_lines", "quiet"))
    for name in ("data", "pairs", "masks", "scales"):
        if name in options:
            options[name] = tuple(options[name] or ())
    if options["max_minutes"] is None:
        del options["max_minutes"]
    config = TrainConfig(task=task, **options)

    with progress_bar(1, "train", quiet) as advance:

        def tell(progress: Progress) -> None:
            best = f", {progress.psnr:.2f} dB (best {progress.best:.2f})" if progress.best > 0 else ""
            advance(progress.share, f"step {progress.step}, loss {progress.loss:.4f}{best}")

        end = train(config, resume=resume, report=tell)
    facts = {
        "weights": str(config.output / "model.safetensors"),
        "steps": end.step,
        "seconds": round(end.seconds, 1),
        "validation_psnr": round(end.best, 3),
    }
    if Processes().rank == 0:
        typer.echo(json.dumps(facts) if json_lines else facts["weights"])


for _task, _text in HELP.items():
    app.command(
        _task,
        help=_text + _FILES,
        epilog=f"Example: deepgsr train {_task} --data photos -o runs/mine --max-minutes 60",
    )(train_pictures)

app.command(
    "ct-recon",
    help="Train a network for sparse-view CT on slices; scans of them are simulated on the fly." + _FILES,
    epilog="Example: deepgsr train ct-recon --data series -o runs/ct --max-minutes 60",
)(train_ct_recon)

app.command(
    "mar",
    help="Train a network for metal artifact reduction on slices without metal; metal is put into them, and"
    " scans of them are simulated." + _FILES,
    epilog="Example: deepgsr train mar --data series -o runs/mar --max-minutes 60",
)(train_mar)

app.command(
    "phase",
    help="Train a network for phase retrieval on clean pictures; coded diffraction patterns of them are"
    " simulated on the fly." + _FILES,
    epilog="Example: deepgsr train phase --data photos -o runs/phase --max-minutes 60",
)(train_phase)
