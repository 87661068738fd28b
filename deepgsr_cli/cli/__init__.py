"""The command line: options in, one call, one report. Nothing here imports torch before a command runs, and a
command's options are read when it is asked for."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer
import typer.core

from deepgsr_cli.cli.output import say
from deepgsr_cli.errors import UserError
from deepgsr_cli.interrupts import exit_code, interruptible
from deepgsr_cli.version import __version__

# The file that registers each command, in the order of the help.
FILES = {
    "denoise": "pictures",
    "derain": "pictures",
    "restore": "pictures",
    "dejpeg": "pictures",
    "upscale": "pictures",
    "demosaick": "demosaick",
    "ct-recon": "ct_recon",
    "mar": "mar",
    "phase": "phase",
    "export": "export",
    "doctor": "doctor",
    "train": "train",
    "eval": "evaluate",
    "weights": "weights",
}


class _OnDemand(Mapping[str, Any]):
    """Commands by name, of which a file is imported when a command in it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            part = typer.Typer(callback=lambda: None)
            importlib.import_module(f"{__name__}.{FILES[name]}").register(part)
            group = typer.main.get_group(part)
            _flow(group)
            self._made |= group.commands
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


class Commands(typer.core.TyperGroup):
    """The commands, with what a user can cause told in one sentence."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _OnDemand()  # type: ignore[assignment]  # nothing is ever added

    @interruptible()
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(error.for_command_line(), style="red")
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise
        except OSError as error:
            # Of the machine, not of the program: a folder without rights, a disk that is gone.
            name = error.filename or "standard output"
            say(f"{name}: cannot be used, {error.strerror or error}; check it and its rights", style="red")
            ctx.exit(1)
        except KeyboardInterrupt as error:
            with suppress(OSError):  # of a terminal that is closed
                say("interrupted; what was finished is kept", style="yellow")
            ctx.exit(exit_code(error))


def _flow(command: Any) -> None:
    """Have the paragraphs of a command's help, and of those below it, broken where the terminal ends."""
    if command.help:
        command.help = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    for inner in getattr(command, "commands", {}).values():
        _flow(inner)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Restore images with the DeepGSR group sparsity prior.",
)


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
    try:
        os.getcwd()
    except OSError as error:  # without it, libraries end the process
        raise UserError(
            f"the folder the command runs in cannot be used, {error.strerror}; change to another"
        ) from error
    for library in ("tifffile", "PIL", "imageio"):
        # What they find in a file is told by the commands, once and with its name.
        logging.getLogger(library).setLevel(logging.CRITICAL)
