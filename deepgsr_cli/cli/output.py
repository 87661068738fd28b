"""What commands print: sentences and progress on stderr, tables on stdout."""

from __future__ import annotations

import logging
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from deepgsr_cli.errors import OutputError


def one_line(text: str) -> str:
    """Return text with control characters as Python writes them, as \\n: they may come from a file's name,
    which must neither look like two lines nor steer a terminal."""
    if not any(unicodedata.category(letter) == "Cc" for letter in text):
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) == "Cc" else letter
        for letter in text
    )


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; one that is closed is None."""
    return stream is not None and stream.isatty()


def say(text: str, style: str | None = None) -> None:
    """Print a line to stderr."""
    text = one_line(text)
    # Not rich: file names have brackets, and rich is slow to start.
    colour = style if style and is_terminal(sys.stderr) and "NO_COLOR" not in os.environ else None
    typer.echo(typer.style(text, fg=colour) if colour else text, err=True)


def say_lines(text: str) -> None:
    """Print lines to stderr, as a traceback."""
    for line in text.splitlines():
        say(line)


def emit(text: str) -> None:
    """Print a line to stdout, above the progress bar where there is one; as it is, unless to a terminal.

    Raises:
        OutputError: It cannot be written, as on a full disk.
    """
    if is_terminal(sys.stdout):
        text = one_line(text)
    try:
        typer.echo(text, file=sys.stdout)  # without a file it would bypass the bar
    except BrokenPipeError:
        raise  # who reads has had enough
    except OSError as error:
        raise OutputError(f"standard output: cannot be written, {error.strerror}; free some space") from error


def silent(text: str) -> None:
    pass


@contextmanager
def progress_bar(total: int, label: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr with the remaining time, where stderr is a terminal; call it with what is done."""
    if quiet or not is_terminal(sys.stderr):
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(
        *columns,
        console=Console(stderr=True, highlight=False, soft_wrap=True),
        transient=True,
        redirect_stdout=is_terminal(sys.stdout),
    ) as progress:
        task = progress.add_task(label, total=total, text="")

        def advance(done: float, text: str) -> None:
            progress.update(task, completed=done, text=escape(one_line(text)))

        yield advance


@contextmanager
def told_of_compiling(quiet: bool) -> Iterator[None]:
    """Say, once, that loops are compiled, where they are and stderr is a terminal."""
    if quiet or not is_terminal(sys.stderr):
        yield
        return

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.removeHandler(self)
            say(record.getMessage())

    # That of `compute.kernels`, which is not imported for it.
    logger, teller = logging.getLogger("deepgsr_cli.compute.kernels"), Teller()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)


def finite(value: Any) -> Any:
    """JSON has no infinity: PSNR of equal pictures is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns, words to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [all(row[i].replace(".", "").isdigit() for row in rows if row[i]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = (cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric))
        emit("  ".join(cells).rstrip())
