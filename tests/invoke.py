"""The command line, called by tests of what must be equal to it."""

import shlex

from typer.testing import CliRunner

from deepgsr_cli.cli import app


def invoke(arguments: str) -> str:
    """Run `deepgsr` with arguments, which must succeed; return what it prints on stdout."""
    result = CliRunner().invoke(app, shlex.split(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout
