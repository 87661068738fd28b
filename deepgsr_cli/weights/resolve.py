"""Weights by name: where each file is, and its checksum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepgsr_cli import files
from deepgsr_cli.errors import WeightsError
from deepgsr_cli.weights.checkpoint import unreadable
from deepgsr_cli.weights.hub import cached_file, download, parse_hub
from deepgsr_cli.weights.manifest import PACKAGE, WeightsEntry, entries_of, find_entry

_BUNDLED = PACKAGE / "bundled"


@dataclass(frozen=True)
class ResolvedWeights:
    """A weights file on this machine, its manifest entry where it has one, and its sha256."""

    path: Path
    entry: WeightsEntry | None
    sha256: str

    @property
    def label(self) -> str:
        """Name and the checksum's first 12 digits."""
        return f"{self.name}, sha256 {self.sha256[:12]}"

    @property
    def citation(self) -> str:
        """Name and the whole checksum."""
        return f"{self.name}, sha256 {self.sha256}"

    @property
    def name(self) -> str:
        """Name in the manifest, or of the file."""
        return self.entry.name if self.entry else self.path.name


@dataclass(frozen=True)
class WeightsStatus:
    """Where an entry's file is now (None: not on this machine), and whether it is what the manifest says."""

    entry: WeightsEntry
    source: Literal["bundled", "hub"]
    path: Path | None
    status: Literal["ok", "missing", "wrong checksum"]


def resolve(
    spec: str | os.PathLike[str],
    *,
    offline: bool = False,
    cache_dir: Path | None = None,
    manifest: Mapping[str, WeightsEntry] | None = None,
) -> ResolvedWeights:
    """Weights file that `spec` names, fetched where it is not on this machine yet.

    A file of that path comes first, then the manifest's bundled file, the hub cache, and last the network:
    what is cached is used without asking the hub, a branch given as revision included. HF_HUB_OFFLINE,
    HF_HOME, HF_ENDPOINT and HF_TOKEN mean what huggingface_hub says.

    Args:
        spec: FILE, a NAME of the manifest, or hf://owner/repo[@revision]/file, the revision URL-quoted
            where it has a slash.
        offline: Do not use the network, as HF_HUB_OFFLINE=1 does.
        cache_dir: The hub cache; its usual place by default.
        manifest: Entries to look names up in; deepgsr's own by default.

    Returns:
        The file; of a manifest entry only after its size and sha256 agree.

    Raises:
        WeightsError: Unknown, not there and not to be fetched, or not what the manifest says. A download
            that is not what the manifest says is removed from the cache.
    """
    if os.path.isfile(spec):
        return ResolvedWeights(Path(spec), None, _sha256(Path(spec)))
    return _resolve_listed(os.fspath(spec), offline, cache_dir, manifest)


def pull(
    spec: str, *, cache_dir: Path | None = None, manifest: Mapping[str, WeightsEntry] | None = None
) -> Path:
    """Path of the file of NAME or hf://owner/repo[@revision]/file, fetched if need be and checked.

    Raises:
        WeightsError: As `resolve`; a FILE is no name here.
    """
    return _resolve_listed(spec, False, cache_dir, manifest).path


def verify(
    name: str, *, cache_dir: Path | None = None, manifest: Mapping[str, WeightsEntry] | None = None
) -> WeightsStatus:
    """Where the file of the entry `name` is and whether its size and sha256 are the manifest's; no network.

    Raises:
        WeightsError: No such name, or a file that cannot be read.
    """
    entry = find_entry(name, entries_of(manifest))
    path = _locate(entry, cache_dir)
    status: Literal["ok", "missing", "wrong checksum"] = "missing"
    if path is not None:
        status = "wrong checksum" if _difference(entry, path, _sha256(path)) else "ok"
    return WeightsStatus(entry, "hub" if entry.hub else "bundled", path, status)


def list_weights(
    *, cache_dir: Path | None = None, manifest: Mapping[str, WeightsEntry] | None = None
) -> list[WeightsStatus]:
    """`verify` of every entry, in the manifest's order."""
    entries = entries_of(manifest)
    return [verify(name, cache_dir=cache_dir, manifest=entries) for name in entries]


def _resolve_listed(
    spec: str, offline: bool, cache_dir: Path | None, manifest: Mapping[str, WeightsEntry] | None
) -> ResolvedWeights:
    entry = None if spec.startswith("hf://") else find_entry(spec, entries_of(manifest))
    hub = entry.hub if entry else parse_hub(spec)
    if hub is None:
        assert entry is not None
        assert entry.file is not None
        path = _BUNDLED / entry.file
        remedy = "reinstall deepgsr"
    else:
        cached = cached_file(hub, cache_dir)
        path = cached or download(spec, hub, offline, cache_dir)
        # The cache has links to its files, and a link made anew would find the damaged file again.
        remedy = f"delete {path.resolve()} and run `deepgsr weights pull {spec}`"
    sha256 = _sha256(path)
    if entry and (difference := _difference(entry, path, sha256)):
        if hub and not cached:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            remedy = f"the download was removed, update deepgsr or run `deepgsr weights pull {spec}` again"
        raise WeightsError(f"{spec}: {difference}; {remedy}")
    return ResolvedWeights(path, entry, sha256)


def _locate(entry: WeightsEntry, cache_dir: Path | None) -> Path | None:
    """The entry's file where it is on this machine."""
    if entry.hub:
        return cached_file(entry.hub, cache_dir)
    assert entry.file is not None
    path = _BUNDLED / entry.file
    return path if path.is_file() else None


def _difference(entry: WeightsEntry, path: Path, sha256: str) -> str | None:
    """What the file has and the manifest says, where they differ."""
    if sha256 != entry.sha256:
        return f"sha256 is {sha256[:8]}…, the manifest says {entry.sha256[:8]}…"
    size = path.stat().st_size
    return f"size is {size} bytes, the manifest says {entry.bytes}" if size != entry.bytes else None


def _sha256(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as error:
        raise unreadable(path, error) from error
