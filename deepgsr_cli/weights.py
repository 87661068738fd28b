"""Weights by name: the manifest, where each file is, its checksum, and checkpoints in and out."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from deepgsr_cli.errors import WeightsError
from deepgsr_cli.files import atomic_write

if TYPE_CHECKING:
    import torch
    from torch import nn

_SCHEMA = 1
_FORMAT = "deepgsr-1"
_PACKAGE = Path(__file__).parent
_BUNDLED = _PACKAGE / "bundled"
# A wheel has the manifest inside the package, a checkout beside it.
_MANIFESTS = (_PACKAGE / "weights_manifest.json", _PACKAGE.parent / "weights_manifest.json")


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


@dataclass(frozen=True)
class ResolvedWeights:
    """A weights file on this machine, its manifest entry where it has one, and its sha256."""

    path: Path
    entry: WeightsEntry | None
    sha256: str

    @property
    def label(self) -> str:
        """Name and the checksum's first 12 digits."""
        return f"{self.entry.name if self.entry else self.path.name}, sha256 {self.sha256[:12]}"


@dataclass(frozen=True)
class WeightsStatus:
    """Where an entry's file is now (None: not on this machine), and whether it is what the manifest says."""

    entry: WeightsEntry
    source: Literal["bundled", "hub"]
    path: Path | None
    status: Literal["ok", "missing", "wrong checksum"]


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode, what its file says about it, and the file's sha256."""

    model: nn.Module
    info: dict[str, str]
    sha256: str


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
    defaults = [entry for entry in _entries(manifest).values() if entry.default]
    for entry in defaults:
        if (entry.task, entry.channels) == (task, channels):
            return entry.name
    known = ", ".join(f"{entry.task} with {entry.channels}" for entry in defaults) or "none"
    raise WeightsError(
        f"{task}: no default weights for {channels} channels, there are {known}; give --weights NAME or FILE"
    )


def resolve(
    spec: str,
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
    return _resolve_listed(spec, offline, cache_dir, manifest)


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
    entry = _find(name, _entries(manifest))
    path = _locate(entry, cache_dir)
    status: Literal["ok", "missing", "wrong checksum"] = "missing"
    if path is not None:
        status = "wrong checksum" if _difference(entry, path, _sha256(path)) else "ok"
    return WeightsStatus(entry, "hub" if entry.hub else "bundled", path, status)


def list_weights(
    *, cache_dir: Path | None = None, manifest: Mapping[str, WeightsEntry] | None = None
) -> list[WeightsStatus]:
    """`verify` of every entry, in the manifest's order."""
    entries = _entries(manifest)
    return [verify(name, cache_dir=cache_dir, manifest=entries) for name in entries]


def save_checkpoint(path: Path, model: nn.Module, *, info: Mapping[str, str]) -> None:
    """Write a model as safetensors with its `config_dict()` and `info` in the header.

    The same weights, configuration and info give the same bytes, whatever device and memory format the
    model is in.

    Args:
        path: The file, replaced as a whole if it exists.
        model: One that `deepgsr_cli.models.build` makes from its `config_dict()`.
        info: What to know about the weights (task, training protocol, version); not "format" or "config".

    Raises:
        OutputError: The file cannot be written.
    """
    from safetensors.torch import save

    assert not info.keys() & {"format", "config"}
    config = json.dumps(model.config_dict(), sort_keys=True)  # type: ignore[operator]
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    data = save(tensors, {**info, "format": _FORMAT, "config": config})
    # safetensors writes its header's metadata in random order. Sorted, and filled up to the alignment of
    # 8 bytes with spaces as it does, the same content is the same file.
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Model, in evaluation mode on `device`, from a file that `save_checkpoint` wrote.

    The whole file is read once, so the sha256 returned is that of the weights in use. Tensors of another
    floating point type are converted to the model's.

    Raises:
        WeightsError: Not readable, not safetensors, no deepgsr header, a configuration no model has, or
            tensors that are not exactly the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from deepgsr_cli.models import build

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if data.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise WeightsError(
            f"{path}: a PyTorch pickle, which could run any code when loaded; give a .safetensors checkpoint"
        )
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type torch does not have
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); give a deepgsr checkpoint"
        ) from error
    # safetensors has checked the header by now, but hands out its metadata only by path.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    info = header.get("__metadata__", {})
    form = info.pop("format", None)
    if form != _FORMAT:
        if str(form).startswith("deepgsr-"):
            raise WeightsError(f"{path}: its format is {form}, this deepgsr reads {_FORMAT}; update deepgsr")
        raise WeightsError(
            f"{path}: a safetensors file without a deepgsr header; give one that deepgsr train wrote"
        )
    try:
        model = build(json.loads(info.pop("config", "null")) or {})
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: no model has its configuration ({_first_line(error)}); give another file"
        ) from error
    if difference := _tensor_difference(model.state_dict(), tensors):
        raise WeightsError(f"{path}: {difference}; the file is damaged or of another version, give another")
    model.load_state_dict(tensors)
    return Checkpoint(model.to(device).eval(), info, hashlib.sha256(data).hexdigest())


def _parse_entry(item: object) -> WeightsEntry:
    """Entry of the manifest; ValueError with a half sentence for what is wrong."""
    if not isinstance(item, dict):
        raise ValueError("not an object")
    known = fields(WeightsEntry)
    if unknown := item.keys() - {field.name for field in known}:
        raise ValueError(f"unknown {_listing(unknown)}")
    if missing := {field.name for field in known if field.default is MISSING} - item.keys():
        raise ValueError(f"no {_listing(missing)}")
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


def _listing(names: set[str]) -> str:
    """Up to three names in order, and how many more."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + rest


def _entries(manifest: Mapping[str, WeightsEntry] | None) -> Mapping[str, WeightsEntry]:
    return load_manifest() if manifest is None else manifest


def _find(name: str, entries: Mapping[str, WeightsEntry]) -> WeightsEntry:
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(entries) or 'none'}"
    raise WeightsError(
        f"{name}: neither a file nor weights by this name, {hint}; "
        "give a NAME of `deepgsr weights list`, a FILE, or hf://owner/repo/file"
    )


def _parse_hub(spec: str) -> HubFile:
    parts = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", spec)
    if parts is None:
        raise WeightsError(f"{spec}: not an address on the hub; give hf://owner/repo[@revision]/file")
    repo, revision, file = parts.groups()
    return HubFile(repo, unquote(revision or "main"), file)


def _resolve_listed(
    spec: str, offline: bool, cache_dir: Path | None, manifest: Mapping[str, WeightsEntry] | None
) -> ResolvedWeights:
    entry = None if spec.startswith("hf://") else _find(spec, _entries(manifest))
    hub = entry.hub if entry else _parse_hub(spec)
    if hub is None:
        assert entry is not None
        assert entry.file is not None
        path = _BUNDLED / entry.file
        remedy = "reinstall deepgsr"
    else:
        cached = _cached(hub, cache_dir)
        path = cached or _download(spec, hub, offline, cache_dir)
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
        return _cached(entry.hub, cache_dir)
    assert entry.file is not None
    path = _BUNDLED / entry.file
    return path if path.is_file() else None


def _cached(hub: HubFile, cache_dir: Path | None) -> Path | None:
    """The file in the hub cache, found without the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub.repo, hub.file, cache_dir=cache_dir, revision=hub.revision)
    except HFValidationError as error:
        raise WeightsError(f"{hub.repo}: no repository has this name; give owner/name") from error
    return (
        Path(found) if isinstance(found, str) else None
    )  # else None, or a mark that the hub has no such file


def _download(label: str, hub: HubFile, offline: bool, cache_dir: Path | None) -> Path:
    """The file in the hub cache after fetching it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        if offline:
            raise OfflineModeIsEnabled
        # Asked first, once: without a network the download itself would retry for half a minute.
        get_hf_file_metadata(hf_hub_url(hub.repo, hub.file, revision=hub.revision))
        return Path(hf_hub_download(hub.repo, hub.file, revision=hub.revision, cache_dir=cache_dir))
    except Exception as error:  # each version of huggingface_hub has another HTTP library's errors
        reason, remedy = _hub_trouble(hub, error)
        remedy = remedy or f"run `deepgsr weights pull {label}` when online"
        raise WeightsError(
            f"{label}: cannot be fetched from {hub.repo}, {reason}; {remedy}, or give --weights FILE"
        ) from error


def _hub_trouble(hub: HubFile, error: Exception) -> tuple[str, str | None]:
    """What went wrong, in a few words, and what to do about it where waiting does not help."""
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on and it is not in the cache", None
    if isinstance(error, errors.GatedRepoError):
        return (
            "its owner asks for consent first",
            f"accept the terms at the hub's page of {hub.repo}, set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository or it is private", "check the name and HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {hub.revision}", "check the revision"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"revision {hub.revision} has no file {hub.file}", "check the name"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered {error.response.status_code}", None
    return f"the download failed ({_first_line(cause or error)})", None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _difference(entry: WeightsEntry, path: Path, sha256: str) -> str | None:
    """What the file has and the manifest says, where they differ."""
    if sha256 != entry.sha256:
        return f"sha256 is {sha256[:8]}…, the manifest says {entry.sha256[:8]}…"
    size = path.stat().st_size
    return f"size is {size} bytes, the manifest says {entry.bytes}" if size != entry.bytes else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be read ({error.strerror}); give another weights file")


def _tensor_difference(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str | None:
    """How the tensors found are not the model's, in a few words."""
    if missing := wanted.keys() - found.keys():
        return f"it lacks {_listing(missing)}"
    if extra := found.keys() - wanted.keys():
        return f"it has {_listing(extra)}, which the model has not"
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, the model's has {tuple(wanted[name].shape)}"
    return None
