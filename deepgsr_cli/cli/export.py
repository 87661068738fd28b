"""The command that writes networks for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deepgsr_cli.cli.command import add
from deepgsr_cli.cli.options import FILES, Offline, Overwrite, check_suffix, option
from deepgsr_cli.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a network for other programs, as an ONNX file.

    What is exported are the networks of denoise, derain, restore, dejpeg and demosaick, for pictures and
    for the noise of CT slices, but none with the collaborative filter, which deepgsr-gray, deepgsr-color and
    deepgsr-photo have. The package onnx is needed: pip install 'deepgsr\\[onnx]'.
    """

    weights: Annotated[str, typer.Argument(help="NAME, FILE, or hf://owner/repo/file.")]
    output: Annotated[Path, option("--output", "-o", panel=FILES, help="File to write, .onnx.")]
    format: Annotated[str, option(panel=FILES, help="Format: onnx.")] = "onnx"
    offline: Offline = False
    overwrite: Overwrite = False


def _export(options: Export) -> None:
    if options.format != "onnx":
        raise OptionError("format", options.format, "give onnx")
    check_suffix("-o", options.output, ".onnx")
    from deepgsr_cli.pictures.onnx import export_onnx

    export_onnx(options.weights, options.output, offline=options.offline, overwrite=options.overwrite)
    typer.echo(str(options.output))


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    add(app, "export", Export, _export, examples=["deepgsr export deepgsr-gray-fast -o gray.onnx"])
