"""Commands that restore picture files: an options class and a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    QUALITY,
    PictureOptions,
    option,
    parse_format,
    parse_precision,
    parse_sigma,
    parse_tile,
)
from deepgsr_cli.cli.output import say, silent
from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Plan
    from deepgsr_cli.jobs.work import Facts
    from deepgsr_cli.pictures.jobs import Restoration
    from deepgsr_cli.pictures.restorer import Noise

Sigma = Annotated[
    str,
    option(panel=QUALITY, help="Noise standard deviation on the 0-255 scale, or auto to estimate it."),
]


NoiseKind = Annotated[
    str,
    option(
        panel=QUALITY,
        help="Noise: white; camera, as photographs have it; or auto, to look, or white with --sigma.",
    ),
]
NOISES = ("auto", "white", "camera")


@dataclass(frozen=True, kw_only=True)
class Denoise(PictureOptions):
    """Remove noise from pictures."""

    sigma: Sigma = "auto"
    noise: NoiseKind = "auto"

    def check(self) -> None:
        if self.noise not in NOISES:
            raise UsageError(f"--noise {self.noise}: give {', '.join(NOISES[:-1])} or {NOISES[-1]}")
        super().check()

    def level(self) -> float | None:
        return parse_sigma(self.sigma)

    def kind_of_noise(self) -> Noise:
        return cast("Noise", self.noise)


@dataclass(frozen=True, kw_only=True)
class Derain(PictureOptions):
    """Remove rain from pictures."""


@dataclass(frozen=True, kw_only=True)
class Restore(PictureOptions):
    """Remove noise, rain or both from pictures, without being told which.

    Where the noise level is known, denoise is better.
    """


# By the name of the task: the options, and what its help ends with.
COMMANDS: dict[str, tuple[type[PictureOptions], tuple[str, ...]]] = {
    "denoise": (
        Denoise,
        (
            "deepgsr denoise examples/cat_noisy.png",
            "deepgsr denoise examples/cat_noisy.png --sigma 25 -o clean.png",
            "deepgsr denoise photos -o restored --skip-existing --report restored.html",
        ),
    ),
    "derain": (
        Derain,
        (
            "deepgsr derain examples/cat_noisy.png -o dry.png",
            "deepgsr derain photos -o dry --skip-existing --report dry.html",
        ),
    ),
    "restore": (
        Restore,
        (
            "deepgsr restore examples/cat_noisy.png -o restored.png",
            "deepgsr restore photos -o restored --skip-existing --report restored.html",
        ),
    ),
}
_KEPT = "Depth, alpha, colour profile, orientation and resolution are kept, and no input is overwritten."


@dataclass(frozen=True)
class PictureCommand(Command[PictureOptions, "Plan"]):
    """The command of a task on pictures."""

    name: str
    done = "restored"

    def plan(self, options: PictureOptions) -> Plan:
        from deepgsr_cli.formats.image import SUFFIXES
        from deepgsr_cli.jobs.plan import plan

        options.level()
        return plan(options.inputs, options.output, self.name, SUFFIXES)

    def open(self, options: PictureOptions, plan: Plan) -> Callable[[], Restoration]:
        return partial(_open, self.name, options)

    def describe(self, options: PictureOptions, facts: Facts) -> str:
        if "psnr" not in facts:
            return ""
        text = f"PSNR {facts['psnr_in']:.2f} -> {facts['psnr']:.2f} dB"
        return f"{text}, SSIM {facts['ssim_in']:.4f} -> {facts['ssim']:.4f}"


def _open(task: str, options: PictureOptions) -> Restoration:
    """Make the work of a run of a picture command."""
    from deepgsr_cli.pictures.jobs import FileOptions, Restoration
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    running = RunOptions(
        options.device,
        parse_precision(options.precision),
        parse_tile(options.tile),
        options.overlap,
        options.batch,
        options.offline,
        options.ensemble,
    )
    restorer = Restorer(
        options.weights, running, silent if options.quiet else say, task, options.kind_of_noise()
    )
    files = FileOptions(
        options.level(),
        options.strength,
        options.reference,
        parse_format(options.format),
        options.white,
        options.max_pixels,
    )
    return Restoration(restorer, files)


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    for name, (options, examples) in COMMANDS.items():
        add(app, name, options, partial(run, PictureCommand(name)), examples=examples, about=_KEPT)
