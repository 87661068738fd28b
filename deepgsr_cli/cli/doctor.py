"""The command that says what this installation can do."""

from __future__ import annotations

import json

import typer

from deepgsr_cli.cli.options import Json
from deepgsr_cli.version import __version__


def doctor(json_lines: Json = False) -> None:
    """Show versions, devices, codecs and folders, for a bug report."""
    import importlib.metadata
    import platform

    import torch

    from deepgsr_cli.compute.device import describe_devices
    from deepgsr_cli.weights.resolve import list_weights

    facts = {"deepgsr": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in (
        "torch",
        "numpy",
        "pillow",
        "imagecodecs",
        "tifffile",
        "pydicom",
        "safetensors",
        "huggingface-hub",
    ):
        facts[package] = importlib.metadata.version(package)
    for device in describe_devices():
        facts[f"device {device.name}"] = f"{device.description}, {device.free_bytes / 2**30:.1f} GiB free"
    facts["threads"] = str(torch.get_num_threads())
    from huggingface_hub.constants import HF_HUB_CACHE

    facts["hub cache"] = HF_HUB_CACHE
    for status in list_weights():
        facts[f"weights {status.entry.name}"] = status.status
    if json_lines:
        typer.echo(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for label, text in facts.items():
            typer.echo(f"{label:<{width}}  {text}")


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(doctor)
