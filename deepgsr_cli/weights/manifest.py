"""The manifest: the weights that deepgsr knows by name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath

from deepgsr_cli.errors import WeightsError

_SCHEMA = 1
PACKAGE = Path(__file__).parents[1]
# A wheel has the manifest inside the package, a checkout beside it.
_MANIFESTS = (PACKAGE / "weights_manifest.json", PACKAGE.parent / "weights_manifest.json")


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub: repository "owner/name", revision (commit, tag or branch), path."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True)
class WeightsEntry:
    """One entry of the manifest, where the keys are these names.

    Exactly one of `file` (relative to the package's bundled folder) and `hub` is given. `sha256` (64 lower
    case hex digits) and `bytes` are of the file, `parameters` counts the model's. `measured` maps a
    protocol to its figure. `default` marks the one entry used where a task and channel count ask for none.
    """

    name: str
    model: str
    task: str
    channels: int
    sha256: str
    bytes: int
    licence: str
    training_data: str
    measured: Mapping[str, float | str]
    parameters: int
    description: str
    file: str | None = None
    hub: HubFile | None = None
    default: bool = False


def load_manifest(path: Path | None = None) -> dict[str, WeightsEntry]:
    """The manifest's entries by name, in the file's order; `path` defaults to the one deepgsr came with.

    Raises:
        WeightsError: The file is missing, not JSON, or an entry has a wrong, missing or unknown field.
    """
    path = path or next((p for p in _MANIFESTS if p.is_file()), _MANIFESTS[0])
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: the manifest cannot be read ({error}); reinstall deepgsr") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA:
        raise WeightsError(f"{path}: not a manifest of schema {_SCHEMA}; reinstall deepgsr")
    if not isinstance(manifest.get("weights"), list):
        raise WeightsError(f"{path}: the manifest's weights are not a list; correct it or reinstall deepgsr")
    entries: dict[str, WeightsEntry] = {}
    defaults: dict[tuple[str, int], str] = {}
    for number, item in enumerate(manifest["weights"], 1):
        try:
            entry = _parse_entry(item)
            if entry.name in entries:
                raise ValueError("the name is there twice")
            other = defaults.setdefault((entry.task, entry.channels), entry.name) if entry.default else None
            if other not in (None, entry.name):
                raise ValueError(f"{other} is the default for {entry.task} with {entry.channels} channels")
        except ValueError as error:
            name = item.get("name") if isinstance(item, dict) else None
            raise WeightsError(
                f"{path}: entry {number} ({name}): {error}; correct it or reinstall deepgsr"
            ) from error
        entries[entry.name] = entry
    return entries


def default_name(task: str, channels: int, *, manifest: Mapping[str, WeightsEntry] | None = None) -> str:
    """Name of the entry the manifest marks as the default for `task` on images with `channels` channels.

    Raises:
        WeightsError: No entry is marked.
    """
    defaults = [entry for entry in entries_of(manifest).values() if entry.default]
    for entry in defaults:
        if (entry.task, entry.channels) == (task, channels):
            return entry.name
    known = ", ".join(f"{entry.task} with {entry.channels}" for entry in defaults) or "none"
    raise WeightsError(
        f"{task}: no default weights for {channels} channels, there are {known}; give --weights NAME or FILE"
    )


def _parse_entry(item: object) -> WeightsEntry:
    """Entry of the manifest; ValueError with a half sentence for what is wrong."""
    if not isinstance(item, dict):
        raise ValueError("not an object")
    known = fields(WeightsEntry)
    if unknown := item.keys() - {field.name for field in known}:
        raise ValueError(f"unknown {listing(unknown)}")
    if missing := {field.name for field in known if field.default is MISSING} - item.keys():
        raise ValueError(f"no {listing(missing)}")
    for key in ("name", "model", "task", "licence", "training_data", "description", "sha256"):
        _require(_is_text(item[key]), key, item[key], "some text")
    for key in ("channels", "bytes", "parameters"):
        _require(type(item[key]) is int and item[key] > 0, key, item[key], "a positive whole number")
    name, sha256 = item["name"], item["sha256"]
    _require(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name), "name", name, "of a-z, 0-9, dot, - and _ only")
    _require(re.fullmatch(r"[0-9a-f]{64}", sha256), "sha256", sha256, "64 hex digits in lower case")
    measured = item["measured"]
    _require(
        isinstance(measured, dict) and all(type(value) in (int, float, str) for value in measured.values()),
        "measured",
        measured,
        "an object of numbers and texts",
    )
    _require(type(item.get("default", False)) is bool, "default", item.get("default"), "true or false")
    file, hub = item.get("file"), item.get("hub")
    if (file is None) == (hub is None):
        raise ValueError("must have either file or hub")
    if hub is None:
        _require(_is_text(file) and _is_inside(str(file)), "file", file, "a path inside the bundled folder")
    else:
        keys = {field.name for field in fields(HubFile)}
        whole = isinstance(hub, dict) and hub.keys() == keys and all(map(_is_text, hub.values()))
        _require(whole, "hub", hub, "an object with repo, revision and file")
        hub = HubFile(**hub)
    return WeightsEntry(**{**item, "hub": hub})


def _require(right: object, key: str, value: object, what: str) -> None:
    if not right:
        raise ValueError(f"{key} is {value!r}, it must be {what}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:]", file)


def listing(names: set[str]) -> str:
    """Up to three names in order, and how many more."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + rest


def entries_of(manifest: Mapping[str, WeightsEntry] | None) -> Mapping[str, WeightsEntry]:
    return load_manifest() if manifest is None else manifest


def find_entry(name: str, entries: Mapping[str, WeightsEntry]) -> WeightsEntry:
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(entries) or 'none'}"
    raise WeightsError(
        f"{name}: neither a file nor weights by this name, {hint}; "
        "give a NAME of `deepgsr weights list`, a FILE, or hf://owner/repo/file"
    )
