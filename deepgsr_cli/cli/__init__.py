"""The command line: options in, one call, one report. Nothing here imports torch before a command runs."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated, Any

import typer

from deepgsr_cli.cli import ct_recon, evaluate, mar, phase, pictures, train, weights
from deepgsr_cli.cli import doctor as doctor_module
from deepgsr_cli.cli.output import say
from deepgsr_cli.errors import OptionError, UserError
from deepgsr_cli.version import __version__


class Commands(typer.core.TyperGroup):
    """The commands, with what a user can cause told in one sentence."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _flow(self)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(error.for_command_line() if isinstance(error, OptionError) else str(error), style="red")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say("interrupted; what was finished is kept", style="yellow")
            ctx.exit(130)


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
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")
app.add_typer(weights.app, name="weights")
pictures.register(app)
ct_recon.register(app)
mar.register(app)
phase.register(app)
app.command()(doctor_module.doctor)


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
    for library in ("tifffile", "PIL", "imageio"):
        # What they find in a file is told by the commands, once and with its name.
        logging.getLogger(library).setLevel(logging.CRITICAL)
