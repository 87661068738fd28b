"""`python -m deepgsr_cli`: the command line."""

from deepgsr_cli.cli import app

if __name__ == "__main__":
    app(prog_name="deepgsr")
