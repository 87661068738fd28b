"""Commands about weights and about this installation."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deepgsr_cli import __version__
from deepgsr_cli.cli.options import Json
from deepgsr_cli.cli.output import print_table

app = typer.Typer(no_args_is_help=True, help="List, fetch and check weights.")


@app.command("list")
def weights_list(json_lines: Json = False) -> None:
    """List all known weights, and where they are."""
    from deepgsr_cli.weights import list_weights

    rows = []
    for status in list_weights():
        entry = status.entry
        facts = {
            "name": entry.name,
            "task": entry.task,
            "channels": entry.channels,
            "parameters": entry.parameters,
        }
        facts |= {"bytes": entry.bytes, "licence": entry.licence, "default": entry.default}
        facts |= {"source": status.source, "status": status.status, "path": str(status.path or "")}
        if json_lines:
            typer.echo(json.dumps({**facts, "measured": dict(entry.measured)}))
        rows.append(facts)
    if not json_lines:
        columns = ("name", "task", "channels", "parameters", "bytes", "source", "status", "licence")
        print_table([*columns], [[str(row[column]) for column in columns] for row in rows])


@app.command("path")
def weights_path(name: Annotated[str, typer.Argument(help="NAME or hf:// address.")]) -> None:
    """Print where a weights file is, after checking it; fetch it if need be."""
    from deepgsr_cli.weights import resolve

    typer.echo(str(resolve(name).path))


@app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="NAMEs or hf:// addresses.")],
) -> None:
    """Fetch weights into the cache, for work without a network."""
    from deepgsr_cli.weights import pull

    for name in names:
        typer.echo(str(pull(name)))


@app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="NAMEs; all if none is given.")] = None,
) -> None:
    """Compare weights on this machine with the manifest's checksums."""
    from deepgsr_cli.weights import load_manifest, verify

    statuses = [verify(name) for name in names or load_manifest()]
    for status in statuses:
        typer.echo(f"{status.entry.name}: {status.status}")
    if any(status.status == "wrong checksum" or (names and status.status != "ok") for status in statuses):
        raise typer.Exit(1)


def doctor(json_lines: Json = False) -> None:
    """Show versions, devices, codecs and folders, for a bug report."""
    import importlib.metadata
    import platform

    import torch

    from deepgsr_cli.device import describe_devices
    from deepgsr_cli.weights import list_weights

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
