"""`deepgsr`, or `python -m deepgsr_cli`: the command line."""

import signal


def main() -> None:
    """Run the command line.

    An interrupt that comes before a command begins, or after its end, just ends the process.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from deepgsr_cli.cli import app

    app(prog_name="deepgsr")


if __name__ == "__main__":
    main()
