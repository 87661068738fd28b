"""Commands about weights and about this installation."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deepgsr_cli.cli.options import Json
from deepgsr_cli.cli.output import emit, print_table

app = typer.Typer(no_args_is_help=True, help="List, fetch and check weights.")


@app.command("list")
def weights_list(json_lines: Json = False) -> None:
    """List all known weights, and where they are."""
    from deepgsr_cli.weights.resolve import list_weights

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
        columns = ("name", "task", "channels", "parameters", "bytes", "source", "status")
        print_table([*columns], [[str(row[column]) for column in columns] for row in rows])
        # Several have one licence, whose words are wider than a terminal.
        for licence in dict.fromkeys(str(row["licence"]) for row in rows):
            emit("")
            emit(f"licence: {licence}")
            emit(f"of {', '.join(str(row['name']) for row in rows if row['licence'] == licence)}")


@app.command("path")
def weights_path(name: Annotated[str, typer.Argument(help="NAME or hf:// address.")]) -> None:
    """Print where a weights file is, after checking it; fetch it if need be."""
    from deepgsr_cli.weights.resolve import resolve

    typer.echo(str(resolve(name).path))


@app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="NAMEs or hf:// addresses.")],
) -> None:
    """Fetch weights into the cache, for work without a network."""
    from deepgsr_cli.weights.resolve import pull

    for name in names:
        typer.echo(str(pull(name)))


@app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="NAMEs; all if none is given.")] = None,
) -> None:
    """Compare weights on this machine with the manifest's checksums."""
    from deepgsr_cli.weights.manifest import load_manifest
    from deepgsr_cli.weights.resolve import verify

    statuses = [verify(name) for name in names or load_manifest()]
    for status in statuses:
        typer.echo(f"{status.entry.name}: {status.status}")
    if any(status.status == "wrong checksum" or (names and status.status != "ok") for status in statuses):
        raise typer.Exit(1)


def register(parent: typer.Typer) -> None:
    """Add the commands to an app, as a group."""
    parent.add_typer(app, name="weights")
