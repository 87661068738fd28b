"""Write the tables of options into the pages of this folder, from the commands themselves.

A page marks where a table goes, and what follows up to the second mark is replaced:

    <!-- options: train derain -->
    <!-- end of options -->

`<!-- options: train mar beyond train denoise -->` leaves out the options that are the same in both, and
names those that the first command has not. Run from the project's root after a change of the command line:
python docs/build.py
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_MARKED = re.compile(r"(<!-- options: (.*?) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def pages() -> list[Path]:
    """Find the pages that have tables of options."""
    return [path for path in sorted(FOLDER.glob("*.md")) if _MARKED.search(path.read_text(encoding="utf-8"))]


def rendered(text: str) -> str:
    """Return the text of a page with its tables of options as the commands are now."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{_section(found[2])}\n\n{found[3]}", text)


@functools.cache
def commands() -> dict[str, Any]:
    """Return the commands by their full name, as "train denoise"; groups are left out."""
    from typer.main import get_command

    from deepgsr_cli.cli import app

    found = {}

    def walk(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        for part, child in (inner or {}).items():
            walk(child, f"{name} {part}".strip())

    walk(get_command(app), "")
    return found


def _section(marked: str) -> str:
    """Return the table that a mark asks for, or one table for each panel of the command's help."""
    name, _, base = marked.partition(" beyond ")
    known = commands()
    rows = _rows(known[name])
    others = _rows(known[base]) if base else []
    panels: dict[str, list[str]] = {}
    for panel, row in rows:
        if (panel, row) not in others:
            panels.setdefault(panel, []).append(row)
    head = "| option | what it does | default |\n| --- | --- | --- |\n"
    tables = [
        (f"**{panel}**\n\n" if len(panels) > 1 else "") + head + "\n".join(rows)
        for panel, rows in panels.items()
    ]
    labels = {_label(row) for _, row in rows}
    if lacking := [_label(row) for _, row in others if _label(row) not in labels]:
        tables.append(f"It has no {', '.join(lacking)}.")
    return "\n\n".join(tables) or "All options are the same."


def _label(row: str) -> str:
    """Return the first cell of a table's row."""
    return row.split(" | ")[0].removeprefix("| ")


def _rows(command: Any) -> list[tuple[str, str]]:
    """Return the panel of each parameter of a command, and its row in the table."""
    rows = []
    for parameter in command.params:
        if parameter.hidden or parameter.name == "help":
            continue
        names = (*parameter.opts, *parameter.secondary_opts)
        is_option = names[0].startswith("-")
        label = ", ".join(f"`{name}`" for name in names) if is_option else f"`{parameter.name.upper()}`"
        text = html.escape(parameter.help or "", quote=False).replace("|", "\\|")
        panel = parameter.rich_help_panel or ("Options" if is_option else "Arguments")
        rows.append((panel, f"| {label} | {text} | {_default(parameter)} |"))
    return rows


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = parameter.show_default
    if isinstance(shown, str):
        return html.escape(shown, quote=False).replace("|", "\\|")
    value = parameter.default() if callable(parameter.default) else parameter.default
    if not shown or value is None or value == ():
        return ""
    if isinstance(value, bool):
        # The flag that is in force when none is given, where there are two.
        return f"`{parameter.opts[0]}`" if value and parameter.secondary_opts else ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Rewrite the pages whose tables have changed."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
